"""Packet captures of whole runs: they change no time, tshark agrees on the same file, and a
capture that was cut off is reported.
"""

import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from tests.support.runs import Command, Folder, Need, all_reduce

SIZES = (4_000, 1_000_000, 16_000_000)
ITERATIONS, WARMUP = 1, 1
JOB = all_reduce("4000 B, 1 MB, 16 MB", ITERATIONS, WARMUP)
LOSSY = """
name: lossy
datacenters:
  west: {hosts: 1, nic: {delay: 0 ms}}
  east: {hosts: 1, nic: {delay: 0 ms}}
wan:
  - {between: [west, east], rate: 200 Mbit/s, delay: 5 ms, loss: 0.5 %}
"""
TSHARK = {
    "way": "frame.packet_flags_direction",
    "interface": "frame.interface_name",
    "src": "ip.src",
    "src_port": "tcp.srcport",
    "dst_port": "tcp.dstport",
    "payload": "tcp.len",
    "again": "tcp.analysis.retransmission",
    "late": "tcp.analysis.out_of_order",
    "rtt": "tcp.analysis.ack_rtt",
    "seq": "tcp.seq",
    "ack": "tcp.ack",
}
OUTBOUND = "0x00000002"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


@pytest.fixture(scope="module")
def captured(command: Command, pair: Path, folders: Path) -> Folder:
    words = [
        "run",
        pair,
        "collectives",
        *JOB,
        "--isolation",
        "process",
        "--seed",
        1,
        "--capture",
        "wan",
    ]
    command(*words, "--out", folders / "captured")
    return Folder(folders / "captured")


@pytest.fixture(scope="module")
def lossy(command: Command, folders: Path) -> Folder:
    topology = folders / "lossy.yaml"
    topology.write_text(LOSSY)
    words = [
        "run",
        topology,
        "collectives",
        *all_reduce("4 MB", 2),
        "--isolation",
        "process",
        "--seed",
        1,
    ]
    command(*words, "--capture", "wan", "--out", folders / "lossy")
    return Folder(folders / "lossy")


def flows(run: Folder) -> pl.DataFrame:
    return pl.read_parquet(run.path / "flows.parquet")


def test_a_capture_changes_no_time(
    command: Command, pair: Path, folders: Path, captured: Folder
) -> None:
    """Every operation of every rank takes the same time without a capture, within 1 us: a few steps
    of the clock (256 ns), for on a busy machine a rank may read it once more. On an idle one the
    nanoseconds are the same."""
    words = [
        "run",
        pair,
        "collectives",
        *JOB,
        "--isolation",
        "process",
        "--seed",
        1,
        "--capture",
        "none",
    ]
    command(*words, "--out", folders / "plain")
    key = ["op", "bytes", "iteration", "rank"]
    with_it, without = (
        run.ops.select(*key, ns=pl.col("end_ns") - pl.col("start_ns")).sort(key)
        for run in (captured, Folder(folders / "plain"))
    )
    assert with_it.height == 2 * len(SIZES) * (WARMUP + ITERATIONS)
    assert with_it.select(key).equals(without.select(key))
    assert max((with_it["ns"] - without["ns"]).abs()) <= 1000


def test_bytes_of_each_operation(captured: Folder) -> None:
    """Of S bytes, the ring of two ranks sends S each way; gloo adds headers and notices, below 1 kB
    for each MiB.
    """
    table = pl.read_parquet(captured.path / "flow_ops.parquet").filter(op="all_reduce")
    sums = table.group_by("bytes", "iteration", "flow").agg(pl.col("payload_bytes").sum())
    assert sums.height == 2 * len(SIZES) * (WARMUP + ITERATIONS)
    for row in sums.rows(named=True):
        assert 0 <= row["payload_bytes"] - row["bytes"] < 1000 + 1000 * row["bytes"] / 2**20


def test_delays(captured: Folder) -> None:
    """The least delay is the fibre's; 1 Gbit/s with 2 MiB on their way queues for up to 17 ms."""
    for row in flows(captured).filter(pl.col("payload_bytes") > 1e6).rows(named=True):
        assert row["delay_min_ns"] == pytest.approx(10e6, abs=10e3)
        assert 0 < row["queueing_median_ns"] <= row["queueing_p95_ns"] < 17e6
        assert row["rtt_min_ns"] == pytest.approx(20e6, abs=10e3)
        assert (row["lost"], row["dropped"], row["retransmissions"]) == (0, 0, 0)


def tshark(path: Path) -> pl.DataFrame:
    """What tshark says of each packet."""
    fields: list[str] = []
    for field in TSHARK.values():
        fields += ["-e", field]
    words = ["tshark", "-r", str(path), "-2", "-T", "fields", "-E", "occurrence=f", *fields]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return pl.DataFrame([line.split("\t") for line in lines], schema=list(TSHARK), orient="row")


@pytest.mark.parametrize("end", ["west", "east"])
def test_tshark_agrees(lossy: Folder, need: Need, end: str) -> None:
    """On the same file: packets and bytes exactly, and how many packets start below the highest
    byte.

    This link never reorders: all of those are retransmissions. tshark goes by time, and takes what
    follows newer data within a round trip for reordered. Of the retransmissions, those that start
    where another packet did share its sequence number, at least 85 %; the others were cut
    differently.
    """
    need(shutil.which("tshark"), "tshark")
    said = tshark(lossy.path / "captures" / f"west-east@{end}.pcapng").filter(way=OUTBOUND)
    mine = flows(lossy).filter(from_dc=end)
    assert mine.height >= 2
    assert said["interface"].n_unique() == 1
    for row in mine.rows(named=True):
        ports = {"src_port": str(row["src_port"]), "dst_port": str(row["dst_port"])}
        theirs = said.filter(src=row["src_address"], **ports)
        assert theirs.height == row["records"]
        assert theirs["payload"].cast(pl.Int64).sum() == row["payload_bytes"]
        again, late = (theirs.filter(pl.col(name) != "").height for name in ("again", "late"))
        assert again + late == row["retransmissions"] + row["out_of_order"]
        assert (again <= row["retransmissions"], row["out_of_order"]) == (True, 0)
        data = theirs.filter(pl.col("payload") != "0")
        twice = data.height - data["seq"].n_unique()
        assert 0.85 * row["retransmissions"] <= twice <= row["retransmissions"]


@pytest.mark.parametrize("end", ["west", "east"])
def test_tshark_agrees_on_round_trips(lossy: Folder, need: Need, end: str) -> None:
    """The acknowledgements that come in give the round trips of what goes out, to the nanosecond,
    but for those that cover what was sent twice: tshark takes them too, though they may answer
    either copy, or have waited for the second.
    """
    need(shutil.which("tshark"), "tshark")
    said = tshark(lossy.path / "captures" / f"west-east@{end}.pcapng")
    for row in (
        flows(lossy)
        .filter(pl.col("from_dc") == end, pl.col("payload_bytes") > 1e6)
        .rows(named=True)
    ):
        there = {
            "src": row["src_address"],
            "src_port": str(row["src_port"]),
            "dst_port": str(row["dst_port"]),
        }
        back = {
            "src": row["dst_address"],
            "src_port": str(row["dst_port"]),
            "dst_port": str(row["src_port"]),
        }
        trips = clear_trips(
            said.filter(way=OUTBOUND, **there), said.filter(pl.col("way") != OUTBOUND, **back)
        )
        assert trips.min() == pytest.approx(row["rtt_min_ns"], abs=1)
        assert trips.median() == pytest.approx(row["rtt_median_ns"], abs=1)
        assert trips.quantile(0.95, "linear") == pytest.approx(row["rtt_p95_ns"], abs=1)
        assert len(trips) == row["rtt_samples"]


def clear_trips(sent: pl.DataFrame, back: pl.DataFrame) -> pl.Series:
    """tshark's round trips in ns, of acknowledgements that cover nothing which it saw sent
    twice.
    """
    number = pl.Int64
    again = sent.filter((pl.col("again") != "") | (pl.col("late") != "")).select(
        begin=pl.col("seq").cast(number),
        end=pl.col("seq").cast(number) + pl.col("payload").cast(number),
    )
    acks = back.with_columns(ack=pl.col("ack").cast(number)).with_columns(
        before=pl.col("ack").cum_max().shift(1, fill_value=0)
    )
    doubtful = acks.join_where(
        again, pl.col("begin") < pl.col("ack"), pl.col("end") > pl.col("before")
    )
    clear = acks.filter(pl.col("rtt") != "").join(
        doubtful.select("ack").unique(), on="ack", how="anti"
    )
    return clear["rtt"].cast(pl.Float64) * 1e9


def test_losses_are_those_of_the_link(lossy: Folder) -> None:
    """0.5 % of the packets are lost in the fibre, none in the queue, and each is sent again."""
    table = flows(lossy)
    lost, packets, again = (sum(table[name]) for name in ("lost", "packets", "retransmissions"))
    assert lost == pytest.approx(0.005 * packets, rel=0.3)
    assert table["dropped"].sum() == 0
    lost_data = sum(table.filter(pl.col("payload_bytes") > 1e6)["lost"])
    assert 0.5 * lost_data <= again <= 2 * lost_data


def test_a_cut_capture_is_told(command: Command, pair: Path, folders: Path) -> None:
    """Beyond its limit a capture loses the oldest packets: the output, the status and the summary
    say so.
    """
    out = folders / "cut"
    limits = [
        "--capture",
        "all",
        "--capture-filter",
        "tcp",
        "--capture-snap",
        "64 KiB",
        "--capture-limit",
        "4 MB",
    ]
    job = all_reduce("8 MB", 1, 0)
    done = command(
        "run", pair, "collectives", *job, *limits, "--isolation", "process", "--out", out
    )
    run = Folder(out)
    names = {
        "west-east@west",
        "west-east@east",
        "lan@west",
        "lan@east",
        "nic@west-h0",
        "nic@east-h0",
    }
    points = {point["capture"].removesuffix(".pcapng"): point for point in run.summary["captures"]}
    assert set(points) == names
    assert points["nic@west-h0"]["removed_records"] > 0
    names_its_host = b"west-h0-eth0" in (out / "captures/nic@west-h0.pcapng").read_bytes()[:1000]
    assert names_its_host
    for point in points.values():
        assert (out / "captures" / point["capture"]).stat().st_size < 1.1 * 4e6
    warning = next(
        entry["message"] for entry in run.status["warnings"] if "nic@west-h0" in entry["message"]
    )
    assert "exceeded its limit" in warning
    assert "was cut" in " ".join(done.stdout.split())
    assert run.status["faithful"]
    assert command("report", out).stdout.count("nic@west-h0.pcapng was cut") == 1
