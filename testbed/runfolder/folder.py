"""Names of a run folder's files, and protection of existing runs against overwriting.

``raw/`` holds the records written during the run (`testbed.runfolder.records`); the records survive
a lost guest, and `testbed.analysis` turns the records into the tables
(`testbed.runfolder.schemas`) and the summary (`testbed.runfolder.summary`).
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from testbed.core.errors import InputError, Place
from testbed.core.full_disk import is_disk_full, write_failure
from testbed.core.paths import why_not_shared
from testbed.plan.model import FORMAT, Plan
from testbed.runfolder import records
from testbed.runfolder.files import read_plain, replace_text
from testbed.runfolder.harmless import harmful_entries, settle
from testbed.runfolder.status import release_room


def below_run(path: str) -> str:
    """Return a path relative to a run folder as seen from the folder of one of its jobs."""
    return f"../../{path}" if path else ""


@dataclass(frozen=True)
class RunDir:
    """Paths of one run; `create` makes a new folder, `open` checks an existing folder."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunDir:
        """Create `path`, which must be missing or an empty folder.

        Raises:
            InputError: the path exists and is not an empty folder, cannot be created, or has a name
                that hosts cannot use.
        """
        reason = why_not_shared(path.resolve())
        if reason:
            raise InputError(reason, place=Place("--out"), remedy="choose another run folder")

        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise InputError(
                    f"the run folder {path} already exists",
                    remedy="choose another folder with --out, or remove it",
                )
            run = cls(path.resolve())
            run.raw.mkdir()
            run.logs.mkdir()
            run.captures.mkdir()
        except OSError as error:
            what = f"cannot make the run folder {path}"
            remedy = "choose another with --out"
            if is_disk_full(error):
                raise write_failure(error, what, remedy) from error
            raise InputError(f"{what}: {error.strerror}", remedy=remedy) from error
        return run

    @classmethod
    def create_unused(cls, path: Path) -> RunDir:
        """Create `path`, or if it exists, a folder with a number after its name.

        Raises:
            InputError: the folder cannot be created.
        """
        candidate = path
        for number in count(2):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                candidate.mkdir()
                break
            except FileExistsError:
                candidate = path.with_name(f"{path.name}-{number}")
            except OSError:  # `create` reports the error
                break
        return cls.create(candidate)

    def empty(self) -> None:
        """Remove what a run that could not begin has written, so that the folder can be reused."""
        with suppress(OSError):
            release_room(self.status)
            for file in (self.status, self.spec):
                file.unlink(missing_ok=True)
            for folder in (self.raw, self.logs, self.captures):
                folder.rmdir()

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open an existing run folder, whose content is untrusted.

        Raises:
            InputError: `path` is not a run folder, or holds an entry that is not a plain file or
                cannot be examined, or has a format newer than the formats that this version knows.
        """
        run = cls(path.resolve())
        if not run.plan.is_file():
            raise InputError(f"{path} is not a run folder: no {run.plan.name}")
        _refuse_harmful(run)
        found = _format_of(run.plan)
        if found is not None and found > FORMAT:
            raise InputError(
                f"{path} has run folder format {found}, but this version of testbed reads "
                f"formats up to {FORMAT}",
                remedy="install the version of testbed that wrote the folder, or a newer one",
            )
        return run

    def settle(self) -> list[str]:
        """Make entries written by a host harmless for programs on this machine.

        Returns:
            A description of each removed entry.

        Raises:
            OSError: an entry cannot be examined or changed; all others are harmless.
        """
        return settle(self.path, self._work_folders())

    def _work_folders(self) -> list[Path]:
        """Return the folders to which scripts write: of the run, its jobs, and these alone."""
        of_jobs = [*self.path.glob("jobs/*/work"), *self.path.glob("alone/*/work")]
        return [self.work(None), *of_jobs]

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
    def gpu(self) -> Path:
        return self.path / "gpu.parquet"

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
    def stacks(self) -> Path:
        """What each rank was doing when the run stood still (`testbed.runfolder.stacks`)."""
        return self.logs / "stacks.txt"

    @property
    def stacks_wanted(self) -> Path:
        """Exists once the stacks of the ranks are wanted; written from outside."""
        return self.raw / "stacks-wanted"

    @property
    def raw(self) -> Path:
        return self.path / "raw"

    @property
    def events(self) -> Path:
        """Start and end of each stage, with the outcome last (`records.Event`)."""
        return self.raw / "events.jsonl"

    @property
    def link_samples(self) -> Path:
        """Samples of each direction of each WAN link (`records.LinkSample`)."""
        return self.raw / "links.jsonl"

    @property
    def changes(self) -> Path:
        """The changes of the network that happened (`records.NetworkChange`)."""
        return self.raw / "changes.jsonl"

    @property
    def transfers(self) -> Path:
        """Transfers that ended by themselves or with the run (`records.TransferEnded`)."""
        return self.raw / "transfers.jsonl"

    @property
    def fidelity(self) -> Path:
        """RTTs measured before the run: a list of `records.RoundTripRow`."""
        return self.raw / "fidelity.json"

    @property
    def strain(self) -> Path:
        """On the real clock: signs of an overloaded kernel (`records.ClockHealth`)."""
        return self.raw / "strain.json"

    @property
    def memory_shortage(self) -> Path:
        """Hosts whose packets found no memory (`records.MemoryShortage`); missing without any."""
        return self.raw / "memory-shortage.json"

    @property
    def rank_exits(self) -> Path:
        """Exit of each rank (`records.RankExit`)."""
        return self.raw / "exits.jsonl"

    @property
    def rank_starts(self) -> Path:
        """Environment of each rank at its start (`records.RankStarted`)."""
        return self.raw / "ranks.jsonl"

    @property
    def guests(self) -> Path:
        """During a run in several guests: a folder of each guest, laid out like a run folder."""
        return self.path / "guests"

    @property
    def common(self) -> Path:
        """During a run with modelled GPUs in several guests: what their ranks exchange."""
        return self.guests / "common"

    @property
    def guest_work(self) -> Path:
        """Work and waiting of each of several guests (`records.GuestWork`)."""
        return self.raw / "guests.jsonl"

    def work(self, host: str | None) -> Path:
        """Return a script's working folder on a host (None: of all hosts), kept after the run."""
        return self.path / "work" / (host or "")

    @property
    def containers(self) -> Path:
        """Docker's description of each host's container, by the host's name."""
        return self.logs / "containers.json"

    @property
    def clock(self) -> Path:
        """Virtual time and the running process, as the guest kernel reports them."""
        return self.raw / "clock"

    @property
    def jobs(self) -> Path:
        """Of a run with several jobs: a folder of each job, laid out like a run folder."""
        return self.path / "jobs"

    def job(self, name: str) -> RunDir:
        """Return the folder of one of several jobs."""
        return RunDir(self.jobs / name)

    def alone(self, name: str) -> RunDir:
        """Return the run folder of one of several jobs that has run alone."""
        return RunDir(self.path / "alone" / name)

    def of_rank(self, plan: Plan, rank: int) -> tuple[RunDir, int]:
        """Return the folder with a rank's files, and the number of the rank in their names.

        Args:
            plan: the plan of the run.
            rank: number of the rank among those of all jobs.
        """
        job = plan.job_of(rank)
        if job is None:
            return self, rank
        return self.job(job.name), rank - job.first

    def rank_ops(self, rank: int) -> Path:
        """Return the path of a rank's recorded operations (`records.Operation`)."""
        return self.raw / f"ops-{rank}.jsonl"

    def rank_train(self, rank: int) -> Path:
        """Return the path of a rank's recorded training steps (`records.TrainingStep`)."""
        return self.raw / f"train-{rank}.jsonl"

    def rank_gpu(self, rank: int) -> Path:
        """Return the path of a rank's records of modelled GPUs (`records.GpuRecord`)."""
        return self.raw / f"gpu-{rank}.jsonl"

    def rank_log(self, rank: int) -> Path:
        """Return the path of a rank's output."""
        return self.logs / f"rank-{rank}.log"

    def capture(self, what: str, at: str) -> Path:
        """Return the path of the capture of a WAN link (or lan, nic) at a datacenter or host."""
        return self.captures / f"{what}@{at}.pcapng".replace("/", "_")

    def began_ns(self) -> int | None:
        """Return the start of rank 0's first operation or step, from which events count.

        Returns:
            Unix ns on the run's clock, or None if no operation began.
        """
        events, _problems = records.read(self.events, records.EVENT)
        for event in events:
            if isinstance(event, records.FirstOperation):
                return event.time_ns
        return None

    def read_plan(self) -> Plan:
        """Read the plan of the run.

        Raises:
            OSError: the file cannot be read.
            ValidationError: the file is damaged.
        """
        return Plan.model_validate_json(read_plain(self.plan))

    def make_jobs(self, plan: Plan) -> None:
        """Make the folder of each of several jobs, with the plan of the job.

        Raises:
            OSError: a folder or a file cannot be written.
        """
        for job in plan.jobs:
            folder = self.job(job.name)
            for path in (folder.raw, folder.logs, folder.captures):
                path.mkdir(parents=True, exist_ok=True)
            folder.write_plan(plan.for_job(job))

    def write_plan(self, plan: Plan) -> None:
        """Write the plan of the run.

        Raises:
            OSError: the file cannot be written.
        """
        replace_text(self.plan, plan.model_dump_json(indent=1) + "\n")


def _refuse_harmful(run: RunDir) -> None:
    """Refuse a run folder with entries that are not plain files, or that cannot be examined.

    Raises:
        InputError: there is such an entry.
    """
    try:
        for entry, what in harmful_entries(run.path, run._work_folders()):
            remedy = f"if you know the file, remove it: rm {entry}"
            raise InputError(
                f"{entry} is {what}, but a run folder holds only plain files", remedy=remedy
            )
    except OSError as error:
        raise InputError(
            f"cannot examine {error.filename}: {error.strerror}",
            remedy="if the folder is yours, chmod -R u+rwX lets you look into it",
        ) from error


def _format_of(plan: Path) -> int | None:
    """Return the format number of a run folder from plan.json, or None if damaged."""
    try:
        document = json.loads(read_plain(plan))
    except (OSError, ValueError, RecursionError):
        return None
    number = document.get("format") if isinstance(document, dict) else None
    return number if isinstance(number, int) else None
