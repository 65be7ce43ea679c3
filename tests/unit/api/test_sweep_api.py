"""Sweeps and deployments from Python: what is accepted, and what a sweep's folder gives."""

from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed.api.arguments import as_experiment
from testbed.core.errors import InputError
from testbed.spec import yaml_reader
from testbed.spec.experiment import Experiment, GivenTopology
from testbed.spec.overrides import Override
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint, SweepIndex
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import plan_points
from testbed.sweep.progress import CallbackSweepProgress, PointProgress
from testbed.sweep.sweep_run import check_records
from tests.support.synthetic import make_plan, two_dcs, write_run

EXPERIMENT: dict[str, Any] = {
    "topology": "two-sites",
    "sweep": {"grid": {"topology.wan.iowa-ohio.delay": ["1 ms", "20 ms"]}},
}


def pair() -> testbed.Topology:
    """Return a topology made in Python, with the link iowa-ohio."""
    site = testbed.Datacenter(hosts=1)
    link = testbed.Wan(between=("iowa", "ohio"), rate="1 Gbit/s", delay="3 ms")
    return testbed.Topology(name="pair", datacenters={"iowa": site, "ohio": site}, wan=[link])


OTHERS = {key: value for key, value in EXPERIMENT.items() if key != "topology"}
AS_DICT = yaml_reader.plain(yaml_reader.parse(pair().to_yaml(), None))


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    """A sweep of two points, of which one is complete."""
    folder = SweepDir.create(tmp_path / "sweep")
    points: list[IndexedPoint] = []
    for name in ("1ms", "20ms"):
        values = {"delay": name.replace("ms", " ms")}
        point = IndexedPoint(name=f"delay-{name}", identity=name, values=values, repeat=0, seed=0)
        points.append(point)
    folder.write_index(SweepIndex(name="<b>distance", axes=["delay"], points=points))
    run = write_run(folder.running / "delay-1ms", make_plan(two_dcs()))
    record = PointRecord(identity="1ms", name="delay-1ms", state="completed", wall_seconds=3)
    folder.settle(run.path, record)
    return folder


def test_points(folder: SweepDir) -> None:
    sweep = testbed.open_sweep(folder.path)
    assert sweep.points["state"].to_list() == ["completed", "missing"]
    assert sweep.points["delay_ns"].to_list() == [1e6, 20e6]
    assert sweep.path == folder.path


def test_run_of_a_point(folder: SweepDir) -> None:
    sweep = testbed.open_sweep(folder.path)
    assert sweep.run("delay-1ms").path == folder.points / "delay-1ms"
    assert sweep.run(0).path == sweep.run(-2).path
    with pytest.raises(InputError, match="the point delay-20ms has not been run"):
        sweep.run(1)
    with pytest.raises(InputError, match="unknown point 2: the sweep has 2"):
        sweep.run(2)
    with pytest.raises(InputError, match="unknown point 'delay-2ms'\n  nearest: delay-"):
        sweep.run("delay-2ms")


def test_report_is_made_again(folder: SweepDir) -> None:
    assert not folder.page.exists()
    assert testbed.open_sweep(folder.path).report() == folder.page
    assert folder.page.is_file()


def test_html(folder: SweepDir) -> None:
    html = testbed.open_sweep(folder.path)._repr_html_()
    assert "&lt;b&gt;distance: 2 points, 1 completed, 1 missing" in html
    assert '<td style="text-align: left">20 ms</td>' in html


def test_no_sweep_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a sweep folder"):
        testbed.open_sweep(tmp_path)


@pytest.mark.parametrize(
    ("experiment", "arguments", "text"),
    [
        ("no-such", {}, "unknown experiment 'no-such'"),
        ({"topology": "two-sites"}, {}, "sweep: required key is missing"),
        ({**EXPERIMENT, "sweeep": 1}, {}, "sweeep: unknown key 'sweeep'"),
        ({**EXPERIMENT, "settings": {"run.seed": object()}}, {}, "cannot represent an object"),
        (EXPERIMENT, {"jobs": 0}, "jobs: 0 is not a valid number of guests"),
        (EXPERIMENT, {"settings": {"delay": 1}}, "'delay' is not a valid setting"),
        (EXPERIMENT, {"isolaton": "process"}, "isolaton: unknown key 'isolaton'"),
        ({**EXPERIMENT, "topology": {**AS_DICT, "mtu": 5}}, {}, "topology.mtu: 5 is less than 576"),
        (EXPERIMENT, {"topology": {**AS_DICT, "mtuu": 9}}, "topology.mtuu: unknown key 'mtuu'"),
        (EXPERIMENT, {"topology": {"mtu": object()}}, "topology: cannot represent an object"),
        (EXPERIMENT, {"topology": 5}, "topology: 5 is not text"),
        (
            {**EXPERIMENT, "sweep": {"grid": {"topology": ["two-sites"]}}},
            {"topology": pair()},
            "topology: already varied by the sweep",
        ),
        (
            {**EXPERIMENT, "sweep": {**EXPERIMENT["sweep"], "repeats": 501}},
            {},
            "the experiment has 1002 points",
        ),
    ],
)
def test_wrong_arguments(
    experiment: Any, arguments: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        testbed.sweep(experiment, out=tmp_path / "sweep", **arguments)
    assert text in str(caught.value)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("experiment", "topology"),
    [
        ({**OTHERS, "topology": pair()}, None),
        ({**OTHERS, "topology": AS_DICT}, None),
        (OTHERS, pair()),
        (EXPERIMENT, AS_DICT),
        (Experiment.from_mapping(EXPERIMENT), pair()),
    ],
)
def test_topology_made_in_python(experiment: Any, topology: Any, tmp_path: Path) -> None:
    """Its points vary it as they vary a preset, and a file of the sweep's folder repeats them."""
    folder = SweepDir.create(tmp_path / "sweep")
    plan, text = as_experiment(experiment, topology, [])
    assert text is not None
    plan = plan.with_topology(GivenTopology(text, folder.topology))
    mtu = Override("topology.mtu", ("mtu",), 9000)
    points = plan_points(plan, {}, [mtu])
    for point, delay_ms in zip(points, (1, 20), strict=True):
        network = point.plan.network
        assert (network.name, network.mtu) == ("pair", 9000)
        assert network.wan[0].forward.fibre.delay_ns == delay_ms * 1_000_000
        assert point.command[2] == str(folder.topology)

    folder.experiment.write_text(plan.to_yaml())
    folder.topology.write_text(text)
    again = plan_points(Experiment.load(folder.experiment), {}, [mtu])
    assert [point.identity for point in again] == [point.identity for point in points]


def test_a_setting_replaces_a_topology_made_in_python() -> None:
    setting = Override("experiment.topology", ("topology",), "two-sites")
    plan, text = as_experiment({**OTHERS, "topology": pair()}, None, [setting])
    assert (plan.topology, text) == ("two-sites", None)


def test_topology_by_path(tmp_path: Path) -> None:
    file = tmp_path / "pair.yaml"
    file.write_text(pair().to_yaml())
    plan, text = as_experiment(EXPERIMENT, file, [])
    assert (plan.topology, text) == (str(file), None)
    assert plan_points(plan, {})[0].plan.network.name == "pair"


def test_settings_of_a_model() -> None:
    experiment = Experiment.from_mapping(EXPERIMENT)
    assert experiment.sweep.size == 2
    with pytest.raises(InputError, match="not to a model"):
        testbed.sweep(experiment, settings={"experiment.name": "mine"})


def _record(state: Any, reason: str = "") -> PointRecord:
    return PointRecord(identity="a", name="a", state=state, reason=reason, wall_seconds=61)


class Point:
    """Stands in for a planned point."""

    name = "a"
    identity = "a"


def test_progress() -> None:
    news: list[PointProgress] = []
    progress = CallbackSweepProgress(news.append, 4, 1)
    point: Any = Point()
    progress.started(point, 1)
    progress.ended(point, _record("failed", "lost\nmore"), True)
    progress.ended(point, _record("failed", "lost\nmore"), False)
    progress.ended(point, _record("completed"), False)
    progress.tick()
    assert [str(item) for item in news] == [
        "[1/4] a: started",
        "[1/4] a: failed, retrying: lost",
        "[2/4] a: failed: lost",
        "[3/4] a: done in 1:01 min",
    ]
    assert (news[-1].done, news[-1].failed, news[-1].seconds) == (2, 1, 61)


def test_failed_points_raise() -> None:
    points: list[Any] = [Point()]
    check_records({"a": _record("completed")}, points)
    with pytest.raises(testbed.TestbedError, match="1 of 1 points failed; the first is a: lost"):
        check_records({"a": _record("failed", "lost")}, points)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "a b"}, "'a b' is not a valid deployment name"),
        ({"guest_memory": "much"}, "guest_memory"),
        ({"clock": "sun"}, "'sun' is not one of"),
        ({"settings": {"wan.iowa-utah.delay": "1 ms"}}, "unknown WAN link 'iowa-utah'"),
        ({"settings": {"topology.mtu": 1}}, "topology.mtu"),
    ],
)
def test_wrong_deployments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        testbed.deploy("two-sites", **arguments)
    assert text in str(caught.value)


def test_figures_of_a_sweep(folder: SweepDir) -> None:
    sweep = testbed.open_sweep(folder.path)
    figure = sweep.plot()
    assert figure.layout.paper_bgcolor == "#fff"
    assert list(figure.data[0].y) == [3.0]  # s of wall time: the run has no summary
    attempts = sweep.plot(x="delay", y="attempt")
    assert list(attempts.data[0].y) == [1]
    with pytest.raises(InputError, match="there is no figure 2") as caught:
        sweep.plot(2)
    assert "choose one of: 1:" in str(caught.value)
    with pytest.raises(InputError, match="unknown column"):
        sweep.plot(y="nonsense")
