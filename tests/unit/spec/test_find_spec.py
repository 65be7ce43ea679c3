"""The block `find`: which values a search may try, and what is refused before any run."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from testbed.core.errors import InputError
from testbed.spec.condition import Measure
from testbed.spec.experiment import Experiment
from testbed.spec.figures import measures, run_figures
from testbed.spec.find import FindBlock, check_condition
from testbed.spec.question import full_key, is_question, question
from testbed.sweep.points import plan_points

RATE = "topology.wan.iowa-ohio.rate"
DELAY = "topology.wan.iowa-ohio.delay"
HEAD = "topology: two-sites\nworkload: collectives\n"
FIND = f"least: {RATE}, such_that: time <= 100 ms"


def block(**changes: Any) -> FindBlock:
    values = {"least": RATE, "such_that": "time <= 1 s", "between": ["1 Gbit/s", "2 Gbit/s"]}
    return FindBlock.model_validate(values | changes)


def load(tmp_path: Path, text: str) -> Experiment:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text)
    return Experiment.load(path)


# ---- values


def test_ratio_of_neighbouring_values() -> None:
    """ln(2) / ln(1.05) = 14.2: 15 steps of at most 5 %, apart from rounding to three digits."""
    candidates = block().candidates
    assert (candidates[0], candidates[-1], len(candidates)) == ("1 Gbit/s", "2 Gbit/s", 16)
    numbers = [float(str(value).split()[0]) for value in candidates]
    for low, high in pairwise(numbers):
        assert 1.04 < high / low < 1.055


def test_difference_of_neighbouring_values() -> None:
    ends = {"least": DELAY, "between": ["1 ms", "2.2 ms"], "precision": "0.5 ms"}
    assert block(**ends).candidates == ["1 ms", "1.5 ms", "2 ms", "2.2 ms"]


def test_whole_numbers_stay_whole_and_appear_once() -> None:
    counts = block(least="workload.sync_every", between=[1, 8], precision="20 %").candidates
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8]


def test_values_as_a_range() -> None:
    values = {"from": "0.1 Gbit/s", "to": "1000 Gbit/s", "points": 50, "scale": "log"}
    find = FindBlock.model_validate({"least": RATE, "such_that": "time < 1 s", "values": values})
    assert len(find.candidates) == 50


# ---- mistakes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("find: {such_that: time < 1 s, between: [1 ms, 2 ms]}", ["exactly one of least, largest"]),
        (f"find: {{{FIND}}}", ["mine.yaml:3", "a least and a largest value"]),
        (f"find: {{{FIND}, between: [2 Gbit/s, 1 Gbit/s]}}", ["must be less than 1 Gbit/s"]),
        (f"find: {{{FIND}, between: [1 ms, 1 Gbit/s]}}", ["different kinds of quantities"]),
        (f"find: {{{FIND}, between: [0, 1 Gbit/s]}}", ["no ratio of neighbouring values"]),
        (
            f"find: {{{FIND}, between: [1 Mbit/s, 1 Gbit/s], precision: 0.1 %}}",
            ["finer than 1 %"],
        ),
        (
            f"find: {{{FIND}, between: [1 Mbit/s, 1 Gbit/s], precision: 1 ms}}",
            ["no difference of such values"],
        ),
        (f"find: {{{FIND}, values: [2 Gbit/s, 1 Gbit/s]}}", ["not in order"]),
        (
            f"find: {{{FIND}, values: [1 Mbit/s, 1 Gbit/s]}}\nsweep: {{grid: {{{DELAY}: [1 ms]}}}}",
            ["either sweep or find"],
        ),
        ("description: nothing", ["sweep: required key is missing"]),
        (
            "find: {least: wan.iowa-ohio.rate, such_that: time < 1 s, values: [1 ms, 1 s]}",
            ["not a valid key", "topology.wan.iowa-ohio.rate"],
        ),
        (
            f"find: {{{FIND}, between: [1 Mbit/s, 1 Gbit/s], for: {{{RATE}: [1 Gbit/s]}}}}",
            ["is the value that is sought"],
        ),
        (
            f"settings: {{{RATE}: 1 Gbit/s}}\nfind: {{{FIND}, between: [1 Mbit/s, 1 Gbit/s]}}",
            ["also varied"],
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("utilization >= 90 %", "unknown name 'utilization'"),
        ("utilisation >= 0.9", "compares a percentage with a number without a unit"),
        ("time <= 1 s and utilisation >= 1 s", "compares a percentage with a time"),
        ("wan_drops == 0 or time > 3", "compares a time with a number without a unit"),
        ("1 s < 2 s", "names no figure"),
        ("time", "expected a comparison"),
    ],
)
def test_conditions_are_checked_before_any_run(tmp_path: Path, condition: str, words: str) -> None:
    ends = "between: [1 Mbit/s, 1 Gbit/s]"
    text = f"find: {{least: {RATE}, such_that: {condition!r}, {ends}}}"
    with pytest.raises(InputError, match="such_that") as caught:
        load(tmp_path, text)
    assert words in str(caught.value)


def test_a_search_is_not_a_sweep(tmp_path: Path) -> None:
    experiment = load(tmp_path, f"find: {{{FIND}, between: [1 Mbit/s, 1 Gbit/s]}}")
    with pytest.raises(InputError, match="run it with `testbed find`"):
        plan_points(experiment, {"testbed": "1"})


# ---- figures


def test_figures_have_units() -> None:
    """A column of us, the same as a time, a share, a bandwidth in GB/s as a rate."""
    row = {"time_us": 2500.0, "utilisation": 0.5, "busbw_gbytes": 1.25, "wan_drops": 3}
    values = measures(run_figures(), row)
    assert values["time_us"] == Measure(2500.0)
    assert values["time"] == Measure(2.5e6, "time")
    assert values["utilisation"] == values["compute_utilisation"] == Measure(50.0, "percentage")
    assert values["busbw"] == Measure(1e10, "rate")
    assert values["wan_drops"] == Measure(3)
    assert "step" not in values
    assert check_condition("time <= 2.5 ms and busbw >= 10 Gbit/s and wan_drops < 4")(values)
    assert not check_condition("compute_utilisation > 50 %")(values)
    assert run_figures()["busbw"].text(1.25) == "10 Gbit/s"


# ---- questions in words


def test_questions() -> None:
    assert is_question("least wan.iowa-ohio.rate")
    assert is_question("least")
    assert not is_question("mine.yaml")
    found = question(
        "largest wan.iowa-ohio.delay",
        topology="two-sites",
        workload="train",
        such_that=["step <= 1 s"],
        between=["1 ms", "1 s"],
        for_each={"method": ["ddp", "diloco"]},
    )
    experiment = Experiment.from_mapping(found)
    assert experiment.name == "largest-delay"
    assert experiment.find is not None
    assert (experiment.find.goal, experiment.find.key) == ("largest", DELAY)
    assert list(experiment.find.axes) == ["workload.method"]


def test_full_keys() -> None:
    assert full_key("wan.iowa-ohio.rate") == RATE
    assert full_key(RATE) == RATE
    assert full_key("sync_every") == "workload.sync_every"
    assert full_key("such_that") == "such_that"
    with pytest.raises(InputError, match="'least' is not a question"):
        question("least", topology="", workload="", such_that=[], between=[])
