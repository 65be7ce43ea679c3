"""The tables of a summary.json: as `Grid`, which the page renders as HTML, and as rich tables for
the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from testbed.core.units import format_decimal_size, format_figure, format_rate, format_size

Summary = dict[str, Any]
WIDTH = 100  # columns of a terminal that every table but a large WAN matrix fits in
MOST_PERIODS = 20  # rows on a terminal
AFTER_OP = 4  # where the columns of an operation come to an end
NONE = "-"  # what was not measured
DTYPE_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
}
GROUP_NAMES = {"datacenter": "dc"}
ALGORITHM_NAMES = {"hierarchical": "hier"}


@dataclass(frozen=True)
class Column:
    """A column: its header (a line break before the unit) and whether it holds numbers."""

    header: str
    number: bool = True


@dataclass(frozen=True)
class Grid:
    """A table as text. `note` explains its terms in a sentence or two."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    note: str = ""


def collectives_grid(summary: Summary) -> Grid:
    """Times and bandwidths in the columns of nccl-tests, with the lower bound of the topology."""
    columns = [
        Column("size\n(B)"),
        Column("count"),
        Column("type", number=False),
        Column("op", number=False),
        Column("time\n(us)"),
        Column("max\n(us)"),
        Column("algbw\n(GB/s)"),
        Column("busbw\n(GB/s)"),
        Column("bound\n(us)"),
        Column("of-bound\n(%)"),
        Column("#wrong"),
    ]
    note = (
        "time: median over the iterations of what rank 0 sees (where data go one way only: from the first start of a "
        "sender to the last end of a receiver); max: the longest iteration. algbw: size / time. busbw: algbw x the "
        "factor of nccl-tests, which makes it what each rank's link carries. bound: the least time that the topology's "
        "delays and rates allow any algorithm; of-bound: bound / time (perfect: 100)."
    )
    rows = _rows(summary, "collectives")
    cells = [_collective(row) for row in rows]
    if rows and all(
        row.get("wrong") is None for row in rows
    ):  # a script's own: nobody checks its results
        columns, cells = columns[:-1], [cell[:-1] for cell in cells]
    for column, text, explanation in reversed(_more_columns(rows)):
        columns.insert(AFTER_OP, column)
        cells = [
            [*cell[:AFTER_OP], text(row), *cell[AFTER_OP:]]
            for cell, row in zip(cells, rows, strict=True)
        ]
        note += f" {explanation}" * bool(explanation)
    return Grid("Collectives", columns, cells, note)


def _more_columns(rows: Sequence[Summary]) -> list[tuple[Column, Callable[[Summary], str], str]]:
    """Columns for that in which `rows` differ, or are not as usual: each with its text for a row,
    and what it means.
    """
    found: list[tuple[Column, Callable[[Summary], str], str]] = []
    if any(row.get("algorithm", "gloo") != "gloo" for row in rows):
        meaning = "algo hier: inside each datacenter, across datacenters, inside again."
        found.append((Column("algo", number=False), _algorithm, meaning))
    if any(row.get("groups", "all") != "all" for row in rows):
        meaning = "group: what the groups are that work at the same time, and the ranks of one; the slowest counts."
        found.append((Column("group", number=False), _group, meaning))
    elif len({row["ranks"] for row in rows}) > 1:
        found.append((Column("ranks"), lambda row: str(row["ranks"]), ""))
    if len({row["iterations"] for row in rows}) > 1:
        meaning = "calls: how often it was done by the same number of ranks."
        found.append((Column("calls"), lambda row: str(row["iterations"]), meaning))
    return found


def _group(row: Summary) -> str:
    return f"{GROUP_NAMES.get(row['groups'], row['groups'])}/{row['ranks']}"


def _algorithm(row: Summary) -> str:
    name = str(row.get("algorithm", "gloo"))
    return ALGORITHM_NAMES.get(name, name)


def _collective(row: Summary) -> list[str]:
    size, dtype, times = row["bytes"], row.get("dtype") or NONE, row["time_us"]
    width = DTYPE_BYTES.get(dtype)
    efficiency = row.get("efficiency")
    return [
        str(size),
        str(size // width) if width else NONE,
        dtype,
        row["op"],
        microseconds(times["median"]),
        microseconds(times["max"]),
        bandwidth(row["algbw_gbytes"]),
        bandwidth(row["busbw_gbytes"]),
        microseconds(row.get("bound_us")),
        NONE if efficiency is None else f"{100 * efficiency:.1f}",
        NONE if row.get("wrong") is None else str(row["wrong"]),
    ]


def training_grid(summary: Summary) -> Grid:
    """Where the time of a step goes, what it sends, and what is learnt."""
    columns = [
        Column("method", number=False),
        Column("steps"),
        Column("step\n(ms)"),
        Column("p95\n(ms)"),
        Column("compute\n(ms)"),
        Column("exposed\n(ms)"),
        Column("overlapped\n(ms)"),
        Column("utilisation\n(%)"),
        Column("tokens/s"),
        Column("MFU\n(%)"),
        Column("WAN per\nstep"),
        Column("B/token"),
        Column("final\nloss"),
    ]
    row = summary.get("training")
    note = (
        "step: median over the steps after the warm-up. compute: modelled time of the GPU; exposed: time in which a "
        "rank waits for data or for slower ranks; overlapped: communication beside computation. utilisation: compute / "
        "time."
    )
    if row and row.get("mfu") is not None:
        note += f" MFU: of {row['flops_per_token']:.3g} FLOPs per token and a peak of {row['peak_flops']:.3g} FLOP/s."
    return Grid("Training", columns, [_training(row)] if row else [], note)


def _training(row: Summary) -> list[str]:
    wan, times = row["wan_bytes_per_step"], row["step_ms"]
    return [
        str(row["method"]),
        str(row["steps"]),
        _decimals(times["median"], 1),
        _decimals(times["p95"], 1),
        _decimals(row["compute_ms"], 1),
        _decimals(row["exposed_ms"], 1),
        _decimals(row["overlapped_ms"], 1),
        NONE if row["compute_utilisation"] is None else f"{100 * row['compute_utilisation']:.1f}",
        _decimals(row["tokens_per_s"], 0),
        NONE if row["mfu"] is None else f"{100 * row['mfu']:.1f}",
        NONE if wan is None else format_size(round(wan), 3),
        _decimals(row["wan_bytes_per_token"], 0),
        _decimals(row["final_loss"], 3),
    ]


def _decimals(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def wan_grid(summary: Summary) -> Grid:
    """A matrix: a row per sending datacenter, a column per receiving one; bytes and mean
    utilisation of their links.
    """
    rows = _rows(summary, "wan")
    names = list(dict.fromkeys(name for row in rows for name in (row["from"], row["to"])))
    cells = [[source, *(_wan_cell(rows, source, target) for target in names)] for source in names]
    columns = [Column("from \\ to", number=False), *(Column(name) for name in names)]
    note = (
        "Bytes that each direction carried, whole frames with headers, and the mean share of its rate "
        "from the first operation's start to the last one's end."
    )
    return Grid("WAN links", columns, cells, note)


def _wan_cell(rows: Sequence[Summary], source: str, target: str) -> str:
    """The sum of the parallel links from `source` to `target`; empty where there is none."""
    mine = [row for row in rows if (row["from"], row["to"]) == (source, target)]
    if not mine:
        return ""
    measured = [row for row in mine if row["bytes"] is not None]
    if not measured:
        return NONE
    text = format_size(sum(row["bytes"] for row in measured), 3)
    used = [row for row in measured if row["mean_utilisation"] is not None]
    if used:
        share = sum(row["mean_utilisation"] * row["rate_bps"] for row in used) / sum(
            row["rate_bps"] for row in used
        )
        text += f"\n{100 * share:.1f} %"
    return text


def periods_grid(summary: Summary) -> Grid:
    """What the network was between its changes, and how fast the run got on."""
    rows = _rows(summary, "periods")
    unit = rows[0]["unit"] if rows else "operation"
    columns = [
        Column("from\n(s)"),
        Column("for\n(s)"),
        Column("event", number=False),
        Column(f"{unit}s\nper s"),
    ]
    note = (
        f"Times count from the first {unit} of rank 0. {unit}s per s: how many of rank 0 ended in this time, by its "
        "length. Without a length: the run was over before."
    )
    cells = [
        [
            format_figure(row["at_s"]),
            NONE if row["seconds"] is None else f"{row['seconds']:.3f}",
            "; ".join(map(str, row["what"])),
            NONE if row["per_s"] is None else format_figure(row["per_s"], 4),
        ]
        for row in rows
    ]
    return Grid("Events", columns, cells, note)


def transfers_grid(summary: Summary) -> Grid:
    """What hosts sent each other beside the job."""
    columns = [
        Column("at\n(s)"),
        Column("from", number=False),
        Column("to", number=False),
        Column("size"),
        Column("received"),
        Column("time\n(s)"),
        Column("rate"),
        Column("outcome", number=False),
    ]
    cells = [
        [
            NONE if row["at_s"] is None else f"{row['at_s']:.3f}",
            str(row["from"]),
            str(row["to"]),
            format_decimal_size(row["bytes"], 4),
            format_decimal_size(row["received"], 4),
            f"{row['seconds']:.3f}",
            NONE if row["bps"] is None else format_rate(round(row["bps"]), 3),
            str(
                row.get("error")
                or ("complete" if row["received"] == row["bytes"] else "cut short by the run's end")
            ),
        ]
        for row in _rows(summary, "transfers")
    ]
    note = "Over TCP, beside the job: when they began, bytes of data, and their rate until the last of these arrived."
    return Grid("Transfers", columns, cells, note)


def fidelity_grid(summary: Summary) -> Grid:
    """Round-trip times between datacenters, as the topology demands and as measured before the
    run.
    """
    columns = [
        Column("from", number=False),
        Column("to", number=False),
        Column("expected RTT\n(ms)"),
        Column("measured RTT\n(ms)"),
        Column("difference\n(us)"),
        Column("within tolerance", number=False),
    ]
    cells = []
    for row in _rows(summary, "fidelity"):
        expected, measured = row.get("rtt_ms_expected"), row.get("rtt_ms_measured")
        cells.append(
            [
                str(row.get("from", NONE)),
                str(row.get("to", NONE)),
                NONE if expected is None else f"{expected:.3f}",
                NONE if measured is None else f"{measured:.3f}",
                NONE
                if expected is None or measured is None
                else f"{1000 * (measured - expected):+.1f}",
                "yes" if row.get("ok") else "NO",
            ]
        )
    return Grid(
        "Emulated against expected delay", columns, cells, "RTT: round-trip time, there and back."
    )


def stages_grid(summary: Summary) -> Grid:
    """Where the time went: real seconds of this machine and seconds on the run's clock."""
    columns = [Column("stage", number=False), Column("real time\n(s)"), Column("run's clock\n(s)")]
    cells = [
        [
            row["stage"],
            *(
                NONE if row[key] is None else f"{row[key]:.2f}"
                for key in ("wall_seconds", "emulated_seconds")
            ),
        ]
        for row in _rows(summary, "stages")
    ]
    return Grid("Stages", columns, cells)


def collectives_table(summary: Summary) -> Table:
    """`collectives_grid` for a terminal of 100 columns."""
    return render(collectives_grid(summary))


def training_table(summary: Summary) -> Table:
    """`training_grid` for a terminal of 100 columns."""
    return render(training_grid(summary))


def wan_table(summary: Summary) -> Table:
    """`wan_grid` for a terminal."""
    return render(wan_grid(summary))


def periods_table(summary: Summary) -> Table:
    """`periods_grid` for a terminal, at most `MOST_PERIODS` rows."""
    grid = periods_grid(summary)
    if len(grid.rows) > MOST_PERIODS:
        rest = f"and {len(grid.rows) - MOST_PERIODS + 1} more, in report.html and summary.json"
        grid = replace(grid, rows=[*grid.rows[: MOST_PERIODS - 1], ["", "", rest, ""]])
    return render(grid)


def transfers_table(summary: Summary) -> Table:
    """`transfers_grid` for a terminal."""
    return render(transfers_grid(summary))


def fidelity_table(summary: Summary) -> Table:
    """`fidelity_grid` for a terminal."""
    return render(fidelity_grid(summary))


def stages_table(summary: Summary) -> Table:
    """`stages_grid` for a terminal."""
    return render(stages_grid(summary))


def render(grid: Grid) -> Table:
    """`grid` as a rich table; text is literal, without rich's markup."""
    table = Table(
        title=Text(grid.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for column in grid.columns:
        table.add_column(
            Text(column.header), justify="right" if column.number else "left", overflow="fold"
        )
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def microseconds(value: float | None) -> str:
    """A time in us with one decimal below 100 ms, none above."""
    if value is None:
        return NONE
    return f"{value:.1f}" if value < 100_000 else f"{value:.0f}"


def bandwidth(gbytes: float) -> str:
    """10^9 bytes/s in at most six characters below 1000: two decimals from 1, four from 0.001, else
    8.2e-5.
    """
    if gbytes >= 1 or gbytes == 0:
        return f"{gbytes:.2f}"
    return f"{gbytes:.4f}" if gbytes >= 0.001 else f"{gbytes:.1e}".replace("e-0", "e-")


def _rows(summary: Summary, key: str) -> list[Summary]:
    rows: list[Summary] = summary.get(key) or []
    return rows
