"""Compare runs: differences between their plans, and between their measured figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from testbed.core.units import format_cell, format_size, format_time
from testbed.report.grid import NONE, Grid, GridColumn
from testbed.runfolder.records import GLOO
from testbed.runfolder.status import Status
from testbed.runfolder.summary import CollectiveRow, Summary, TrainingSummary

Document: TypeAlias = Mapping[str, Any]  # content of plan.json, written by any version
LabelledFigure: TypeAlias = tuple[str, float | None]

# Keys of a plan that follow from other values, or that do not affect the emulation.
DERIVED = frozenset(
    {
        "mac",
        "gateway_mac",
        "address",
        "subnet",
        "gateway",
        "nic_seed",
        "hash_seed",
        "routes",
        "cables",
        "environment",
        "guest_memory_bytes",
        "memory_bytes",
        "timeout_s",
        "index",
        "node",
        "router",
        "switch",
        "ranks",
    }
)
NAMES = ("key", "name", "rank")  # keys that identify the items of a list
TRAINING_FIGURES: Mapping[str, Callable[[TrainingSummary], float | None]] = {
    "step (ms)": lambda training: training.mean_step_ms,
    "tokens/s": lambda training: training.tokens_per_s,
    "utilisation (%)": lambda training: _percent(training.compute_utilisation),
    "exposed (ms)": lambda training: training.exposed_ms,
    "median step (ms)": lambda training: training.step_ms.median,
    "WAN bytes per step": lambda training: training.wan_bytes_per_step,
    "final loss": lambda training: training.final_loss,
    "seconds of training": lambda training: training.seconds,
}


# What tells apart operations of a run with the same name and shown size.
DETAILS: Mapping[str, Callable[[CollectiveRow], str]] = {
    "bytes": lambda row: f"{row.bytes} B",
    "ranks": lambda row: f"{row.ranks} ranks",
    "dtype": lambda row: row.dtype,
    "group": lambda row: f"group {row.group_name}",
    "root": lambda row: f"root {row.root}",
}


@dataclass(frozen=True)
class Difference:
    """A value of each run, named by `what`; None where a run has no such value."""

    what: str
    values: tuple[Any, ...]

    def record(self) -> dict[str, Any]:
        """Return the difference as a JSON object."""
        return asdict(self)


def plan_differences(plans: Sequence[Document]) -> list[Difference]:
    """Return the values that differ between plans.

    Args:
        plans: the content of each run's plan.json.

    Returns:
        A difference per value, with the value of each run.
    """
    settings = [dict(_flatten(plan, "")) for plan in plans]
    names: dict[str, None] = {}
    for of_run in settings:
        names.update(dict.fromkeys(of_run))

    differences = []
    for name in names:
        values = tuple(of_run.get(name) for of_run in settings)

        distinct = {repr(value) for value in values}
        if len(distinct) > 1:
            differences.append(Difference(name, values))
    return differences


def _flatten(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each value within a value of a plan, with the value's path such as ``network.mtu``."""
    if isinstance(value, dict):
        yield from _flatten_object(value, path)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _flatten(item, f"{path}.{_item_name(item, number)}")
    else:
        yield path, value


def _flatten_object(value: Document, path: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if key == "changes":
            for change in item:
                yield _change(change)
        elif key not in DERIVED:
            item_path = f"{path}.{key}" if path else key
            yield from _flatten(item, item_path)


def _item_name(item: Document, number: int) -> Any:
    """Return the name of a list item, or its number if the item has no name."""
    for key in NAMES:
        if key in item:
            return item[key]
    return number


def _change(change: Document) -> tuple[str, str]:
    """Return the path and the text of a change of the network, which imply the change's values."""
    time = format_time(change["at_ns"])
    return f"change at {time}", "; ".join(change["what"])


def measured(summaries: Sequence[Summary]) -> list[Difference]:
    """Return the figures of each run: of jobs, of collectives, of training, and of WAN links."""
    return [
        *jobs(summaries),
        *operations(summaries),
        *trainings(summaries),
        *links(summaries),
    ]


def jobs(summaries: Sequence[Summary]) -> list[Difference]:
    """Return the times of several jobs and of their steps or operations, and their slowdowns."""
    return _side_by_side(summaries, _job_figures)


def _job_figures(summary: Summary) -> Iterator[LabelledFigure]:
    for row in summary.jobs:
        yield f"{row.job}: time (s)", row.seconds
        yield f"{row.job}: times as long as alone", row.slowdown
        for figure in row.figures:
            yield f"{row.job}: {figure.what} (ms)", figure.ms


def operations(summaries: Sequence[Summary]) -> list[Difference]:
    """Return the median times of collectives in ms.

    Labels have what differs between operations of one run that would else have the same label.
    """
    details: dict[str, set[str]] = {}
    for summary in summaries:
        for label, rows in _by_label(summary.collectives).items():
            details.setdefault(label, set()).update(_varying(rows))

    def figures(summary: Summary) -> Iterator[LabelledFigure]:
        return _operation_figures(summary, details)

    return _side_by_side(summaries, figures)


def trainings(summaries: Sequence[Summary]) -> list[Difference]:
    """Return times, bytes and losses of training."""
    return _side_by_side(summaries, _training_figures)


def links(summaries: Sequence[Summary]) -> list[Difference]:
    """Return the MiB sent in each direction of a WAN link, and the queue's drops, if any."""
    return _side_by_side(summaries, _link_figures)


def _side_by_side(
    summaries: Sequence[Summary], figures: Callable[[Summary], Iterator[LabelledFigure]]
) -> list[Difference]:
    """Return the figures of all runs, with figures of the same label side by side."""
    values: dict[str, list[float | None]] = {}

    for number, summary in enumerate(summaries):
        for label, value in figures(summary):
            row = values.setdefault(label, [None] * len(summaries))
            row[number] = value

    return [Difference(label, tuple(row)) for label, row in values.items()]


def _operation_figures(
    summary: Summary, details: Mapping[str, set[str]]
) -> Iterator[LabelledFigure]:
    """Yield the median time of each operation in ms, with a label that no other operation has.

    Args:
        summary: the summary of a run.
        details: the names of `DETAILS` that a label needs, by label.
    """
    seen: Counter[str] = Counter()
    for row in summary.collectives:
        label = _operation_label(row)
        shown = [text(row) for name, text in DETAILS.items() if name in details[label]]
        whole = ", ".join([label, *shown])
        seen[whole] += 1
        if seen[whole] > 1:
            whole += f" #{seen[whole]}"

        yield f"{whole} (ms)", row.time_us.median / 1000


def _operation_label(row: CollectiveRow) -> str:
    parts = [row.op]
    if row.algorithm != GLOO:
        parts.append(row.algorithm)
    if row.bytes:
        parts.append(format_size(row.bytes, 3))
    return " ".join(parts)


def _by_label(rows: Sequence[CollectiveRow]) -> dict[str, list[CollectiveRow]]:
    by_label: dict[str, list[CollectiveRow]] = {}
    for row in rows:
        by_label.setdefault(_operation_label(row), []).append(row)
    return by_label


def _varying(rows: Sequence[CollectiveRow]) -> Iterator[str]:
    """Yield the names of the `DETAILS` in which rows differ."""
    for name, text in DETAILS.items():
        if len({text(row) for row in rows}) > 1:
            yield name


def _training_figures(summary: Summary) -> Iterator[LabelledFigure]:
    training = summary.training
    if training is None:
        return

    for label, figure in TRAINING_FIGURES.items():
        yield label, figure(training)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _link_figures(summary: Summary) -> Iterator[LabelledFigure]:
    for row in summary.wan:
        direction = f"{row.source} to {row.target}"
        mebibytes = None if row.bytes is None else row.bytes / 2**20
        yield f"{direction} (MiB)", mebibytes
        if row.drops:
            yield f"{direction} (dropped packets)", row.drops


def faithful_text(status: Status | None) -> str:
    """Return whether a run is faithful: yes, NO with the reasons, or not judged."""
    if status is None or status.faithful is None:
        return "not judged"
    if status.faithful:
        return "yes"
    if not status.doubts:
        return "NO"
    return f"NO: {', '.join(status.doubts)}"


def marked_names(names: Sequence[str], statuses: Sequence[Status | None]) -> list[str]:
    """Return the names of runs, with a mark at the runs that are not faithful."""
    marked = []
    for name, status in zip(names, statuses, strict=True):
        is_unfaithful = status is not None and status.faithful is False
        marked.append(f"{name} (not faithful)" if is_unfaithful else name)
    return marked


def plan_grid(differences: Sequence[Difference], names: Sequence[str]) -> Grid:
    """Return the table of differences between plans, with the runs' `names` as headers."""
    columns = [GridColumn("setting", number=False)]
    columns += [GridColumn(name, number=False) for name in names]
    return Grid(
        title="What was done",
        columns=columns,
        rows=[_difference_cells(row) for row in differences],
        note="only what differs",
    )


def measured_grid(
    figures: Sequence[Difference],
    names: Sequence[str],
    title: str = "What was measured",
    statuses: Sequence[Status | None] = (),
) -> Grid:
    """Return the table of figures; later runs also show the ratio to the first run.

    Args:
        figures: the result of `measured`, `jobs`, `operations`, `trainings` or `links`.
        names: names of the runs.
        title: title of the table.
        statuses: status of each run, for a first row that says which runs are faithful; empty: no
            such row.
    """
    rows = []
    if statuses:
        texts = [faithful_text(status) for status in statuses]
        rows.append(["faithful", *texts, *[NONE] * (len(texts) - 1)])
    rows += [_difference_cells(row) + _ratio_cells(row) for row in figures]
    columns = [GridColumn("figure", number=False)]
    columns += [GridColumn(name) for name in names]
    columns += [GridColumn(f"{name} / {names[0]}") for name in names[1:]]
    return Grid(
        title=title,
        columns=columns,
        rows=rows,
        note="collectives: medians; step: time / steps, exchanges included; the last columns are "
        "ratios",
    )


def _difference_cells(row: Difference) -> list[str]:
    return [row.what, *(format_cell(value) for value in row.values)]


def _ratio_cells(row: Difference) -> list[str]:
    first, *others = row.values

    cells = []
    for other in others:
        ratio = NONE
        if first and other is not None:
            ratio = f"{other / first:.3f}"
        cells.append(ratio)
    return cells
