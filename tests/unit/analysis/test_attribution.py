"""Operations of a script have the time, the bound and the row of what they belong to.

All links have 10 ms one way and 1 Gbit/s; a MiB takes 8.39 ms.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from testbed.analysis.fidelity import judge
from testbed.analysis.operations import settled
from testbed.analysis.summarize import collect
from testbed.plan.model import Network, Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.records import Operation, append
from testbed.runfolder.status import Status
from testbed.runfolder.summary import CollectiveRow, Summary
from testbed.runfolder.tables import collectives_table
from tests.support.synthetic import GBIT, MS, make_network, make_plan, three_dcs, write_run

MIB = 1 << 20
MIB_MS = 8 * MIB / 1e6  # at 1 Gbit/s
WORLD = "0:0-2"


def near_and_far() -> Network:
    """Ranks 0 and 1 in the west, rank 2 in the east."""
    links = {("west", "east"): (GBIT, GBIT, 10 * MS)}
    return make_network({"west": 2, "east": 1}, links)


class Script:
    """A run of a script whose records are written by hand, in ms."""

    def __init__(self, path: Path, network: Network) -> None:
        self.plan: Plan = make_plan(network)
        workers = self.plan.workers.model_copy(update={"workload": "script", "settings": {}})
        self.plan = self.plan.model_copy(update={"workers": workers})
        self.run: RunDir = write_run(path, self.plan)
        for rank in self.plan.workers.ranks:
            self.run.rank_ops(rank.rank).write_text("")

    def call(
        self,
        op: str,
        times: Sequence[tuple[float, float]],
        *,
        sizes: int | Sequence[int] = MIB,
        ranks: Sequence[int] | None = None,
        process_group: str = WORLD,
        parts: Sequence[Sequence[int]] | None = None,
        root: int | None = None,
        iteration: int = 0,
        group: str = "",
    ) -> None:
        """Record a call: begin and end of each rank, in the order of the group."""
        members = range(len(times)) if ranks is None else ranks
        for number, (rank, (start, end)) in enumerate(zip(members, times, strict=True)):
            operation = Operation(
                op=op,
                bytes=sizes if isinstance(sizes, int) else sizes[number],
                group_size=len(times),
                iteration=iteration,
                phase="script",
                dtype="float32",
                start_ns=round(start * MS),
                end_ns=round(end * MS),
                group=group,
                process_group=process_group,
                group_rank=number,
                root=root,
                parts=None if parts is None else list(parts[number]),
            )
            append(self.run.rank_ops(rank), operation)

    def summary(self) -> Summary:
        return collect(self.run)

    def row(self) -> CollectiveRow:
        (row,) = self.summary().collectives
        return row


@pytest.mark.parametrize(
    ("op", "root", "times", "time_ms", "bound_ms"),
    [
        # rank 2 sends a third of the total across to rank 1, whose end counts
        ("gather", 1, [(0, 1), (5, 40), (2, 3)], 40, 10 + MIB_MS / 3),
        ("reduce", 1, [(0, 1), (5, 40), (2, 3)], 40, 10 + MIB_MS),
        ("gather", 2, [(0, 1), (5, 6), (2, 50)], 50, 10 + MIB_MS * 2 / 3),
        # rank 2 begins 2 s before rank 0 takes its copy
        ("broadcast", 2, [(2000, 2021), (1, 30), (0, 12)], 2021, 10 + MIB_MS),
        ("scatter", 2, [(2000, 2021), (1, 30), (0, 12)], 2021, 10 + MIB_MS * 2 / 3),
        ("broadcast", 0, [(5, 6), (0, 30), (0, 40)], 35, 10 + MIB_MS),
    ],
)
def test_the_root_is_the_one_of_the_call(
    tmp_path: Path,
    op: str,
    root: int,
    times: Sequence[tuple[float, float]],
    time_ms: float,
    bound_ms: float,
) -> None:
    script = Script(tmp_path / "run", near_and_far())
    script.call(op, times, root=root)
    row = script.row()
    assert row.time_us.median / 1000 == pytest.approx(time_ms)
    assert row.bound_us is not None
    assert row.bound_us / 1000 == pytest.approx(bound_ms)
    assert (row.root, row.timed, row.below_bound) == (root, "one way", False)


def test_the_root_of_a_part_of_the_ranks(tmp_path: Path) -> None:
    """The second rank of the group 1, 2 is rank 2: nothing needs to cross for a local reduce."""
    script = Script(tmp_path / "run", near_and_far())
    group = {"ranks": [1, 2], "process_group": "1:1-2"}
    script.call("reduce", [(0, 1), (0, 30)], root=1, **group)  # type: ignore[arg-type]
    script.call("reduce", [(100, 135), (100, 101)], root=0, iteration=1, **group)  # type: ignore[arg-type]
    rows = script.summary().collectives
    assert [(row.root, row.time_us.median, row.group_ranks) for row in rows] == [
        (2, 30_000, [1, 2]),
        (1, 35_000, [1, 2]),
    ]


def test_groups_have_their_rows(tmp_path: Path) -> None:
    """The one inside a site needs 0.05 ms, the one across the WAN 40 ms."""
    script = Script(tmp_path / "run", three_dcs())
    for iteration in range(3):
        start = 100 * iteration
        near = [(start, start + 0.05)] * 2
        far = [(start, start + 40)] * 2
        here = {"ranks": [0, 1], "process_group": "1:0-1"}
        script.call("all_reduce", near, sizes=4096, iteration=iteration, **here)  # type: ignore[arg-type]
        across = {"ranks": [2, 5], "process_group": "2:2,5", "group": "pair"}
        script.call("all_reduce", far, sizes=4096, iteration=iteration, **across)  # type: ignore[arg-type]
    summary = script.summary()
    assert summary.problems == []
    assert [
        (row.group_name, row.iterations, row.time_us.median) for row in summary.collectives
    ] == [
        ("0-1", 3, 50),
        ("pair 2,5", 3, 40_000),
    ]
    bounds_us = [row.bound_us for row in summary.collectives]
    bits = 8 * 4096  # NICs have 100 Gbit/s; two links leave a site
    assert bounds_us == pytest.approx([bits / 1e5, 10_000 + bits / 2e3])
    table = collectives_table(summary)
    assert table["group_ranks"].to_list() == [[0, 1], [2, 5]]
    assert table["group"].to_list() == ["", "pair"]


def test_sizes_that_differ_between_ranks(tmp_path: Path) -> None:
    """Of an all-to-all only rank 2 sends much, all of it to rank 0."""
    script = Script(tmp_path / "run", near_and_far())
    parts = [[0, 4, 4], [4, 0, 0], [2 * MIB, 0, 0]]
    sizes = [sum(of_rank) for of_rank in parts]
    script.call("all_to_all", [(0, 30), (0, 1), (0, 2)], sizes=sizes, parts=parts)
    even = [(100, 130), (100, 130), (100, 130)]
    script.call("all_to_all", even, sizes=3 * MIB, iteration=1)
    summary = script.summary()
    assert summary.problems == []
    uneven, equal = summary.collectives
    assert (uneven.bytes, uneven.unequal, equal.unequal) == (2 * MIB, True, False)
    assert uneven.bound_us == pytest.approx(10_000 + 2000 * MIB_MS)
    assert equal.bound_us == pytest.approx(10_000 + 2000 * MIB_MS)  # 3 MiB x 1 x 2 / 3


def test_an_empty_part_needs_no_time(tmp_path: Path) -> None:
    script = Script(tmp_path / "run", near_and_far())
    parts = [[0, 8, 0], [8, 0, 0], [0, 0, 0]]
    script.call("all_to_all", [(0, 0.1), (0, 0.1), (0, 0)], sizes=[8, 8, 0], parts=parts)
    row = script.row()
    assert row.bound_us == pytest.approx(0.00064)  # 8 bytes at 100 Gbit/s
    assert not row.below_bound


def test_parts_of_reduce_scatter_and_all_gather(tmp_path: Path) -> None:
    """Rank 2, in the east, gets or gives a quarter of 4 MiB."""
    script = Script(tmp_path / "run", near_and_far())
    parts = [[2 * MIB, MIB, MIB]] * 3
    times = [(0, 100)] * 3
    script.call("reduce_scatter", times, sizes=4 * MIB, parts=parts)
    script.call("all_gather", times, sizes=4 * MIB, parts=parts)
    scattered, gathered = script.summary().collectives
    pooled_us = 10_000 + 1000 * MIB_MS * 4 / 2  # 4 MiB from site to site, over both directions
    to_east_us, to_west_us = 10_000 + 3000 * MIB_MS, 10_000 + 3000 * MIB_MS
    assert scattered.bound_us == pytest.approx(max(pooled_us, to_west_us))
    assert gathered.bound_us == pytest.approx(max(pooled_us, to_east_us))


def test_a_first_rank_that_begins_last(tmp_path: Path) -> None:
    """Its own time is no time of the operation: what the others sent was there already."""
    script = Script(tmp_path / "run", near_and_far())
    script.call("all_gather", [(500, 501), (0, 502), (0, 512)])
    row = script.row()
    assert (row.timed, row.time_us.median, row.below_bound) == ("all ranks", 512_000, False)
    assert row.bound_us is not None
    assert row.time_us.median >= row.bound_us


@pytest.mark.parametrize(("ms", "below"), [(18.3, True), (18.39, False)])
def test_a_time_below_its_bound_is_an_error(tmp_path: Path, ms: float, below: bool) -> None:
    """Of 18.389 ms, less a thousandth for rounding."""
    script = Script(tmp_path / "run", near_and_far())
    script.call("all_reduce", [(0, ms), (0, ms), (0, ms)])
    summary = script.summary()
    assert summary.collectives[0].below_bound == below
    status = Status(state="completed")
    problems = judge(script.plan, script.run, summary, status)
    assert [problem.code for problem in problems] == [ProblemCode.BELOW_BOUND] * below


def test_nothing_is_sent_of_nothing(tmp_path: Path) -> None:
    script = Script(tmp_path / "run", near_and_far())
    script.call("all_reduce", [(0, 0)] * 3, sizes=0)
    row = script.row()
    assert (row.bound_us, row.below_bound) == (None, False)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([40.0], None),
        ([40.0, 40.1, 39.9], "yes"),
        ([3.2, 3.6, 1.4], "swing"),
        ([50.0, 60.0, 70.0], "trend"),
        ([70.0, 60.0, 50.0], "trend"),
        ([40.0, 80.0], "swing"),
        ([100.0, 104.0, 108.0], "yes"),  # by less than a tenth
        ([40.0] * 99 + [400.0], "yes"),  # one of a hundred
        ([40.0, 80.0] * 20, "swing"),
        ([40.0 + number for number in range(30)], "trend"),
    ],
)
def test_settled(times: list[float], expected: str | None) -> None:
    assert settled(times) == expected
