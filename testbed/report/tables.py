"""Tables of a summary: as `Grid` for the page, and as rich tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table
from rich.text import Text

from testbed.core.units import (
    format_decimal_size,
    format_figure,
    format_microseconds,
    format_rate,
    format_size,
)
from testbed.report.gpu_tables import MOST_WAITS, gpu_grid, waits_grid
from testbed.report.grid import NONE, Grid, GridColumn
from testbed.report.job_tables import job_times_grid, jobs_grid
from testbed.runfolder.records import GLOO, RoundTripRow
from testbed.runfolder.summary import (
    CollectiveRow,
    GuestRow,
    PeriodRow,
    StageRow,
    Summary,
    TrainingSummary,
    TransferRow,
    WanRow,
)

WIDTH = 100  # terminal columns; every table but a large WAN matrix fits
LONG_US = 1_000_000  # from this time of an operation on, times have a unit each
MOST_PERIODS = 20  # rows on a terminal
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
DEFAULT_GROUPS = "all"
FAR_SLOWER = 1.2  # the slowest rank's time over the first rank's, from which it has a column
# Columns that a terminal leaves out, in this order, if the table is wider than `WIDTH`.
LEAST_NEEDED = (
    "count",
    "busbw\n(GB/s)",
    "type",
    "algbw\n(GB/s)",
    "median\n(ms)",
    "p95\n(ms)",
    "ranks",
)

COLLECTIVES_NOTE = (
    "time: median over the iterations of what rank 0 sees (where data go one way only: from the "
    "first start of a sender to the last end of a receiver); max: the longest iteration. "
    "algbw: size / time. busbw: algbw x the factor of nccl-tests, which gives the rate on each "
    "rank's link. bound: the least time that the topology's delays and rates allow any "
    "algorithm; of-bound: bound / time (perfect: 100)."
)
ALGORITHM_NOTE = " algo hier: inside each datacenter, across datacenters, inside again."
GROUPS_NOTE = (
    " group: kind of the groups that work at the same time, and ranks in each; the "
    "slowest group counts."
)
SCRIPT_GROUPS_NOTE = " group: description and ranks of the process group."
ROOT_NOTE = " root: rank that sends or receives the data of all."
SLOWEST_NOTE = " slowest: median over the iterations of the slowest rank."
ALL_RANKS_NOTE = (
    " Where rank 0's time is below the bound, because other ranks began earlier or are farther "
    "from each other, the time runs from the first rank's start to the last one's end."
)
UNEQUAL_NOTE = " Where the ranks' parts differ, the size is that of the rank with most bytes."
SETTLED_NOTE = (
    " settled: the iterations trend (each longer or each shorter than the one before) or swing, so "
    "their median is not the time of the operation; run more iterations."
)
WITHIN_NOTE = (
    " ±: how far the median may be off, with a confidence of 95 %; iterations: auto stops at 1 %, "
    "or at its limit."
)
CALLS_NOTE = " calls: number of calls by the same number of ranks."
TRAINING_NOTE = (
    "steps: number of steps that the figures cover, of all. step: time / steps, over the steps "
    "after the warm-up. median, p95: of single steps. compute: modelled time of the GPU; exposed: "
    "time in which a rank waits for data or for slower ranks; "
    "overlapped: communication during computation. used: utilisation, compute / time."
)
PERIODS_NOTE = (
    " The ranks exchange every {period} steps; the figures are of {periods} whole periods, with "
    "their exchanges."
)
NO_PERIOD_NOTE = (
    " The ranks exchange every {period} steps; the run has no whole period after the warm-up, so "
    "exchanges are missing or count too much: use more steps."
)
WAN_NOTE = (
    "Bytes that each direction carried, whole frames with headers, and the mean share of its rate "
    "from the first operation's start to the last one's end."
)
TRANSFERS_NOTE = (
    "TCP transfers in the background of the job: start, bytes of data, and the rate "
    "until the last byte arrived."
)


@dataclass(frozen=True)
class CollectiveColumn:
    """A column of the table of collectives: header, and function from a row to the cell."""

    column: GridColumn
    cell: Callable[[CollectiveRow], str]


def collectives_grid(summary: Summary, *, for_programs: bool = False) -> Grid:
    """Return the table of collectives: nccl-tests' columns, and the topology's lower bound.

    Args:
        summary: The summary of a run.
        for_programs: Write all times in us, also those from `LONG_US`, which people read better
            with a unit each.
    """
    table = _CollectivesTable(summary.collectives, for_programs)
    table.add_operation()
    table.add_group()
    table.add_times()
    table.add_bandwidths()
    table.add_checks()
    return table.grid()


class _CollectivesTable:
    """The table of collectives, with those columns and notes that its rows need."""

    def __init__(self, rows: Sequence[CollectiveRow], for_programs: bool) -> None:
        self._rows = rows
        self._columns: list[CollectiveColumn] = []
        self._note = COLLECTIVES_NOTE
        self._unit = "\n(us)"
        self._time_cell: Callable[[float | None], str] = microseconds
        is_long = any(row.time_us.max >= LONG_US for row in rows)
        if is_long and not for_programs:
            self._unit = ""
            self._time_cell = format_microseconds

    def grid(self) -> Grid:
        columns = [column.column for column in self._columns]
        cells: list[list[str]] = []
        for row in self._rows:
            cells.append([column.cell(row) for column in self._columns])
        return Grid("Collectives", columns, cells, self._note)

    def add_operation(self) -> None:
        self._add("size\n(B)", lambda row: str(row.bytes))
        self._add("count", _element_count)
        self._add("type", lambda row: row.dtype or NONE, number=False)
        self._add("op", lambda row: row.op, number=False)
        if any(row.algorithm != GLOO for row in self._rows):
            self._add("algo", _algorithm_name, number=False)
            self._note += ALGORITHM_NOTE

    def add_group(self) -> None:
        """Add who took part: the group, or at least its size, the root, and how often."""
        if any(row.groups != DEFAULT_GROUPS for row in self._rows):
            self._add("group", _group_name, number=False)
            self._note += GROUPS_NOTE
        elif self._varies(lambda row: row.group_name):
            self._add("group", lambda row: row.group_name, number=False)
            self._note += SCRIPT_GROUPS_NOTE
        elif self._varies(lambda row: row.ranks):
            self._add("ranks", lambda row: str(row.ranks))

        if any(_has_other_root(row) for row in self._rows):
            self._add("root", _root)
            self._note += ROOT_NOTE
        is_auto = any(row.median_within is not None for row in self._rows)
        if is_auto or self._varies(lambda row: row.iterations):
            self._add("calls", lambda row: str(row.iterations))
            self._note += CALLS_NOTE

    def add_times(self) -> None:
        self._add_time("time", lambda row: row.time_us.median)
        if any(row.median_within is not None for row in self._rows):
            self._add("±\n(%)", lambda row: _within(row.median_within))
            self._note += WITHIN_NOTE
        self._add_time("max", lambda row: row.time_us.max)
        if any(row.slowest_us > FAR_SLOWER * row.time_us.median for row in self._rows):
            self._add_time("slowest", lambda row: row.slowest_us)
            self._note += SLOWEST_NOTE
        if any(row.timed == "all ranks" for row in self._rows):
            self._note += ALL_RANKS_NOTE
        if any(row.unequal for row in self._rows):
            self._note += UNEQUAL_NOTE

    def add_bandwidths(self) -> None:
        self._add("algbw\n(GB/s)", lambda row: bandwidth(row.algbw_gbytes))
        self._add("busbw\n(GB/s)", lambda row: bandwidth(row.busbw_gbytes))
        self._add_time("bound", lambda row: row.bound_us)
        self._add("of-bound\n(%)", lambda row: _percent(row.efficiency))

    def add_checks(self) -> None:
        if any(row.is_unsettled for row in self._rows):
            self._add("settled", _settled, number=False)
            self._note += SETTLED_NOTE

        # The results of a user's script are not checked.
        is_unchecked = all(row.wrong is None for row in self._rows)
        if not self._rows or not is_unchecked:
            self._add("#wrong", _wrong_count)

    def _add(
        self, header: str, cell: Callable[[CollectiveRow], str], *, number: bool = True
    ) -> None:
        column = CollectiveColumn(GridColumn(header, number), cell)
        self._columns.append(column)

    def _add_time(self, name: str, time_us: Callable[[CollectiveRow], float | None]) -> None:
        self._add(f"{name}{self._unit}", lambda row: self._time_cell(time_us(row)))

    def _varies(self, value: Callable[[CollectiveRow], object]) -> bool:
        values = {value(row) for row in self._rows}
        return len(values) > 1


def _has_other_root(row: CollectiveRow) -> bool:
    """Return whether the root is another rank than the first one of the group."""
    first_rank = min(row.group_ranks, default=None)
    return row.root not in (None, first_rank)


def _element_count(row: CollectiveRow) -> str:
    element_bytes = DTYPE_BYTES.get(row.dtype)
    if element_bytes is None:
        return NONE
    return str(row.bytes // element_bytes)


def _algorithm_name(row: CollectiveRow) -> str:
    return ALGORITHM_NAMES.get(row.algorithm, row.algorithm)


def _group_name(row: CollectiveRow) -> str:
    groups = GROUP_NAMES.get(row.groups, row.groups)
    return f"{groups}/{row.ranks}"


def _root(row: CollectiveRow) -> str:
    return NONE if row.root is None else str(row.root)


def _settled(row: CollectiveRow) -> str:
    return row.settled or NONE


def _within(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2f}"


def _wrong_count(row: CollectiveRow) -> str:
    if row.wrong is None:
        return NONE
    return str(row.wrong)


def training_grid(summary: Summary) -> Grid:
    """Return the table of training: the parts of a step's time, bytes sent, and loss."""
    columns = [
        GridColumn("method", number=False),
        GridColumn("steps"),
        GridColumn("step\n(ms)"),
        GridColumn("tokens/s"),
        GridColumn("used\n(%)"),
        GridColumn("MFU\n(%)"),
        GridColumn("median\n(ms)"),
        GridColumn("p95\n(ms)"),
        GridColumn("compute\n(ms)"),
        GridColumn("exposed\n(ms)"),
        GridColumn("overlapped\n(ms)"),
        GridColumn("WAN per\nstep"),
        GridColumn("B/token"),
        GridColumn("final\nloss"),
    ]
    training = summary.training
    if training is None:
        return Grid("Training", columns, [], TRAINING_NOTE)

    note = TRAINING_NOTE
    if training.period > 1:
        text = PERIODS_NOTE if training.periods else NO_PERIOD_NOTE
        note += text.format(period=training.period, periods=training.periods)

    flops_known = training.flops_per_token is not None and training.peak_flops is not None
    if training.mfu is not None and flops_known:
        note += (
            f" MFU: of {training.flops_per_token:.3g} FLOPs per token and a peak of "
            f"{training.peak_flops:.3g} FLOP/s."
        )
    return Grid("Training", columns, [_training_cells(training)], note)


def _training_cells(training: TrainingSummary) -> list[str]:
    wan_bytes = NONE
    if training.wan_bytes_per_step is not None:
        wan_bytes = format_size(round(training.wan_bytes_per_step), 3)

    return [
        str(training.method),
        _steps(training),
        _decimals(training.mean_step_ms, 1),
        _decimals(training.tokens_per_s, 0),
        _percent(training.compute_utilisation),
        _percent(training.mfu),
        _decimals(training.step_ms.median, 1),
        _decimals(training.step_ms.p95, 1),
        _decimals(training.compute_ms, 1),
        _decimals(training.exposed_ms, 1),
        _decimals(training.overlapped_ms, 1),
        wan_bytes,
        _decimals(training.wan_bytes_per_token, 0),
        _decimals(training.final_loss, 3),
    ]


def _steps(training: TrainingSummary) -> str:
    """Return the number of measured steps; with a warm-up, of all steps."""
    if not training.other_steps:
        return str(training.steps)
    return f"{training.steps}/{training.steps + training.other_steps}"


def wan_grid(summary: Summary) -> Grid:
    """Return the WAN matrix: bytes and mean utilisation from each datacenter to each other.

    A row is a sending datacenter, a column a receiving one.
    """
    names = site_names(summary.wan)
    cells = []
    for source in names:
        row = [source]
        for target in names:
            row.append(_wan_cell(summary.wan, source, target))
        cells.append(row)

    columns = [GridColumn("from \\ to", number=False)]
    columns += [GridColumn(name) for name in names]
    return Grid("WAN links", columns, cells, WAN_NOTE)


def site_names(rows: Sequence[WanRow]) -> list[str]:
    """Return the datacenters of rows, in the order of first appearance."""
    names: dict[str, None] = {}
    for row in rows:
        names[row.source] = None
        names[row.target] = None
    return list(names)


def _wan_cell(rows: Sequence[WanRow], source: str, target: str) -> str:
    """Return the total of the parallel links from `source` to `target`; empty without a link."""
    links = [row for row in rows if row.source == source and row.target == target]
    if not links:
        return ""
    measured_bytes = [row.bytes for row in links if row.bytes is not None]
    if not measured_bytes:
        return NONE

    text = format_size(sum(measured_bytes), 3)
    used_bps = 0.0
    rate_bps = 0
    for row in links:
        if row.bytes is None or row.mean_utilisation is None:
            continue
        used_bps += row.mean_utilisation * row.rate_bps
        rate_bps += row.rate_bps
    if rate_bps:
        text += f"\n{100 * (used_bps / rate_bps):.1f} %"
    return text


def periods_grid(summary: Summary) -> Grid:
    """Return the table of the network's changes and the throughput between the changes."""
    rows = summary.periods
    unit = rows[0].unit if rows else "operation"
    columns = [
        GridColumn("from\n(s)"),
        GridColumn("for\n(s)"),
        GridColumn("event", number=False),
        GridColumn(f"{unit}s\nper s"),
    ]
    note = (
        f"Times count from the first {unit} of rank 0. {unit}s per s: number that rank 0 "
        "completed in this period, divided by its length. No length: the run ended before this "
        "period."
    )
    return Grid("Events", columns, [_period_cells(row) for row in rows], note)


def _period_cells(row: PeriodRow) -> list[str]:
    throughput = NONE
    if row.per_s is not None:
        throughput = format_figure(row.per_s, 4)

    return [
        format_figure(row.at_s),
        _decimals(row.seconds, 3),
        "; ".join(row.what),
        throughput,
    ]


def transfers_grid(summary: Summary) -> Grid:
    """Return the table of background transfers between hosts."""
    columns = [
        GridColumn("at\n(s)"),
        GridColumn("from", number=False),
        GridColumn("to", number=False),
        GridColumn("size"),
        GridColumn("received"),
        GridColumn("time\n(s)"),
        GridColumn("rate"),
        GridColumn("outcome", number=False),
    ]
    cells = [_transfer_cells(row) for row in summary.transfers]
    return Grid("Transfers", columns, cells, TRANSFERS_NOTE)


def _transfer_cells(row: TransferRow) -> list[str]:
    if row.error:
        outcome = row.error
    elif row.received == row.bytes:
        outcome = "complete"
    else:
        outcome = "cut short by the run's end"

    rate = NONE
    if row.bps is not None:
        rate = format_rate(round(row.bps), 3)

    return [
        _decimals(row.at_s, 3),
        row.source,
        row.target,
        format_decimal_size(row.bytes, 4),
        format_decimal_size(row.received, 4),
        _decimals(row.seconds, 3),
        rate,
        outcome,
    ]


def fidelity_grid(summary: Summary) -> Grid:
    """Return the table of required and measured RTTs."""
    columns = [
        GridColumn("from", number=False),
        GridColumn("to", number=False),
        GridColumn("expected RTT\n(ms)"),
        GridColumn("measured RTT\n(ms)"),
        GridColumn("difference\n(us)"),
        GridColumn("within tolerance", number=False),
    ]
    return Grid(
        title="Emulated against expected delay",
        columns=columns,
        rows=[_round_trip_cells(row) for row in summary.fidelity],
        note="RTT: round-trip time, there and back.",
    )


def _round_trip_cells(row: RoundTripRow) -> list[str]:
    difference = NONE
    if row.rtt_ms_expected is not None and row.rtt_ms_measured is not None:
        difference_us = 1000 * (row.rtt_ms_measured - row.rtt_ms_expected)
        difference = f"{difference_us:+.1f}"
    verdict = "yes" if row.ok else "NO"

    return [
        row.source,
        row.target,
        _decimals(row.rtt_ms_expected, 3),
        _decimals(row.rtt_ms_measured, 3),
        difference,
        verdict,
    ]


def stages_grid(summary: Summary) -> Grid:
    """Return the table of stages: real seconds on this machine, and seconds on the run's clock."""
    columns = [
        GridColumn("stage", number=False),
        GridColumn("real time\n(s)"),
        GridColumn("run's clock\n(s)"),
    ]
    return Grid("Stages", columns, [_stage_cells(row) for row in summary.stages])


def _stage_cells(row: StageRow) -> list[str]:
    return [
        row.stage,
        _decimals(row.wall_seconds, 2),
        _decimals(row.emulated_seconds, 2),
    ]


def guests_grid(summary: Summary) -> Grid:
    """Return the table of guests, if the run had several: work and waiting."""
    columns = [
        GridColumn("guest"),
        GridColumn("datacenters", number=False),
        GridColumn("work\n(CPU s)"),
        GridColumn("waited\n(s)"),
        GridColumn("packets\nsent"),
        GridColumn("sent"),
    ]
    rows = [_guest_cells(row) for row in summary.guests]
    return Grid("Guests", columns, rows, _guests_note(summary.guests))


def _guests_note(guests: Sequence[GuestRow]) -> str:
    """Return what the busiest guest means for a machine with a CPU for each guest."""
    work_s = [row.cpu_seconds for row in guests]
    if not work_s or max(work_s) == 0:
        return ""

    longest_s = max(work_s)
    gain = sum(work_s) / longest_s
    return (
        f"With a CPU for each of the {len(guests)} guests the run takes at least the "
        f"{longest_s:.1f} s of the busiest one: at most {gain:.1f} times as fast as on one CPU."
    )


def _guest_cells(row: GuestRow) -> list[str]:
    return [
        str(row.guest),
        ", ".join(row.datacenters),
        _decimals(row.cpu_seconds, 2),
        _decimals(row.waited_seconds, 2),
        str(row.packets),
        format_size(row.bytes, 3),
    ]


def terminal_tables(summary: Summary) -> Iterator[Table]:
    """Yield the non-empty tables of a summary for a terminal.

    RTTs are left out if all of them are within tolerance.
    """
    grids = [
        jobs_grid(summary),
        job_times_grid(summary),
        _fitting(collectives_grid(summary)),
        training_grid(summary),
        _fitting(gpu_grid(summary)),
        waits_grid(summary, MOST_WAITS),
        wan_grid(summary),
        _shortened(periods_grid(summary)),
        transfers_grid(summary),
    ]
    if not all(pair.ok for pair in summary.fidelity):
        grids.append(fidelity_grid(summary))

    for grid in grids:
        if grid.rows:
            yield render(grid)


def _fitting(grid: Grid) -> Grid:
    """Return a grid without the `LEAST_NEEDED` columns that do not fit into `WIDTH`."""
    for header in LEAST_NEEDED:
        if _width(grid) <= WIDTH:
            break

        kept = [number for number, column in enumerate(grid.columns) if column.header != header]
        columns = [grid.columns[number] for number in kept]
        rows = []
        for row in grid.rows:
            rows.append([row[number] for number in kept])
        grid = replace(grid, columns=columns, rows=rows)

    return grid


def _width(grid: Grid) -> int:
    """Return the number of terminal columns that a grid needs."""
    total = len(grid.columns) - 1
    for number, column in enumerate(grid.columns):
        texts = [*column.header.splitlines(), *(row[number] for row in grid.rows)]
        total += max(len(text) for text in texts)

    return total


def _shortened(periods: Grid) -> Grid:
    """Return the table of periods, cut to `MOST_PERIODS` rows."""
    if len(periods.rows) <= MOST_PERIODS:
        return periods

    shown = list(periods.rows[: MOST_PERIODS - 1])
    left_out = len(periods.rows) - len(shown)
    text = f"and {left_out} more, in report.html and summary.json"
    return replace(periods, rows=[*shown, ["", "", text, ""]])


def render(grid: Grid) -> Table:
    """Return a grid as a rich table; text is literal, without rich's markup."""
    table = Table(
        title=Text(grid.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for column in grid.columns:
        header = Text(column.header)
        if column.number:
            table.add_column(header, justify="right", overflow="fold")
        else:
            table.add_column(header, justify="left", overflow="fold")
    for row in grid.rows:
        cells = [Text(cell) for cell in row]
        table.add_row(*cells)
    return table


def microseconds(value: float | None) -> str:
    """Return a time in us as text, with one decimal below 100 ms, none above."""
    if value is None:
        return NONE
    if value < 100_000:
        return f"{value:.1f}"
    return f"{value:.0f}"


def bandwidth(gbytes: float) -> str:
    """Return 10^9 bytes/s as text, in at most six characters below 1000.

    There are two decimals from 1 and four from 0.001; smaller values look like 8.2e-5.
    """
    if gbytes >= 1 or gbytes == 0:
        return f"{gbytes:.2f}"
    if gbytes >= 0.001:
        return f"{gbytes:.4f}"
    return f"{gbytes:.1e}".replace("e-0", "e-")


def _decimals(value: float | None, digits: int) -> str:
    if value is None:
        return NONE
    return f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    if share is None:
        return NONE
    return f"{100 * share:.1f}"
