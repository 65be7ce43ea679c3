import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from testbed.core import units
from testbed.core.units import LARGEST, Probability, Rate, Size, Time, UnitError

WHOLE = st.integers(min_value=1, max_value=LARGEST)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10 Gbit/s", 10**10),
        ("10 Gbit", 10**10),
        ("5 Gbps", 5 * 10**9),
        ("100Mbit/s", 10**8),
        ("10gbit", 10**10),
        ("1.1 Gbit/s", 1_100_000_000),
        ("1e3 kbit/s", 10**6),
        (".5 Tbit/s", 5 * 10**11),
        ("8 bit/s", 8),
        ("125 MBps", 10**9),
        ("125 MB/s", 10**9),
        ("125 Mb/s", 125 * 10**6),
        ("125 mbps", 125 * 10**6),
        ("125 Mbits/sec", 125 * 10**6),
        ("125 megabits per second", 125 * 10**6),
        ("1 kB/s", 8000),
        ("1 KBps", 8000),
        ("1 MByte/s", 8 * 10**6),
        ("1 MiB/s", 8 * 2**20),
        ("1 Gibit/s", 2**30),
        ("3 Bps", 24),
        ("10 GBit/s", 10**10),
        ("10 GBIT/S", 10**10),
    ],
)
def test_rates(text: str, bits: int) -> None:
    assert units.parse_rate(text) == bits


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("8.2 ms", 8_200_000),
        ("5 us", 5_000),
        ("5 µs", 5_000),
        ("350 ms", 350_000_000),
        ("1 s", 10**9),
        ("5 usec", 5_000),
        ("5 μs", 5_000),
        ("5 microseconds", 5_000),
        ("5 msec", 5_000_000),
        ("5 milliseconds", 5_000_000),
        ("2 seconds", 2 * 10**9),
        ("7 nanoseconds", 7),
        (0, 0),
    ],
)
def test_times(text: object, ns: int) -> None:
    assert units.parse_time(text) == ns


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4 KiB", 4096),
        ("1 MiB", 2**20),
        ("16 MB", 16_000_000),
        ("1500 B", 1500),
        ("0.5 KiB", 512),
        ("2 kB", 2000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


def test_probabilities() -> None:
    assert units.parse_probability("0.001 %") == 1e-5
    assert units.parse_probability("100%") == 1.0
    assert units.format_probability(1e-5) == "0.001 %"


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (
            units.parse_rate,
            10,
            "the rate 10 has no unit; write a number and a unit, such as 10 Gbit/s; "
            "the units are bit/s",
        ),
        (units.parse_rate, "10 GB", "'10 GB' is not a rate: unknown unit 'GB'"),
        (units.parse_rate, "10 GBPS", "'10 GBPS' is not a rate: unknown unit 'GBPS'"),
        (units.parse_rate, "10 MB/S", "'10 MB/S' is not a rate: unknown unit 'MB/S'"),
        (units.parse_rate, "10 Mbyte", "'10 Mbyte' is not a rate: unknown unit 'Mbyte'"),
        (units.parse_rate, "0 Gbit/s", "the rate must be greater than 0"),
        (units.parse_rate, 0, "the rate must be greater than 0"),
        (units.parse_rate, "0.5 bit/s", "is not a whole number of bit/s"),
        (units.parse_rate, True, "True is not a rate"),
        (units.parse_rate, ["10 Gbit/s"], "is not a rate"),
        (units.parse_time, "-5 ms", "'-5 ms' is not a time"),
        (units.parse_time, "5 MS", "unknown unit 'MS'"),
        (units.parse_time, "0.1 ns", "is not a whole number of ns"),
        (units.parse_time, "1e99 s", "is too large"),
        (units.parse_size, "4 Mb", "unknown unit 'Mb'"),
        (units.parse_size, "0.1 KiB", "is not a whole number of B"),
        (
            units.parse_probability,
            0.001,
            "the percentage 0.001 has no unit; write 0.001 %, or 0.1 % for a share",
        ),
        (units.parse_probability, "101 %", "'101 %' is more than 100 %"),
    ],
)
def test_refusals_say_why(parse: object, value: object, message: str) -> None:
    assert callable(parse)
    with pytest.raises(UnitError) as caught:
        parse(value)

    assert message in str(caught.value)


@given(WHOLE)
def test_exact_text_reads_back(value: int) -> None:
    assert units.parse_rate(units.format_rate(value)) == value
    assert units.parse_time(units.format_time(value)) == value
    assert units.parse_size(units.format_size(value)) == value


@given(st.floats(min_value=1e-12, max_value=1))
def test_probability_text_reads_back(value: float) -> None:
    assert units.parse_probability(units.format_probability(value)) == value


@given(WHOLE)
def test_rounded_text_is_near(value: int) -> None:
    assert units.parse_rate(units.format_rate(value, 4)) == pytest.approx(value, rel=1e-3, abs=1)


def test_text_for_people() -> None:
    assert units.format_rate(10**10) == "10 Gbit/s"
    assert units.format_rate(1_100_000_000) == "1.1 Gbit/s"
    assert units.format_time(7_850_776) == "7.850776 ms"
    assert units.format_time(7_850_776, 3) == "7.85 ms"
    assert units.format_time(0) == "0 ns"
    assert units.format_size(4096) == "4 KiB"
    assert units.format_size(1536) == "1536 B"
    assert units.format_size(1536, 2) == "1.5 KiB"
    assert units.format_size(25_876_000_000, 3) == "24.1 GiB"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00612452, "0.0061245"),
        (116.139, "116.14"),
        (142423.4, "142423"),
        (99999.7, "100000"),
        (-23254512.0, "-23254512"),
        (2.5e-7, "2.5e-07"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert units.format_figure(value) == text


def test_models() -> None:
    class Model(BaseModel):
        rate: Rate
        time: Time
        size: Size
        loss: Probability

    model = Model.model_validate(
        {"rate": "1 Gbit/s", "time": "5 us", "size": "4 KiB", "loss": "1 %"}
    )
    assert (model.rate, model.time, model.size, model.loss) == (10**9, 5000, 4096, 0.01)
    assert model.model_dump(mode="json") == {
        "rate": "1 Gbit/s",
        "time": "5 us",
        "size": "4 KiB",
        "loss": "1 %",
    }
