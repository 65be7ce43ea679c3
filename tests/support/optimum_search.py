"""A search over two keys whose runs are arithmetic, for a test with Optuna in PYTHONPATH.

usage: python -m tests.support.optimum_search FOLDER    prints the answer, the points that ran, the
trials of the study, and the least objective of all combinations, as JSON
"""

import json
import sys
from itertools import product
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from testbed.core.units import parse_rate
from testbed.spec.axis import values_of
from testbed.spec.experiment import Experiment
from testbed.sweep.find_run import FindRun, new_finder
from testbed.sweep.folder import SweepDir
from testbed.sweep.points import PointPlanner
from testbed.sweep.progress import shown_by
from testbed.sweep.sweep_run import SweepOptions
from tests.unit.sweep.test_find import RATE, ArithmeticExecutor, time_s

DELAY = "topology.wan.iowa-ohio.delay"
RUNS = 32
COST = {
    "gbit": 20,
    "cost": "gbit * rate / 1 Gbit/s + time / 1 ms + delay / 1 ms",
}
FIND = {
    "minimise": "cost",
    "define": COST,
    "such_that": "time <= 60 ms",
    "over": {
        RATE: {"from": "100 Mbit/s", "to": "10 Gbit/s", "points": 20, "scale": "log"},
        DELAY: ["5 ms", "10 ms", "20 ms"],
    },
    "runs": RUNS,
}


def least_cost(experiment: Experiment) -> float:
    """Return the least objective of all combinations, by arithmetic."""
    block = experiment.find
    assert block is not None
    costs: list[float] = []
    rates, delays = (values_of(axis) for axis in block.over.values())
    for rate, delay in product(rates, delays):
        bps = parse_rate(rate)
        if time_s(bps) <= 0.06:
            costs.append(20 * bps / 1e9 + 1e3 * time_s(bps) + float(delay.removesuffix(" ms")))
    return min(costs)


def main(path: Path) -> None:
    """Carry out the search, or resume it."""
    experiment = Experiment.from_mapping({"topology": "two-sites", "find": FIND})
    folder = SweepDir.create(path)
    executor = ArithmeticExecutor(folder, time_s)
    vars(sys.modules["testbed.sweep.sweep_run"])["write_outputs_in_fork"] = lambda folder: None
    FindRun.new_executor = lambda self: executor  # type: ignore[method-assign]
    finder = new_finder(experiment, PointPlanner(experiment, {"testbed": "1"}, [], None))
    search = FindRun(experiment, finder.begin(), folder, SweepOptions(), ["testbed"], finder)
    search.carry_out(shown_by(None), lambda rows: None)
    storage = JournalStorage(JournalFileBackend(str(folder.study(1))))
    study = optuna.load_study(study_name=None, storage=storage)
    document = {
        "answer": search.answers[0].model_dump(mode="json"),
        "sentence": search.answers[0].sentence(),
        "ran": executor.ran,
        "trials": len(study.trials),
        "study_best": study.best_value,
        "least": least_cost(experiment),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
