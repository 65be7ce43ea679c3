"""All operations between two datacenters, and the hierarchy against gloo's ring, in guests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import testbed
from tests.support.runs import Command, Folder, set_options

MIB = 2**20
OPERATIONS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "send_recv",
    "barrier",
)
TOPOLOGY = """
name: two
datacenters:
  west: {hosts: HOSTS, nic: {rate: 10 Gbit/s, delay: 5 us}}
  east: {hosts: HOSTS, nic: {rate: 10 Gbit/s, delay: 5 us}}
wan:
  - {between: [west, east], rate: 10 Gbit/s, delay: DELAY}
"""

Start = Callable[..., Folder]  # the fixture `run`


@pytest.fixture(scope="module")
def run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """``run(hosts, delay, **settings)``: the folder of a run of `collectives`."""

    def start(hosts: int, delay: str, **settings: object) -> Folder:
        folder = tmp_path_factory.mktemp("collectives")
        topology = folder / "two.yaml"
        topology.write_text(TOPOLOGY.replace("HOSTS", str(hosts)).replace("DELAY", delay))
        words = set_options(settings)
        command(
            "run",
            topology,
            "collectives",
            *words,
            "--isolation",
            "process",
            "--out",
            folder / "run",
        )
        return Folder(folder / "run")

    return start


def test_every_operation(run: Start) -> None:
    """Right results, and no time below the bound, of any iteration."""
    folder = run(
        2, "10 ms", ops=f"[{', '.join(OPERATIONS)}]", sizes="[4 KiB, 256 KiB]", iterations=2
    )
    rows = folder.summary["collectives"]
    expected: list[str] = []
    for op in OPERATIONS:
        expected += [op] if op == "barrier" else [op, op]
    assert [row["op"] for row in rows] == expected
    assert [row["op"] for row in rows if row["wrong"] != 0] == []
    assert [row["op"] for row in rows if row["ranks"] != 4] == []
    assert [
        row["op"] for row in rows if not row["time_us"]["min"] >= row["bound_us"] >= 10_000
    ] == []
    assert folder.status["faithful"], folder.status


def test_groups_at_the_same_time(run: Start) -> None:
    """An all-reduce in each datacenter does not wait for the WAN; one of each rail needs it. Bytes
    tell them apart.
    """
    inside = run(
        2, "10 ms", ops="[all_reduce]", sizes="[1 MiB]", groups="datacenter", in_place="true"
    )
    along = run(2, "10 ms", ops="[all_reduce]", sizes="[1 MiB]", groups="rail", connections=2)
    for folder in (inside, along):
        (row,) = folder.summary["collectives"]
        assert (row["ranks"], row["wrong"], row["iterations"]) == (2, 0, 3)
        assert row["bound_us"] <= row["time_us"]["min"]
    assert set(inside.ops["group"]) == {"west", "east"}
    assert set(along.ops["group"]) == {"rail-0", "rail-1"}
    assert inside.median_ms()[MIB] < 10 < 4 * 10 <= along.median_ms()[MIB]
    assert (
        max(row["bytes"] for row in inside.summary["wan"]) < 0.2 * MIB
    )  # barriers and the rendezvous
    # Each of two rails sends its MiB once each way, in each of four iterations.
    for row in along.summary["wan"]:
        assert row["bytes"] == pytest.approx(2 * 4 * MIB, rel=0.08)


def test_hierarchical_all_reduce(run: Start) -> None:
    """Over a WAN of 20 ms: less than half of the time of gloo's ring, and S each way instead of 7/4
    S.

    Each of four rails reduces a quarter of S between two ranks: half of it goes each way to be
    added and half comes back as the sum, so S/4 of each rail and S in all crosses the WAN in each
    direction. Of the ring of eight ranks one edge goes each way, and carries 2 x 7/8 S. Frames of
    1514 bytes hold 1448 bytes of data. The tolerance has room for acknowledgements, barriers and
    the rendezvous, 1 % of all.
    """
    ring, staged = (
        run(4, "20 ms", ops="[all_reduce]", sizes="[4 MiB]", algorithm=name)
        for name in ("gloo", "hierarchical")
    )
    for folder, crossing in ((ring, 2 * 7 / 8), (staged, 1)):
        (row,) = folder.summary["collectives"]
        assert (row["wrong"], row["ranks"], row["iterations"]) == (0, 8, 3)
        assert row["time_us"]["min"] >= row["bound_us"]
        for way in folder.summary["wan"]:
            assert way["bytes"] == pytest.approx(
                4 * crossing * 4 * MIB * 1514 / 1448, rel=0.03
            )  # with the warm-up
    # Two exchanges, each of a request and its answer, are four one-way delays; the ring has
    # fourteen steps.
    assert 80 <= staged.median_ms()[4 * MIB] <= 95
    assert ring.median_ms()[4 * MIB] > 2 * staged.median_ms()[4 * MIB]


def test_folded_buffers_take_the_same_time(run: Start) -> None:
    """Within 0.1 %, for operations of each kind; contents are not checked.

    5 MiB is more than the memory that is folded. Computation takes no time, and TCP knows lengths
    only: the times should be the same.
    """
    ops = "[all_reduce, all_gather, all_to_all, gather, send_recv]"
    settings = {"ops": ops, "sizes": "[5 MiB]", "warmup": 0, "iterations": 1}
    real = run(1, "10 ms", **settings)
    folded = run(1, "10 ms", payload="folded", **settings)
    rows = list(zip(real.summary["collectives"], folded.summary["collectives"], strict=True))
    assert len(rows) == 5
    for one, other in rows:
        assert one["op"] == other["op"]
        assert other["time_us"]["median"] == pytest.approx(one["time_us"]["median"], rel=0.001)
        assert (one["wrong"], other["wrong"]) == (0, None)
    assert folded.status["faithful"], folded.status


def test_advice_is_measured(command: Command, tmp_path: Path) -> None:
    """The ring's fourteen steps of 20 ms are the cause; stages have four. The same from Python."""
    values = {"ops": "[all_reduce]", "sizes": "[4 KiB]", "iterations": 3, "warmup": 1}
    settings: dict[str, Any] = {"topology.wan.iowa-ohio.delay": "20 ms"}
    for key, value in values.items():
        settings[f"workload.{key}"] = value
    words = ["--isolation", "process", "--advise", "--format", "json"]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    done = command("run", "two-sites", "collectives", *words, "--out", tmp_path / "run")
    document = json.loads(done.stdout)
    assert document["status"]["state"] == "completed"
    (change,) = document["advice"]
    assert change["settings"] == "workload.algorithm=hierarchical"
    base, changed = Folder(tmp_path / "run"), Folder(tmp_path / "run-advice-1")
    assert base.summary["dominant"]["cause"] == "steps"
    assert changed.json("plan.json")["workers"]["settings"]["algorithm"] == "hierarchical"
    assert changed.status["command"][-2:] == ["--set", "workload.algorithm=hierarchical"]
    times = [folder.median_ms()[4096] for folder in (base, changed)]
    assert times[1] < times[0] / 2
    assert (change["base_ms"], change["changed_ms"]) == tuple(times)
    assert change["change_percent"] == pytest.approx(100 * (times[1] / times[0] - 1))

    settings["workload.ops"], settings["workload.sizes"] = ["all_reduce"], ["4 KiB"]
    out = tmp_path / "again"
    advice = testbed.advise(
        "two-sites", "collectives", settings=settings, isolation="process", out=out
    )
    assert advice.table["changed_ms"].to_list() == [change["changed_ms"]]
    assert advice.run.path == tmp_path / "again"


def test_what_cannot_be_done_is_refused(command: Command, tmp_path: Path) -> None:
    words = ["--set", "workload.ops=[reduce]", "--set", "workload.algorithm=hierarchical"]
    done = command("run", "two-sites", "collectives", *words, "--out", tmp_path / "run", status=2)
    assert "no hierarchical algorithm for reduce" in done.stderr
    assert not (tmp_path / "run").exists()
