"""Objectives of searches over several keys: units, names and mistakes, without Optuna."""

import importlib.util
from typing import Any

import pytest

from testbed.core.errors import InputError, MachineError
from testbed.core.units import UnitError
from testbed.spec.experiment import Experiment
from testbed.spec.objective import Objective
from testbed.sweep.answers import Answer, answer_row
from testbed.sweep.search import searches_of

RATE = "topology.wan.iowa-ohio.rate"
METHOD = "workload.method"
PRICES = {
    "gpu_hour": 2.5,
    "gbit_hour": 0.4,
    "hour": "8 * gpu_hour + gbit_hour * rate / 1 Gbit/s",
    "cost_per_token": "hour / 3600 / tokens_per_s",
}


def experiment(**find: Any) -> Experiment:
    over = {RATE: ["1 Gbit/s", "10 Gbit/s"], METHOD: ["ddp", "diloco"]}
    block = {"minimise": "cost_per_token", "define": PRICES, "over": over} | find
    kept = {name: value for name, value in block.items() if value is not None}
    return Experiment.from_mapping({"topology": "two-sites", "workload": "train", "find": kept})


def test_the_price_of_a_token() -> None:
    objective = Objective("cost_per_token", PRICES, ["rate", "method"])
    assert objective.figures == ["tokens_per_s"]
    value = objective.value({"tokens_per_s": 1000.0}, {"rate": "10 Gbit/s", "method": "ddp"})
    assert value == pytest.approx((8 * 2.5 + 0.4 * 10) / 3600 / 1000)


def test_a_run_without_the_figure() -> None:
    objective = Objective("cost_per_token", PRICES, ["rate"])
    with pytest.raises(UnitError, match="arithmetic needs numbers"):
        objective.value({}, {"rate": "10 Gbit/s"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minimise": "cost_per_tokn"}, "cost_per_tokn"),
        ({"define": {**PRICES, "time": 3}}, "time is already a figure or a setting"),
        ({"define": {"rate": 3, **PRICES}}, "rate is already a figure or a setting"),
        ({"define": {"Price": 3}}, "'Price' is not a name"),
        ({"define": {"cost_per_token": [1]}}, "neither a number nor an expression"),
        ({"minimise": "step + tokens_per_s"}, "incompatible units"),
        ({"minimise": "step <= 3 ms"}, "expected a number"),
        ({"minimise": "gpu_hour"}, "depends on no figure"),
        ({"over": None}, "minimise needs keys with values to choose from"),
        ({"between": [1, 2]}, "between belongs to least and largest"),
        ({"maximise": "tokens_per_s"}, "exactly one of least, largest, minimise and maximise"),
        ({"for": {METHOD: ["ddp"]}}, f"{METHOD} is the value that is sought"),
        ({"over": {"rate": ["1 Gbit/s"]}}, "'rate' is not a valid key"),
        ({"minimise": None, "least": RATE}, "over belongs to minimise and maximise"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        experiment(**changes)
    assert message in str(raised.value)


def test_the_points_are_the_combinations() -> None:
    asked = experiment()
    assert asked.varied.keys == [RATE, METHOD]
    assert asked.varied.size == 4
    assert asked.find is not None
    assert asked.find.sought == {("over", RATE): RATE, ("over", METHOD): METHOD}


def test_without_optuna_the_error_says_how_to_install_it() -> None:
    if importlib.util.find_spec("optuna") is not None:
        assert len(searches_of(experiment())) == 1
        return
    with pytest.raises(MachineError, match=r"\[optuna\]"):
        searches_of(experiment())


def test_the_answer_in_words() -> None:
    answer = Answer(
        goal="minimise",
        key="cost_per_token",
        name="cost_per_token",
        such_that=["final_loss <= 3"],
        state="found",
        value=6.667e-6,
        best={"rate": "10 Gbit/s", "method": "diloco"},
        figures={"tokens_per_s": 1000.0},
        runs=24,
    )
    assert answer.sentence() == (
        "The least cost_per_token such that final_loss <= 3 among the runs is 6.667e-06, with rate "
        "10 Gbit/s, method diloco: tokens_per_s 1000 there (24 runs)."
    )
    row = answer_row(answer)
    assert (row["minimise cost_per_token"], row["method"], row["runs"]) == (
        "6.667e-06",
        "diloco",
        "24",
    )
    nothing = answer.model_copy(update={"state": "nowhere", "value": None, "best": {}})
    assert "does not exist: no run meets the conditions (24 runs)" in nothing.sentence()
