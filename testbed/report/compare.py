"""Runs side by side: what differs in their plans, and in what they measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from testbed.core.units import format_cell, format_size, format_time
from testbed.report.tables import Column, Grid, Summary

# Of a plan: what follows from other values, or says nothing about what was emulated.
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
    }
    | {
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
NAMES = ("key", "name", "rank")  # by which the items of a list are told apart
TRAINING = {
    "step_ms": "step (ms)",
    "compute_utilisation": "utilisation",
    "exposed_ms": "exposed (ms)",
    "tokens_per_s": "tokens/s",
    "wan_bytes_per_step": "WAN bytes per step",
    "final_loss": "final loss",
    "seconds": "seconds of training",
}
Figure = tuple[str, float | None]


@dataclass(frozen=True)
class Difference:
    """A value of each run; None where a run has none."""

    what: str
    values: tuple[Any, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def plan_differences(plans: list[dict[str, Any]]) -> list[Difference]:
    """What was to be done, value by value, where it is not the same in all of `plans` (the content
    of plan.json).
    """
    flat = [dict(_flatten(plan, "")) for plan in plans]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = (Difference(key, tuple(one.get(key) for one in flat)) for key in keys)
    return [
        difference for difference in found if len({repr(value) for value in difference.values}) > 1
    ]


def _flatten(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "changes":
                yield from (_change(change) for change in item)
            elif key not in DERIVED:
                yield from _flatten(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            name = next((item[key] for key in NAMES if key in item), number)
            yield from _flatten(item, f"{path}.{name}")
    else:
        yield path, value


def _change(change: dict[str, Any]) -> tuple[str, str]:
    """A change of the network as people read it; what is in it follows from that."""
    return f"change at {format_time(change['at_ns'])}", "; ".join(change["what"])


def measured(summaries: list[Summary]) -> list[Difference]:
    """Each figure of each run: medians of collectives in ms, training, and MiB over each WAN link
    direction.
    """
    return [*operations(summaries), *trainings(summaries), *links(summaries)]


def operations(summaries: list[Summary]) -> list[Difference]:
    """Medians of collectives in ms."""
    return _together(summaries, _operations)


def trainings(summaries: list[Summary]) -> list[Difference]:
    """Times, bytes and losses of training."""
    return _together(summaries, _training)


def links(summaries: list[Summary]) -> list[Difference]:
    """MiB over each WAN link direction, and what its queue dropped, if anything."""
    return _together(summaries, _links)


def _together(
    summaries: list[Summary], figures: Callable[[Summary], Iterator[Figure]]
) -> list[Difference]:
    found: dict[str, list[Any]] = {}
    for number, summary in enumerate(summaries):
        for what, value in figures(summary):
            found.setdefault(what, [None] * len(summaries))[number] = value
    return [Difference(what, tuple(values)) for what, values in found.items()]


def _operations(summary: Summary) -> Iterator[Figure]:
    for row in summary.get("collectives") or []:
        kind = "" if row.get("algorithm", "gloo") == "gloo" else f" {row['algorithm']}"
        size = format_size(row["bytes"], 3) if row["bytes"] else ""
        yield f"{row['op']}{kind} {size} (ms)".replace("  ", " "), row["time_us"]["median"] / 1000


def _training(summary: Summary) -> Iterator[Figure]:
    training = summary.get("training") or {}
    for key, label in TRAINING.items():
        if key in training:
            yield label, training[key]["median"] if key == "step_ms" else training[key]


def _links(summary: Summary) -> Iterator[Figure]:
    for row in summary.get("wan") or []:
        size = row.get("bytes")
        yield f"{row['from']} to {row['to']} (MiB)", None if size is None else size / 2**20
        if row.get("drops"):
            yield f"{row['from']} to {row['to']} (dropped packets)", row["drops"]


def plan_grid(differences: list[Difference], names: list[str]) -> Grid:
    """What differs in the plans."""
    columns = [Column("setting", number=False), *(Column(name, number=False) for name in names)]
    cells = [[row.what, *(format_cell(value) for value in row.values)] for row in differences]
    return Grid("What was done", columns, cells, "only what differs")


def measured_grid(
    figures: list[Difference], names: list[str], title: str = "What was measured"
) -> Grid:
    """The figures, and those of the later runs as parts of the first one's."""
    columns = [Column("figure", number=False), *(Column(name) for name in names)]
    columns += [Column(f"{name} / {names[0]}") for name in names[1:]]
    cells = []
    for row in figures:
        first, *others = row.values
        ratios = [
            f"{other / first:.3f}" if first and other is not None else "-" for other in others
        ]
        cells.append([row.what, *(format_cell(value) for value in row.values), *ratios])
    return Grid(title, columns, cells, "medians; the last columns are ratios")
