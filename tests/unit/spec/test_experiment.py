"""Experiment files: which points they stand for, and what is said about wrong ones."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from testbed.core.errors import InputError
from testbed.core.units import TIME
from testbed.spec.axis import Range
from testbed.spec.experiment import Experiment
from testbed.spec.overrides import parse_overrides
from testbed.spec.presets import EXPERIMENTS
from testbed.spec.short_names import short_names
from testbed.sweep.points import check_size, plan_points, repeat_seed, unique

VERSIONS = {"testbed": "1"}
DELAY, RATE = "topology.wan.iowa-ohio.delay", "topology.wan.iowa-ohio.rate"
HEAD = "topology: two-sites\nsettings: {workload.ops: [all_reduce], run.isolation: process}\n"


def load(tmp_path: Path, text: str, *sets: str) -> Experiment:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return Experiment.load(path, parse_overrides(sets, ["experiment"])["experiment"])


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as error:
        plan_points(load(tmp_path, text), VERSIONS)
    return str(error.value)


# ---- which points


def test_grid_order(tmp_path: Path) -> None:
    experiment = load(
        tmp_path, f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms, 2 ms], {RATE}: [1 Gbit/s, 2 Gbit/s]}}}}"
    )
    values = [tuple(point.shown.values()) for point in experiment.points()]
    assert values == [
        ("1 ms", "1 Gbit/s"),
        ("1 ms", "2 Gbit/s"),
        ("2 ms", "1 Gbit/s"),
        ("2 ms", "2 Gbit/s"),
    ]
    assert next(point.name for point in experiment.points()) == "delay-1ms_rate-1Gbitps"


@settings(deadline=None)
@given(
    grid=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    zipped=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    listed=st.integers(0, 3),
    repeats=st.integers(1, 3),
)
def test_number_of_points(
    grid: list[int], zipped: tuple[int, int], listed: int, repeats: int
) -> None:
    keys, length = zipped
    zips: dict[str, list[str]] = {}
    for key in range(keys):
        zips[f"workload.z{key}"] = [f"{key}-{number}" for number in range(length)]
    experiment = Experiment.model_validate(
        {
            "topology": "two-sites",
            "sweep": {
                "grid": {f"workload.g{i}": list(range(count)) for i, count in enumerate(grid)},
                "zip": zips,
                "list": [{"workload.one": n} for n in range(listed)],
                "repeats": repeats,
            },
        }
    )
    points = list(experiment.points())
    assert (
        len(points) == experiment.sweep.size == math.prod(grid) * length * max(1, listed) * repeats
    )
    assert len({(tuple(point.values.items()), point.repeat) for point in points}) == len(points)
    assert len({point.name for point in points}) == len(points)
    for point in points:
        rows = {
            value.partition("-")[2]
            for key, value in point.values.items()
            if key.startswith("workload.z")
        }
        assert len(rows) == 1  # the n-th values of a zip go together


def test_where(tmp_path: Path) -> None:
    grid = f"{{{DELAY}: [1 ms, 20 ms, 1 s], {RATE}: [1 Gbit/s, 100 Mbit/s]}}"
    text = f"{HEAD}sweep: {{grid: {grid}, where: WHERE}}"
    count = {
        "delay <= 20 ms": 4,
        "delay < 0.02 s and rate == 1000 Mbit/s": 1,
        "[delay > 1 ms, rate > 0.5 Gbit/s]": 2,
        "not (delay in (1 ms, 1 s))": 2,
        "delay * 20 <= 20 ms or delay / 1 ms > 900": 4,
        f"{DELAY} == 1 ms": 2,
        "repeat == 0": 6,
    }
    for where, points in count.items():
        quoted = where if where.startswith("[") else f"'{where}'"
        assert len(list(load(tmp_path, text.replace("WHERE", quoted)).points())) == points, where


@given(low=st.integers(1, 10**9), factor=st.floats(1.1, 1000), points=st.integers(2, 30))
def test_logarithmic_range(low: int, factor: float, points: int) -> None:
    high = round(low * factor) + 1
    axis = Range.model_validate(
        {"from": f"{low} ns", "to": f"{high} ns", "points": points, "scale": "log"}
    )
    numbers = [TIME.read(value) for value in axis.values()]
    assert len(numbers) == points
    assert (numbers[0], numbers[-1]) == (low, high)
    for i, number in enumerate(numbers):
        exact = low * (high / low) ** (i / (points - 1))
        assert number == pytest.approx(
            exact, rel=0.006, abs=0.56
        )  # three digits; whole nanoseconds


def test_ranges() -> None:
    def values(**range_: object) -> list[object]:
        written = {name.rstrip("_"): value for name, value in range_.items()}
        return list(Range.model_validate(written).values())

    assert values(from_="1 ms", to="2 ms", step="0.25 ms") == [
        "1 ms",
        "1.25 ms",
        "1.5 ms",
        "1.75 ms",
        "2 ms",
    ]
    assert values(from_="4 KiB", to="1 MiB", factor=16) == ["4 KiB", "64 KiB", "1 MiB"]
    assert values(from_="0.001 %", to="0.1 %", points=3, scale="log") == [
        "0.001 %",
        "0.01 %",
        "0.1 %",
    ]
    assert values(from_="1 Gbit/s", to="10 Gbit/s", points=4) == [
        "1 Gbit/s",
        "4 Gbit/s",
        "7 Gbit/s",
        "10 Gbit/s",
    ]
    assert values(from_=1, to=10, step=4) == [1, 5, 9]
    assert values(from_=0.5, to=1, points=3) == [0.5, 0.75, 1]


def test_short_names() -> None:
    keys = ["topology.wan.a-b.delay", "topology.wan.b-c.delay", "workload.algorithm", "run.seed"]
    assert list(short_names(keys).values()) == ["a-b.delay", "b-c.delay", "algorithm", "run.seed"]


def test_seeds_of_repeats(tmp_path: Path) -> None:
    sweep = f"sweep: {{grid: {{{DELAY}: [1 ms, 2 ms]}}, repeats: 3}}"
    text = f"topology: two-sites\nworkload: train\n{sweep}"
    points = plan_points(load(tmp_path, text), VERSIONS)
    seeds = [point.plan.seed for point in points]
    assert seeds == [0, repeat_seed(0, 1), repeat_seed(0, 2)] * 2
    assert len(set(seeds)) == 3
    assert [point.plan.workers.settings["seed"] for point in points] == seeds  # of the model, too
    assert len(unique(points)) == 6


def test_equal_points_are_one(
    tmp_path: Path,
) -> None:
    text = f"{HEAD}sweep: {{list: [{{{DELAY}: 1 ms}}, {{{DELAY}: 1000 us}}, {{{DELAY}: 2 ms}}]}}"
    points = plan_points(load(tmp_path, text), VERSIONS)
    assert points[0].identity == points[1].identity != points[2].identity
    assert len(unique(points)) == 2


def test_identity(tmp_path: Path) -> None:
    text = f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}, name: NAME}}"

    def identity(text: str, versions: dict[str, str] = VERSIONS, *sets: str) -> str:
        parts = parse_overrides(sets, ["workload", "run"])
        changes = [*parts["workload"], *parts["run"]]
        return plan_points(load(tmp_path, text), versions, changes)[0].identity

    first = identity(text)
    assert identity(text.replace("NAME", "other")) == first
    assert identity(text, VERSIONS, "run.stall_limit=10 s") == first
    assert identity(text, {"testbed": "2"}) != first
    assert identity(text, VERSIONS, "workload.iterations=4") != first
    assert identity(text, VERSIONS, "run.seed=1") != first


def test_swept_topology(tmp_path: Path) -> None:
    text = "topology: two-sites\nsweep: {grid: {topology: [two-sites, coast-to-coast]}}"
    assert [point.plan.network.name for point in plan_points(load(tmp_path, text), VERSIONS)] == [
        "two-sites",
        "coast-to-coast",
    ]


def test_file_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text("datacenters: {only: {hosts: 2}}\n")
    text = (
        "topology: pair.yaml\n"
        "settings: {run.isolation: process}\n"
        "sweep: {grid: {workload.iterations: [1]}}"
    )
    assert plan_points(load(tmp_path, text), VERSIONS)[0].plan.network.name == "pair"


@pytest.mark.parametrize("preset", EXPERIMENTS.presets(), ids=lambda preset: preset.name)
def test_presets_resolve(preset: object, tmp_path: Path) -> None:
    experiment = Experiment.load(preset.path)  # type: ignore[attr-defined]
    assert experiment.description
    assert experiment.name == preset.name  # type: ignore[attr-defined]
    points = plan_points(experiment, VERSIONS)
    assert len(points) >= 4
    again = plan_points(load(tmp_path, experiment.to_yaml()), VERSIONS)
    assert [point.identity for point in again] == [point.identity for point in points]


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("swep: {}", ["mine.yaml:1", "unknown key 'swep'", "nearest: sweep"]),
        (f"{HEAD}sweep: {{gird: {{}}}}", ["mine.yaml:3", "unknown key 'gird'", "nearest: grid"]),
        (f"{HEAD}sweep: {{}}", ["the sweep is empty", "grid, zip or list"]),
        (f"{HEAD}sweep: {{grid: {{{DELAY}: []}}}}", ["mine.yaml:3", "at least 1 item, got 0"]),
        (
            f"{HEAD}sweep: {{grid: {{delay: [1 ms]}}}}",
            ["'delay' is not a valid key", "start the key with topology."],
        ),
        (
            f"{HEAD}sweep:\n  grid:\n    topology.wan.iowa-ohio.dealy: [1 ms]",
            ["mine.yaml:5", "unknown key 'dealy'", "nearest: delay", "in the point dealy-1ms"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{topology.wan.iowa-oslo.delay: [1 ms]}}}}",
            ["unknown WAN link 'iowa-oslo'", "iowa-ohio"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{run.isolaton: [process]}}}}",
            ["unknown key 'run.isolaton'", "isolation"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms, 20]}}}}",
            ["mine.yaml:3", "the time 20 has no unit"],
        ),
        (f"{HEAD}sweep: {{grid: {{{DELAY}: [1 Gbit/s]}}}}", ["'1 Gbit/s' is not a time"]),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: {{from: 1 ms, to: 2 ms}}}}}}",
            ["one of step, factor and points"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: {{from: 2 ms, to: 1 ms, points: 3}}}}}}",
            ["`from` (2 ms) must be less than `to` (1 ms)"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: {{from: 1 ms, to: 1 Mbit/s, points: 3}}}}}}",
            ["'1 ms' is not a rate"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: {{from: 0 ms, to: 1 s, points: 3, scale: log}}}}}}",
            ["above zero"],
        ),
        (
            f"{HEAD}sweep: {{zip: {{{DELAY}: [1 ms, 2 ms], {RATE}: [1 Gbit/s]}}}}",
            [
                "mine.yaml:3",
                "2 of topology.wan.iowa-ohio.delay, 1 of topology.wan.iowa-ohio.rate",
                "grid",
            ],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}, list: [{{{DELAY}: 1 ms}}]}}",
            ["already varied by grid"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{workload.ops: [[barrier]]}}}}",
            ["workload.ops is also varied by the sweep"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}, where: dely > 1 ms}}",
            ["unknown name 'dely'", "nearest: delay"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}, where: delay > 1 Mbit/s}}",
            ["compares a time with a rate"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}, where: delay > 1 s}}",
            ["no points remain after `where`", "loosen the condition"],
        ),
        (
            f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}, name: '{{dlay}}'}}",
            ["unknown name 'dlay'", "nearest: delay"],
        ),
        (f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}, repeats: 0}}", ["0 is less than 1"]),
        (
            "topology: two-citys\nsweep: {grid: {run.seed: [1]}}",
            ["unknown topology", "two-sites", "mine.yaml:1"],
        ),
    ],
)
def test_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refused(tmp_path, text)
    for word in words:
        assert word in message


def test_million_points_need_yes(tmp_path: Path) -> None:
    delays = "{from: 1 ms, to: 1 s, points: 1000}"
    iterations = "{from: 1, to: 1000, step: 1}"
    grid = f"{{{DELAY}: {delays}, workload.iterations: {iterations}}}"
    experiment = load(tmp_path, f"{HEAD}sweep: {{grid: {grid}}}")
    with pytest.raises(InputError, match=r"1000000 points \(1000 x 1000\)[\s\S]*--yes"):
        check_size(experiment, confirmed=False)

    assert check_size(experiment, confirmed=True) == 1_000_000


def test_set_a_swept_key(tmp_path: Path) -> None:
    experiment = load(tmp_path, f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}}}")
    changes = parse_overrides([f"{DELAY}=2 ms"], ["topology", "workload"])["topology"]
    with pytest.raises(InputError, match="already varied by the sweep"):
        plan_points(experiment, VERSIONS, changes)


def test_set_the_experiment(tmp_path: Path) -> None:
    text = f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms]}}}}"
    assert len(list(load(tmp_path, text, "experiment.sweep.repeats=4").points())) == 4


def test_example_of_the_guide(tmp_path: Path) -> None:
    guide = Path(__file__).parents[3] / "docs/sweeps.md"
    example = guide.read_text().partition("```yaml\n")[2].partition("```")[0]
    assert len(plan_points(load(tmp_path, example), VERSIONS)) > 10


def test_dry_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{HEAD}sweep: {{grid: {{{DELAY}: [1 ms, 2 ms]}}}}")
    command = [sys.executable, "-m", "testbed", "sweep", str(path)]
    done = subprocess.run(
        [*command, "--dry-run", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "delay-2ms" in done.stdout
    assert "2 points, 2 to do" in done.stdout
    assert not (tmp_path / "out").exists()
