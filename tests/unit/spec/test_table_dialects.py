"""The same RTTs in the dialects of spreadsheets, numpy, pandas, R and others: one topology."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from testbed.core.errors import InputError
from testbed.spec.importers import Imported, ImportOptions, convert

NAMES = ("Zürich", "New York, NY", "São Paulo")
SITES = ("zurich", "new-york-ny", "sao-paulo")
PAIRS = ((0, 1), (0, 2), (1, 2))
# unit of a time as people write it: its size in ns
UNITS = {
    **dict.fromkeys(("us", "µs", "usec", "microseconds", "USEC"), 10**3),
    **dict.fromkeys(("ms", "msec", "milliseconds", "MS", "Milliseconds"), 10**6),
    **dict.fromkeys(("s", "sec", "seconds"), 10**9),
    **dict.fromkeys(("ns", "nanoseconds"), 1),
}
MISSING = ("", "NA", "N/A", "NaN", "nan", "-", "—", "timeout", "null", "None", "#N/A")
ENDS = (
    ("from", "to"),
    ("src", "dst"),
    ("source", "target"),
    ("Source", "Destination"),
    ("source_region", "destination_region"),
    ("a", "b"),
    ("region1", "region2"),
    ("Client", "Server"),
    ("srcCity", "dstCity"),
    ("node_a", "node_b"),
    ("from site", "to site"),
)
HEADS = ("rtt_{}", "RTT ({})", "rtt [{}]", "Ping/{}", "Round trip time in {}", "latency_{}")


@dataclass(frozen=True)
class Dialect:
    separator: str
    decimal: str
    encoding: str
    line_end: str
    unit: str
    unit_in_cells: bool
    missing: str
    quoting: int
    comment: bool
    title: bool
    footer: bool
    padding: bool


DIALECTS = st.builds(
    Dialect,
    separator=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    unit=st.sampled_from(sorted(UNITS)),
    unit_in_cells=st.booleans(),
    missing=st.sampled_from(MISSING),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    comment=st.booleans(),
    title=st.booleans(),
    footer=st.booleans(),
    padding=st.booleans(),
)
# RTTs in us; no whole ms, so that a decimal mark is written in ms and s
RTTS_US = st.lists(st.integers(1, 400_000).map(lambda us: us | 1), min_size=3, max_size=3)


def written(rtt_us: int, dialect: Dialect) -> str:
    """An RTT as a number in the dialect's unit, exact."""
    number = Fraction(rtt_us * 1000, UNITS[dialect.unit])
    places = {1: 0, 10**3: 0, 10**6: 3, 10**9: 6}[UNITS[dialect.unit]]
    text = f"{number.numerator * 10**places // number.denominator:0{places + 1}d}"
    if places:
        text = f"{text[:-places]}{dialect.decimal}{text[-places:]}"
    return f"{text} {dialect.unit}" if dialect.unit_in_cells else text


def save(path: Path, rows: Sequence[Sequence[str]], dialect: Dialect) -> None:
    out = io.StringIO()
    writer = csv.writer(
        out,
        delimiter=dialect.separator,
        quoting=dialect.quoting,  # type: ignore[arg-type]
        lineterminator=dialect.line_end,
    )
    if dialect.comment:
        out.write(f"# measured in March{dialect.line_end}")
    if dialect.title:
        writer.writerow(["Measured by our probes"])
    if dialect.padding:
        for row in rows:
            writer.writerow([f" {cell} " for cell in row])
    else:
        writer.writerows(rows)
    if dialect.footer:
        out.write(f"{dialect.line_end}Source: own measurements{dialect.line_end}")
    path.write_bytes(out.getvalue().encode(dialect.encoding, "replace"))


def delays_ns(imported: Imported) -> dict[tuple[str, str], int]:
    """The one-way delays of an imported topology, by source and target."""
    delays: dict[tuple[str, str], int] = {}
    for link in imported.topology.links:
        for direction in (link.forward, link.backward):
            delays[direction.source, direction.target] = direction.delay
    return delays


def expected(rtts_us: Sequence[int]) -> dict[tuple[str, str], int]:
    delays: dict[tuple[str, str], int] = {}
    for (first, second), rtt in zip(PAIRS, rtts_us, strict=True):
        delays[SITES[first], SITES[second]] = rtt * 500
        delays[SITES[second], SITES[first]] = rtt * 500
    return delays


def has_clear_numbers(rtts_us: Sequence[int], dialect: Dialect) -> bool:
    """Whether one number proves the decimal comma: 1,234 alone may be thousands."""
    if dialect.decimal == "." or UNITS[dialect.unit] != 10**6:
        return True
    return any(rtt < 1000 or rtt >= 10**6 for rtt in rtts_us)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rtts_us=RTTS_US, dialect=DIALECTS, triangle=st.sampled_from(["full", "upper", "lower"]))
def test_matrix(tmp_path: Path, rtts_us: list[int], dialect: Dialect, triangle: str) -> None:
    cells = [[dialect.missing] * 3 for _ in NAMES]
    for (row, column), rtt in zip(PAIRS, rtts_us, strict=True):
        if triangle != "lower":
            cells[row][column] = written(rtt, dialect)
        if triangle != "upper":
            cells[column][row] = written(rtt, dialect)

    corner = "" if dialect.unit_in_cells else f"RTT ({dialect.unit})"
    rows = [[corner, *NAMES]]
    for name, values in zip(NAMES, cells, strict=True):
        rows.append([name, *values])

    path = tmp_path / "rtts.csv"
    save(path, rows, dialect)
    if not has_clear_numbers(rtts_us, dialect):
        with pytest.raises(InputError, match="may be"):
            convert(path, ImportOptions())
        return
    assert delays_ns(convert(path, ImportOptions())) == expected(rtts_us)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rtts_us=RTTS_US,
    dialect=DIALECTS,
    ends=st.sampled_from(ENDS),
    head=st.sampled_from(HEADS),
    has_index=st.booleans(),
)
def test_list(
    tmp_path: Path,
    rtts_us: list[int],
    dialect: Dialect,
    ends: tuple[str, str],
    head: str,
    has_index: bool,
) -> None:
    unit = "ms" if dialect.unit_in_cells else dialect.unit
    rows = [[*ends, head.format(unit)]]
    for (first, second), rtt in zip(PAIRS, rtts_us, strict=True):
        rows.append([NAMES[first], NAMES[second], written(rtt, dialect)])
    rows.append([NAMES[1], NAMES[0], dialect.missing])
    if has_index:
        numbers = ["", *map(str, range(len(rows) - 1))]
        rows = [[number, *row] for number, row in zip(numbers, rows, strict=True)]

    path = tmp_path / "rtts.csv"
    save(path, rows, dialect)
    if not has_clear_numbers(rtts_us, dialect):
        with pytest.raises(InputError, match="may be"):
            convert(path, ImportOptions())
        return
    assert delays_ns(convert(path, ImportOptions())) == expected(rtts_us)


# Files that were read wrongly, or are written by a tool: text, one-way delays in us there and back
FILES: dict[str, tuple[str, float, float]] = {
    "microseconds in the corner": ("RTT (usec),a,b\na,,16400\nb,16400,\n", 8200, 8200),
    "microseconds in a list": ("from,to,rtt_usec\na,b,16400\n", 8200, 8200),
    "seconds": ("RTT in seconds,a,b\na,,0.0164\nb,0.0164,\n", 8200, 8200),
    "a triangle of zeros": ("ms,a,b\na,0.0,16.4\nb,0.0,0.0\n", 8200, 8200),
    "decimal commas": ("ms;a;b\na;;16,4\nb;16,4;\n", 8200, 8200),
    "quoted decimal commas": ('ms,a,b\na,,"16,4"\nb,"16,4",\n', 8200, 8200),
    "thousands by evidence": ('us,a,b\na,,"16,400.5"\nb,"16,400.5",\n', 8200.25, 8200.25),
    "apostrophes": ("us;a;b\na;;16'400\nb;16'400;\n", 8200, 8200),
    "one way": ("one-way delay (ms),a,b\na,,8.2\nb,9,\n", 8200, 9000),
    "a comment with the unit": ("# all values in usec\n,a,b\na,,16400\nb,16400,\n", 8200, 8200),
    "a title with the unit": ("RTT (us),,\n,a,b\na,,16400\nb,16400,\n", 8200, 8200),
    "numpy.savetxt": ("# from to rtt_ms\na b 16.4\nb a 18\n", 8200, 9000),
    "pandas.to_csv": (",from,to,rtt_ms\n0,a,b,16.4\n1,b,a,18.0\n", 8200, 9000),
    "pandas.reset_index": (",region,a,b\n0,a,,16.4\n1,b,18.0,\n", 8200, 9000),
    "pandas.to_string": ("      a     b\na   NaN  16.4\nb  18.0   NaN\n", 8200, 9000),
    "R's write.table": ('"a" "b"\n"a" NA 16.4\n"b" 18 NA\n', 8200, 9000),
    "Markdown": ("| ms | a | b |\n|----|---|---|\n| a | - | 16.4 |\n| b | 18 | - |\n", 8200, 9000),
    "psql": (
        " from | to | rtt_ms \n------+----+--------\n a | b | 16.4\n b | a | 18\n(2 rows)\n",
        8200,
        9000,
    ),
    "Excel's separator": ("sep=;\nms;a;b\na;;16,4\nb;18;\n", 8200, 9000),
    "a ragged triangle": ("ms,a,b\na\nb,16.4\n", 8200, 8200),
    "milli-seconds": ("from,to,RTT (milli-seconds)\na,b,16.4\n", 8200, 8200),
    "half of the RTT": ("from,to,half_rtt_ms\na,b,8.2\n", 8200, 8200),
    "RTT/2": ("RTT/2 (ms),a,b\na,,8.2\nb,9,\n", 8200, 9000),
    "other names of ends": ("probe,vantage point,rtt_ms\na,b,16.4\nb,a,18\n", 8200, 9000),
    "names of ends in another language": ("von;nach;RTT (ms)\na;b;16,4\n", 8200, 8200),
    "a column of differences": ("from,to,rtt_ms,rtt change (ms)\na,b,16.4,-3\n", 8200, 8200),
    "a percentile": ("from,to,latency_50_ms\na,b,16.4\n", 8200, 8200),
    "a triangle without a corner": ("a,b\na,,\nb,16.4,\n", 8200, 8200),
    "separators at the end of rows": ("from,to,rtt_ms\na,b,16.4,\nb,a,18,\n", 8200, 9000),
    "a row of units": ("from,to,rtt\n,,us\na,b,16400\nb,a,18000\n", 8200, 9000),
    "a row of units in brackets": ("from;to;rtt\n-;-;[ms]\na;b;16,4\n", 8200, 8200),
    "heads in two rows": ("To,a,b\nFrom,,\na,5,16.4\nb,18,5\n", 8200, 9000),
    "averages": ("ms,a,b,average\na,,16.4,16.4\nb,18,,18\naverage,18,16.4,17\n", 8200, 9000),
    "statistics": ("src,dst,min,avg,max\na,b,16 ms,16.4 ms,20 ms\n", 8200, 8200),
    "units in cells": ("from,to,rtt\na,b,16.4ms\nb,a,0.018s\n", 8200, 9000),
    "aligned columns": ("from  to   rtt_ms\na     b    16.4\nb     a    18\n", 8200, 9000),
    "a timeout": ("from,to,ping_ms\na,b,16.4\nb,a,timeout\n", 8200, 8200),
    "columns that are no values": (
        "timestamp,source,destination,rtt_ms,samples\n1,a,b,16.4,10\n",
        8200,
        8200,
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_tools(case: str, tmp_path: Path) -> None:
    text, there_us, back_us = FILES[case]
    path = tmp_path / "rtts.csv"
    path.write_text(text, encoding="utf-8")
    expected_ns = {("a", "b"): there_us * 1000, ("b", "a"): back_us * 1000}
    assert delays_ns(convert(path, ImportOptions())) == expected_ns


def test_a_place_with_the_name_of_a_unit(tmp_path: Path) -> None:
    """The first row of a lower triangle has no values."""
    path = tmp_path / "rtts.csv"
    path.write_text(",us,eu\nus,,\neu,90,\n")
    delay_ns = 45 * 10**6
    assert delays_ns(convert(path, ImportOptions())) == {
        ("us", "eu"): delay_ns,
        ("eu", "us"): delay_ns,
    }


# Heads of rates, and the rate of the number 8 below them in Mbit/s
RATES = {
    "rate (G bps)": 8000,
    "Mega bits per second": 8,
    "rate [mega bit/s]": 8,
    "bandwidth_MBps": 64,
    "Throughput [Gbits/sec]": 8000,
    "speed (KB/s)": 0.064,
    "capacity_bps": 8e-6,
}


@pytest.mark.parametrize("head", RATES)
def test_heads_of_rates(head: str, tmp_path: Path) -> None:
    path = tmp_path / "rtts.csv"
    path.write_text(f"from,to,rtt_ms,{head}\na,b,16.4,8\n")
    (link,) = convert(path, ImportOptions()).topology.links
    assert link.forward.rate == round(RATES[head] * 10**6)


# Files that may mean two things, or nothing: text, part of the message
UNCLEAR: dict[str, tuple[str, str]] = {
    "an unknown unit": ("RTT (jiffies),a,b\na,,1\nb,1,\n", "names no known unit: 'jiffies'"),
    "an unknown unit of a list": ("from,to,rtt_ticks\na,b,1\n", "names no known unit: 'ticks'"),
    "a multiple of a unit": ("from,to,rtt (0.1 ms)\na,b,164\n", "no known unit: '0.1 ms'"),
    "a power of ten": ("RTT (10^-6 s),a,b\na,,1\nb,1,\n", "no known unit: '10^-6 s'"),
    "a multiple in a comment": ("# in 0.1 ms\n,a,b\na,,1\nb,1,\n", "names '0.1 ms', which is not"),
    "thousands": ("from,to,rtt (thousands of us)\na,b,1\n", "no known unit: 'us thousands'"),
    "one unit or another": ("from,to,rtt (ms/us)\na,b,1\n", "no known unit: 'ms/us'"),
    "differences alone": ("from,to,rtt change (ms)\na,b,1\n", "no RTT column found"),
    "a country or a unit": ("RTT US,a,b\na,,1\nb,1,\n", "names no known unit: 'us'"),
    "two units": ("# in ms\n# in us\n,a,b\na,,1\nb,1,\n", "comments name several units: ms, us"),
    "a decimal comma or a thousand": ('ms,a,b\na,,"1,234"\nb,,\n', "may be 1.234 or 1234"),
    "two decimal marks": ("ms;a;b\na;;16,4\nb;16.45;\n", "has a decimal comma, and '16.45' a deci"),
    "a zero": ("ms,a,b,c\na,,0,5\nb,16,,5\nc,5,5,\n", "a time of 0 between two datacenters"),
    "a rate of times": ("from,to,rtt_mbps\na,b,1\n", "has mbps, which is not a unit of time"),
    "how it was read": ("ms;a;b\na;;x\nb;;\n", "read as UTF-8, cells separated by semicolons, "),
    "two RTTs": ("from,to,rtt_ms,ping_ms\na,b,1,2\n", "duplicate column 'ping_ms'"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_unclear_files(case: str, tmp_path: Path) -> None:
    text, message = UNCLEAR[case]
    path = tmp_path / "rtts.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        convert(path, ImportOptions())
    assert message in str(caught.value)
