"""A search on Ray gives the answer that it gives without Ray, from the same times."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.support.runs import PAIR, Command, Need, set_options

QUESTION = "least wan.west-east.rate"
CONDITION = "time <= 60 ms"
JOB = {"ops": "[all_reduce]", "sizes": "[64 KiB]", "iterations": 2}


def answers(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "find.json").read_text())["answers"]
    return found


def durations(folder: Path) -> dict[str, list[int]]:
    """The ns of each operation of each point, by the point's settings and by rank and start."""
    times: dict[str, list[int]] = {}
    for path in sorted(folder.glob("points/*/ops.parquet")):
        ops = pl.read_parquet(path).sort("rank", "start_ns")
        times[path.parent.name] = (ops["end_ns"] - ops["start_ns"]).to_list()
    return times


@pytest.mark.proof
@pytest.mark.alone  # Ray's memory is in /dev/shm, where other tests look for what is left
def test_find_on_ray(command: Command, need: Need, tmp_path: Path) -> None:
    """Rates from 5 to 80 Mbit/s, at which 64 KiB take 105 to 6.6 ms, and two delays of 10 ms."""
    need(importlib.util.find_spec("ray"), "Ray")
    pair = tmp_path / "pair.yaml"
    pair.write_text(PAIR)
    words = ["find", QUESTION, pair, "--such-that", CONDITION]
    words += ["--between", "5 Mbit/s", "80 Mbit/s", "--precision", "100 %"]
    words += [*set_options(JOB), "--isolation", "process"]
    command(*words, "--out", tmp_path / "plain", timeout_s=900)
    command(*words, "--ray", "local", "--out", tmp_path / "ray", timeout_s=900)
    (plain,), (on_ray,) = answers(tmp_path / "plain"), answers(tmp_path / "ray")
    assert plain["state"] == "found"
    assert on_ray == plain
    times = durations(tmp_path / "plain")
    assert len(times) == plain["runs"]
    assert durations(tmp_path / "ray") == times
