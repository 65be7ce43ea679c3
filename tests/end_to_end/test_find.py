"""A search in real guests: its answer against arithmetic, resumed, and from a file and Python."""

import json
from pathlib import Path

import pytest

import testbed
from tests.support.runs import Command

LARGEST = "largest wan.west-east.delay"
SETTINGS = {
    "workload.ops": ["all_reduce"],
    "workload.sizes": ["4 KiB"],
    "workload.iterations": 1,
    "workload.warmup": 0,
}


def test_the_largest_delay(command: Command, pair: Path, tmp_path: Path) -> None:
    """gloo sends four messages, one after the other: 50 ms allow a delay of 12 ms, not of 13 ms.

    Of 5 values: both ends, two halvings and a probe at most. The same command runs nothing.
    """
    out = tmp_path / "out"
    words = ["find", LARGEST, pair, "--such-that", "time <= 50 ms", "--between", "10 ms", "14 ms"]
    words += ["--precision", "1 ms", "--isolation", "process", "--out", out]
    for key, value in SETTINGS.items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    done = command(*words)
    assert "The largest delay such that time <= 50 ms is 12 ms: time 48." in done.stdout
    (answer,) = json.loads((out / "find.json").read_text())["answers"]
    assert (answer["state"], answer["value"], answer["beyond"]) == ("found", "12 ms", "13 ms")
    assert answer["figures"]["time"] == pytest.approx(48_000, rel=0.1)
    assert answer["runs"] == len(list((out / "points").iterdir())) <= 5
    assert answer["monotone"]
    assert "The largest delay such that time" in (out / "sweep.html").read_text()

    again = command(*words)
    assert again.stdout == done.stdout
    assert " done in " not in again.stderr

    found = testbed.find(
        LARGEST,
        pair,
        such_that="time <= 50 ms",
        between=["10 ms", "14 ms"],
        precision="1 ms",
        settings=SETTINGS,
        isolation="process",
        out=out,
    )
    assert found.answers[0].value == "12 ms"
    assert found.sweep.points.height == answer["runs"]
