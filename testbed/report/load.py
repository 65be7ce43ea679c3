"""What a report shows, read from a run folder of which anything may be missing or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import ValidationError

from testbed.analysis.network_history import History
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir, read_json
from testbed.runfolder.status import Status, read_status
from testbed.runfolder.summary import Summary, read_summary

ROW_KEYS = {
    "collectives": {"op", "bytes", "ranks", "dtype", "time_us", "algbw_gbytes", "busbw_gbytes"},
    "wan": {"from", "to", "bytes", "rate_bps", "mean_utilisation"},
    "fidelity": {"from", "to"},
    "transfers": {"at_s", "from", "to", "bytes", "received", "seconds", "bps"},
    "periods": {"at_s", "what", "seconds", "unit", "per_s"},
    "stages": {"stage", "wall_seconds", "emulated_seconds"},
}
OPS = ("op", "bytes", "group_size", "iteration", "phase", "rank", "start_ns", "end_ns")
LINKS = ("time_ns", "source", "target", "link", "bytes", "drops", "backlog_bytes")
STEPS = ("step", "rank", "start_ns", "end_ns", "compute_ns", "loss")
FLOWS = ("link", "from_dc", "to_dc", "src_host", "dst_host", "payload_bytes")


@dataclass
class Content:
    """What could be read of a run folder; `missing` says what could not."""

    name: str
    plan: Plan | None = None
    status: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    ops: pl.DataFrame | None = None
    links: pl.DataFrame | None = None
    train: pl.DataFrame | None = None  # only of a run that trained
    flows: pl.DataFrame | None = None  # only of a run with captures
    spec: str = ""
    history: History | None = None  # of the network; None without a plan
    missing: list[str] = field(default_factory=list)
    outcome: Status | None = None  # the same as `status`, typed
    results: Summary = field(default_factory=Summary)  # the same as `summary`, typed

    @property
    def origin_ns(self) -> int:
        """Unix time of the first operation, step or sample of a link: where the figures' time
        begins.
        """
        tables = [
            table for table in (self.ops, self.train) if table is not None and not table.is_empty()
        ]
        if tables:
            return int(min(min(table["start_ns"]) for table in tables))
        return 0 if self.links is None or self.links.is_empty() else int(min(self.links["time_ns"]))


def load(run: RunDir) -> Content:
    """Everything of `run` that a report shows."""
    content = Content(run.path.name)
    missing = content.missing
    content.outcome, _problems = read_status(run.status)
    content.results, _problems = read_summary(run.summary)
    content.status = _sound_status(read_json(run.status, missing), missing)
    summary = read_json(run.summary, missing)
    if content.status.get("stages"):  # with the wall time, which the guest does not know
        summary["stages"] = content.status["stages"]
    content.summary = _sound_summary(summary, missing)
    try:
        content.plan = run.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        missing.append(f"plan.json cannot be read ({type(error).__name__})")
    if content.plan is not None:
        content.history = History.of(content.plan, run)
    content.ops = read_table(run.ops, OPS, missing)
    content.links = read_table(run.links, LINKS, missing)
    if run.train.is_file():
        content.train = read_table(run.train, STEPS, missing)
    if run.flows.is_file():
        content.flows = read_table(run.flows, FLOWS, missing)
    content.spec = _read_spec(run.spec, missing)
    missing += [str(problem) for problem in content.results.problems]
    return content


def _read_spec(path: Path, missing: list[str]) -> str:
    """The text of spec.yaml, damaged or not: two documents, of the topology and of the workload."""
    try:
        text = path.read_text(errors="replace")
        if len(list(yaml.safe_load_all(text))) < 2:
            missing.append("spec.yaml is cut short" if text else "spec.yaml is empty")
    except OSError as error:
        missing.append(f"spec.yaml cannot be read ({type(error).__name__})")
        return ""
    except yaml.YAMLError:
        missing.append("spec.yaml is damaged")
    return text


def read_table(path: Path, columns: Sequence[str], missing: list[str]) -> pl.DataFrame | None:
    """The table in `path`; None, with a line in `missing`, if it cannot be read or lacks one of
    `columns`.
    """
    try:
        table = pl.read_parquet(path)
        table.select(columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        missing.append(f"{path.name} cannot be read ({type(error).__name__})")
        return None
    return table


def _sound_status(status: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """`status` with warnings as a list of texts."""
    warnings = status.get("warnings") or []
    if not isinstance(warnings, list):
        missing.append("status.json: its warnings are damaged and left out")
        warnings = []
    return (
        {**status, "warnings": [_warning_text(warning) for warning in warnings]} if status else {}
    )


def _sound_summary(summary: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """`summary` without the rows of its tables that lack a key."""
    sound = dict(summary)
    for table, keys in ROW_KEYS.items():
        rows = summary.get(table) or []
        rows = rows if isinstance(rows, list) else [rows]
        good = [
            row
            for row in rows
            if isinstance(row, dict) and keys <= row.keys() and _whole_times(row)
        ]
        if len(good) < len(rows):
            missing.append(
                f"summary.json: {len(rows) - len(good)} rows of {table!r} are damaged and left out"
            )
        sound[table] = good
    return sound


def _whole_times(row: dict[str, Any]) -> bool:
    times = row.get("time_us")
    return times is None or (isinstance(times, dict) and times.keys() >= {"min", "median", "max"})


def _warning_text(warning: object) -> str:
    """Give the text of a warning, which format 3 has as an object with a code and a message."""
    return str(warning["message"] if isinstance(warning, dict) else warning)
