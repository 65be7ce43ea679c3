"""Traces as tools write them: the changes that they make, and what is refused."""

from pathlib import Path

import pytest

from testbed.core.errors import InputError
from tests.support.events import SECOND, network, topology

MBIT = 10**6
# text of a trace, and the rate in Mbit/s from each time in s on
TRACES: dict[str, tuple[str, dict[float, float]]] = {
    "as documented": ("time,rate\n0 s,1 Mbit/s\n500 ms,2 Mbit/s\n", {0: 1, 0.5: 2}),
    "Excel's mark": ("\ufefftime,rate\n0 s,1 Mbit/s\n2 s,2 Mbit/s\n", {0: 1, 2: 2}),
    "units in the head": ("time (ms),rate (Mbit/s)\n0,1\n100,2.5\n", {0: 1, 0.1: 2.5}),
    "bytes": ("time_s;throughput_MBps\n0;0,125\n1;0,25\n", {0: 1, 1: 2}),
    "kbit/s in a column of tabs": ("Time [s]\tDL_bitrate_kbps\n0\t1000\n1\t2000\n", {0: 1, 1: 2}),
    "a comment as the head": ("# time_s rate_mbps\n0.0 1\n1.0 2\n", {0: 1, 1: 2}),
    "Unix times": ("unix time (s),bandwidth Mbps\n1601979600.5,1\n1601979601.5,2\n", {0: 1, 1: 2}),
    "dates": ("timestamp,rate_mbps\n2026-05-01 12:00:00,1\n2026-05-01 12:00:02,2\n", {0: 1, 2: 2}),
    "times of day": ("time;rate_mbps\n23:59:01;1\n23:59:03.5;2\n", {0: 1, 2.5: 2}),
    "dates of phones": (
        "Timestamp,DL_bitrate (kbps)\n2019.12.14_09.51.02,1000\n2019.12.14_09.52.02,2000\n",
        {0: 1, 60: 2},
    ),
    "a row of units": ("time,rate\nms,Mbit/s\n0,1\n100,2.5\n", {0: 1, 0.1: 2.5}),
    "stalls": (
        "time,rate\n0 s,2 Mbit/s\n3 s,0\n5 s,1 Mbit/s\n8 s,0.0 Mbit/s\n9 s,2 Mbit/s\n",
        {0: 2, 3: 0, 5: 1, 8: 0, 9: 2},
    ),
    "an index column": (",time_s,rate_mbps\n0,0,1\n1,5,2\n", {0: 1, 5: 2}),
    "missing values": ("time_s,rate_mbps\n0,1\n1,NA\n2,2\n", {0: 1, 2: 2}),
    "figures that are no whole bit/s": ("time_s,rate_mbps\n0,1.23456789\n", {0: 1.234568}),
    # three packets of 12 kbit in the first 100 ms, one in the second, three in the last 50 ms
    "mahimahi": ("10\n20\n20\n110\n210\n240\n250\n", {0: 0.36, 0.1: 0.12, 0.2: 0.72}),
}


@pytest.mark.parametrize("case", TRACES)
def test_traces(case: str, tmp_path: Path) -> None:
    text, expected = TRACES[case]
    (tmp_path / "trace").write_text(text, encoding="utf-8")
    resolved = network(tmp_path, "{at: 10 s, links: a-b, trace: trace}")
    rates: dict[float, float] = {}
    for change in resolved.changes:
        time_s = (change.at_ns - 10 * SECOND) / SECOND
        rates[time_s] = change.links[0].forward.bottleneck.rate_bps / MBIT
    assert rates == expected


def test_a_round_trip_is_two_delays(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("time_s,rtt_ms,loss_pct\n0,50,1.5\n")
    (change,) = network(tmp_path, "{at: 0 s, links: a-b, trace: trace}").changes
    fibre = change.links[0].forward.fibre
    assert (fibre.delay_ns, fibre.loss.mean) == (25_000_000, 0.015)


def test_half_of_a_round_trip_is_a_delay(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("time_s,half_rtt_ms\n0,25\n")
    (change,) = network(tmp_path, "{at: 0 s, links: a-b, trace: trace}").changes
    assert change.links[0].forward.fibre.delay_ns == 25_000_000


def test_ten_thousand_rows(tmp_path: Path) -> None:
    lines = ["time_ms,rate_mbps", *(f"{100 * row},{5 + row * 7919 % 37}" for row in range(10_000))]
    (tmp_path / "long.csv").write_text("\n".join(lines))
    loaded = topology(tmp_path, "{at: 0 s, links: a-b, trace: long.csv}")
    assert len(loaded.states) == 10_000
    with pytest.raises(InputError, match="too many changes: 10001"):
        topology(tmp_path, "{at: 0 s, duration: 2000 s, links: a-b, trace: long.csv}")


WRONG: dict[str, tuple[str, str]] = {
    "no header": ("0.0\t1.5\n1.0\t2.5\n", "the trace bad has no header"),
    "a multiple of a unit": ("time (0.1 s),rate_mbps\n0,1\n", "unknown column 'time (0.1 s)'"),
    "no units": ("time,rate\n0,1\n", "the rate '1' has no unit"),
    "one way or a round trip": (
        "time_s,latency_ms\n0,5\n",
        "call it delay if it is one way, and rtt if it is a round trip",
    ),
    "an unknown unit": ("time_s,rate (furlongs)\n0,5\n", "unknown column 'rate (furlongs)'"),
    "bits or bytes": ("time_s,rate\n0,5 MBPS\n", "unknown unit 'MBPS'"),
    "how it was read": (
        "time_s;rate_mbps\n0;5\n1;x\n",
        "'x' is not a rate\n  write a number and a unit, such as 10 Gbit/s; the units are bit/s, "
        "kbit/s, Mbit/s, Gbit/s, Tbit/s\n  read as UTF-8, cells separated by semicolons, "
        "decimal point, columns time_s, rate_mbps",
    ),
    "mahimahi backwards": ("5\n9\n8\n", "line 3 of the trace bad is earlier than the previous"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_traces(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    (tmp_path / "bad").write_text(text)
    with pytest.raises(InputError) as caught:
        topology(tmp_path, "{at: 0 s, links: a-b, trace: bad}")
    assert message in str(caught.value).replace(f"{tmp_path}/", "")
