"""The files of a run folder: every name and record schema, and the rule that a run never overwrites
another.

Files for people and for analysis are listed in `RunDir`. Below ``raw/`` lie the records as they
were written during the run, one JSON object a line; they survive a lost guest, and
`testbed.analysis.summarize` makes the tables from them.

Columns of ops.parquet (a row per collective and rank): op, bytes (int64), group_size (int32),
iteration (int32), phase (``warmup`` | ``measure``; ``train`` | ``script`` where all that
torch.distributed does is recorded), rank (int32), host, dc, start_ns, end_ns (int64, Unix time on
the run's clock), dtype, wrong (int64: elements with a wrong value, -1 where not checked). In
``train`` and ``script``, a send and a receive are rows of their own, and iteration is the number of
the operation in its process group.

Columns of links.parquet (samples per WAN link direction): time_ns, source, target, link, bytes,
packets, drops, backlog_bytes (int64; cumulative counters since the link was built, except
backlog_bytes).

Tables made from packet captures are flows.parquet, throughput.parquet and flow_ops.parquet;
docs/captures.md has their columns, `testbed.analysis.capture_tables` their types.

Columns of train.parquet (a row per step of training and rank): step, rank (int32), host, dc,
start_ns, end_ns, compute_ns (int64; modelled computation), late_ns (int64; computation that took
longer than modelled), loss (float64, null where the rank computes none), tokens (int64),
computed_ns (list of int64: begin and end, in turn, of each stretch of modelled computation; null if
it was not recorded).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError
from testbed.plan.model import Plan
from testbed.runfolder.files import open_plain, read_plain, replace_text


@dataclass(frozen=True)
class RunDir:
    """Paths of one run. `create` makes a new folder, `open` checks an existing one."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunDir:
        """Make `path`, which must not exist (or must be an empty folder).

        Raises:
            InputError: it exists and holds something, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise InputError(
                    f"the run folder {path} exists already and a run never overwrites another",
                    remedy="name another one with --out, or remove it",
                )
            run = cls(path.resolve())
            run.raw.mkdir()
            run.logs.mkdir()
            run.captures.mkdir()
        except OSError as error:
            raise InputError(
                f"cannot make the run folder {path}: {error.strerror}",
                remedy="choose another with --out",
            ) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run folder, which may come from a stranger.

        Raises:
            InputError: `path` is not a run folder, or has something in it that is no plain file.
        """
        run = cls(path.resolve())
        if not run.plan.is_file():
            raise InputError(f"{path} is not a run folder: it has no {run.plan.name}")
        for entry, what in run.not_plain():
            remedy = f"remove it if you know what it is: rm {entry}"
            raise InputError(f"{entry} is {what}; a run folder has plain files only", remedy=remedy)
        return run

    def not_plain(self) -> Iterator[tuple[Path, str]]:
        """What is neither a plain file nor a folder, and what it is; symbolic links are all right
        in ``work``.
        """
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        work = self.work(None)
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                path = Path(folder, name)
                mode = path.lstat().st_mode
                plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
                if not plain and not (
                    stat.S_ISLNK(mode) and path.is_relative_to(work) and path != work
                ):
                    yield path, kinds.get(stat.S_IFMT(mode), "a device")

    def settle(self) -> list[str]:
        """Remove what a guest may have put here that this machine's programs must not follow or
        open: links, FIFOs, devices; and take from files the right to run as their owner. What was
        removed, in words."""
        removed = []
        for path, what in self.not_plain():
            path.unlink()
            removed.append(f"{path.relative_to(self.path)} was {what}, and was removed")
        for folder, _folders, files in os.walk(self.path):
            for name in files:
                path = Path(folder, name)
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                    path.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))
        return removed

    @property
    def spec(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def ops(self) -> Path:
        return self.path / "ops.parquet"

    @property
    def links(self) -> Path:
        return self.path / "links.parquet"

    @property
    def train(self) -> Path:
        return self.path / "train.parquet"

    @property
    def flows(self) -> Path:
        return self.path / "flows.parquet"

    @property
    def throughput(self) -> Path:
        return self.path / "throughput.parquet"

    @property
    def flow_ops(self) -> Path:
        return self.path / "flow_ops.parquet"

    @property
    def trace(self) -> Path:
        return self.path / "trace.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def captures(self) -> Path:
        return self.path / "captures"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def console(self) -> Path:
        return self.logs / "guest-console.log"

    @property
    def raw(self) -> Path:
        return self.path / "raw"

    @property
    def events(self) -> Path:
        """Stages as they begin and end: {"stage", "state": "begin|end", "time_ns", "wall_s"}; ends
        with the outcome.

        In between: state "first", when rank 0 began its first operation or step, and "total", how
        many there will be.
        """
        return self.raw / "events.jsonl"

    @property
    def link_samples(self) -> Path:
        """A row of links.parquet a line."""
        return self.raw / "links.jsonl"

    @property
    def changes(self) -> Path:
        """The changes of the network that happened: {"number" in the plan, "due_ns", "time_ns" when
        it was done}.
        """
        return self.raw / "changes.jsonl"

    @property
    def transfers(self) -> Path:
        """Transfers that have ended, or were ended with the run.

        Each has "source", "target" (hosts), "bytes", "connections", "received" (bytes), "start_ns"
        and "end_ns", and "error" if a connection failed.
        """
        return self.raw / "transfers.jsonl"

    @property
    def fidelity(self) -> Path:
        """What `network.verify` measured before the run: a JSON list (see summary.json
        `fidelity`).
        """
        return self.raw / "fidelity.json"

    @property
    def strain(self) -> Path:
        """On the real clock: signs that the kernel could not keep up (see `measure.strain`), and
        "fibre_drops".
        """
        return self.raw / "strain.json"

    @property
    def rank_exits(self) -> Path:
        """Each rank that has ended: {"rank", "status"}; a negative status is the number of the
        signal.
        """
        return self.raw / "exits.jsonl"

    @property
    def rank_starts(self) -> Path:
        """What each rank finds around it: {"rank", "host", "interfaces", "capabilities",
        "no_new_privileges"}.
        """
        return self.raw / "ranks.jsonl"

    def work(self, host: str | None) -> Path:
        """The working folder of a user's script on `host` (None: of all hosts): what it writes
        there stays.
        """
        return self.path / "work" / (host or "")

    @property
    def containers(self) -> Path:
        """Each host's container as Docker describes it: {host: {"Id", "Image", ..., limits and
        rights}}.
        """
        return self.logs / "containers.json"

    @property
    def clock(self) -> Path:
        """Written by the guest kernel: its virtual time and the process that runs."""
        return self.raw / "clock"

    def rank_ops(self, rank: int) -> Path:
        """The rows of ops.parquet that `rank` has produced so far, without rank, host and dc."""
        return self.raw / f"ops-{rank}.jsonl"

    def rank_train(self, rank: int) -> Path:
        """The rows of train.parquet that `rank` has produced so far, without rank, host and dc."""
        return self.raw / f"train-{rank}.jsonl"

    def rank_log(self, rank: int) -> Path:
        """What `rank` printed."""
        return self.logs / f"rank-{rank}.log"

    def capture(self, what: str, at: str) -> Path:
        """Packets of WAN link `what` as seen at the router of datacenter `at` (see
        `CapturePoint`).
        """
        return self.captures / f"{what}@{at}.pcapng".replace("/", "_")

    def began_ns(self) -> int | None:
        """When rank 0's first operation or step began, from which on the network's changes count;
        None: none did.
        """
        firsts = (
            event
            for event in read_records(self.events)
            if isinstance(event, dict) and event.get("state") == "first"
        )
        return next(
            (event["time_ns"] for event in firsts if isinstance(event.get("time_ns"), int)), None
        )

    def read_plan(self) -> Plan:
        """What is to be done, or was done."""
        return Plan.model_validate_json(self.plan.read_text())

    def write_json(self, path: Path, value: Any) -> None:
        """Write `value` so that a reader sees the old file or the whole new one."""
        replace_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path, missing: list[str]) -> dict[str, Any]:
    """The JSON object in `path`; empty, with a line in `missing`, if it cannot be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        missing.append(f"{path.name} cannot be read ({type(error).__name__})")
        return {}
    if not isinstance(value, dict):
        missing.append(f"{path.name} is not an object of JSON")
        return {}
    return value


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON line to `path`; a single write, so that a killed writer leaves at most one
    broken last line.
    """
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of `path`; none if it does not exist. A broken last line (its writer was
    killed) is left out.
    """
    try:
        text = read_plain(path)
    except FileNotFoundError:
        return []
    records = []
    for line in text.splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class RecordFollower:
    """Reads a growing file of JSON lines, each whole line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """The lines that were completed since the last call; none while there is no file."""
        try:
            file = open_plain(self._path)
        except OSError:
            return []
        with file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [record for line in whole.splitlines() if (record := _record(line)) is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
