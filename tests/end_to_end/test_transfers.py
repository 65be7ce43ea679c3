"""Transfers in the background: how long they take by arithmetic, and what they do to the job.

Two hosts at 10 Gbit/s in each of two datacenters, and a link of 1 Gbit/s and 10 ms. A segment has
1448 bytes of data in a frame of 1514.
"""

import polars as pl
import pytest

from tests.support.runs import Command, Folder, all_reduce

SECOND = 10**9
FRAME = 1514 / 1448
PAIR = """
datacenters: {west: {hosts: 2, nic: {rate: 10 Gbit/s}}, east: {hosts: 2, nic: {rate: 10 Gbit/s}}}
wan: [{between: [west, east], rate: 1 Gbit/s, delay: 10 ms}]
events:
  - {at: 2 s, transfer: {from: west-h0, to: east-h1, size: 100 MB, connections: 2}}
  - {at: 6 s, transfer: {from: west, to: east, size: 40 MB, rate: 200 Mbit/s}}
  - {at: 10 s, transfer: {from: east-h0, to: west-h0, size: 900 GB}}
"""


@pytest.fixture(scope="module")
def run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("transfers")
    (folder / "pair.yaml").write_text(PAIR)
    job = all_reduce("1 MiB", 90)
    command(
        "run",
        folder / "pair.yaml",
        "collectives",
        *job,
        "--isolation",
        "process",
        "--out",
        folder / "run",
    )
    return Folder(folder / "run")


def test_a_transfer_takes_as_long_as_the_link_needs(run: Folder) -> None:
    """100 MB in 0.84 s; up to half as long again while the windows grow, and while the job has its
    share.
    """
    first = run.summary["transfers"][0]
    assert (first["from"], first["to"], first["received"]) == ("west-h0", "east-h1", 100_000_000)
    least_s = 100e6 * 8 * FRAME / 1e9 + 0.01
    assert least_s < first["seconds"] < 1.5 * least_s + 0.2


def test_a_transfer_keeps_to_its_rate(run: Folder) -> None:
    """Each host sends 20 MB at 100 Mbit/s, headers included, after a round trip."""
    paced = run.summary["transfers"][1:3]
    assert [(row["from"], row["to"], row["received"]) for row in paced] == [
        ("west-h0", "east-h0", 20_000_000),
        ("west-h1", "east-h1", 20_000_000),
    ]
    for row in paced:
        assert row["seconds"] == pytest.approx(20e6 * 8 * FRAME / 100e6 + 0.03, rel=0.05)


def test_a_transfer_ends_with_the_run(run: Folder) -> None:
    last = run.summary["transfers"][3]
    assert 0 < last["received"] < last["bytes"] == 900 * 10**9
    assert last["bps"] < 1e9 / FRAME


def test_the_job_goes_on_and_shares_the_link(run: Folder) -> None:
    assert run.status["faithful"], run.status["warnings"]
    assert {row["wrong"] for row in run.summary["collectives"]} == {0}
    first, took = run.summary["transfers"][0], pl.col("end_ns") - pl.col("start_ns")
    mine = run.ops.filter(pl.col("rank") == 0, pl.col("phase") == "measure")
    calm = mine.filter(pl.col("end_ns") < first["start_ns"]).select(took.median()).item()
    beside = mine.filter(
        pl.col("start_ns").is_between(first["start_ns"], first["start_ns"] + SECOND // 2)
    )
    assert beside.select(took.max()).item() > 1.2 * calm
    way = next(row for row in run.summary["wan"] if row["from"] == "west")
    assert way["bytes"] > 140e6 * FRAME
