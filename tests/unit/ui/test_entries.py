"""The list of runs and sweeps, and what is read of a run in progress."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from testbed.analysis.summarize import collect
from testbed.core.errors import InputError
from testbed.core.ownership import claim
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import Status, write_status
from testbed.ui.documents import Documents, frame_policy
from testbed.ui.entries import Entry, ResultsFolder, RunEntry, SweepEntry, read_run
from testbed.ui.feed import PROBLEM, Feeds, Parts, difference, guarded
from testbed.ui.live_run import LiveRun
from testbed.ui.live_sweep import LiveSweep
from tests.support.growing import EVENT_TEXT, GrowingRun, growing_plan_network
from tests.support.synthetic import make_plan, three_dcs, write_run, write_sweep, write_training_run

NOBODY = 2**22  # above the largest process id


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(three_dcs())


def by_place(folder: Path) -> dict[str, Entry]:
    return {entry.at: entry for entry in ResultsFolder(folder).look()}


def part(parts: Parts, name: str) -> Any:
    return json.loads(parts[name])


def test_entries_by_state(tmp_path: Path, plan: Plan) -> None:
    collect(write_run(tmp_path / "deep" / "er" / "good", plan))
    failed = write_run(tmp_path / "failed", plan)
    write_status(failed.status, Status(state="failed", reason="rank 3 died"))
    write_sweep(tmp_path / "sweep")
    (tmp_path / "notes").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "failed")

    entries = by_place(tmp_path)
    assert sorted(entries) == ["deep/er/good", "failed", "sweep"]
    good = entries["deep/er/good"]
    assert isinstance(good, RunEntry)
    assert (good.state, good.topology, good.workload, good.ranks, good.faithful) == (
        "completed",
        "hand-made",
        "collectives",
        6,
        True,
    )
    assert "broadcast of 1 MiB among 6 ranks takes 65 ms" in good.text
    assert entries["failed"].text == "The run failed: rank 3 died."
    sweep = entries["sweep"]
    assert isinstance(sweep, SweepEntry)
    assert (sweep.state, sweep.points, sweep.completed, sweep.failed) == ("failed", 4, 2, 1)


def test_a_sweep_runs_while_its_lock_is_held(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    with claim(sweep.lock):
        assert by_place(tmp_path)["sweep"].state == "running"
    assert by_place(tmp_path)["sweep"].state == "failed"


def test_a_run_of_a_killed_process_is_lost(tmp_path: Path, plan: Plan) -> None:
    run = write_run(tmp_path / "run", plan)
    write_status(run.status, Status(pid=os.getpid()))
    assert by_place(tmp_path)["run"].state == "running"
    write_status(run.status, Status(pid=NOBODY))
    assert by_place(tmp_path)["run"].state == "running"  # of another machine: it wrote just now
    for path in (run.events, run.link_samples, run.rank_ops(0), run.status):
        os.utime(path, (0, 0))
    assert by_place(tmp_path)["run"].state == "lost"


def test_a_run_without_its_tables_goes_on(tmp_path: Path, plan: Plan) -> None:
    """The outcome is written before the tables, from which the dashboard makes the report."""
    run = write_run(tmp_path / "run", plan)
    write_status(run.status, Status(state="completed", pid=os.getpid()))
    assert read_run(run, "run").state == "running"
    collect(run)
    assert read_run(run, "run").state == "completed"


def test_what_has_not_changed_is_not_read_again(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", plan)
    results = ResultsFolder(tmp_path)
    first = results.look()[0]
    assert results.look()[0] is first
    write_status(run.status, Status(state="interrupted"))
    assert results.look()[0].state == "interrupted"
    monkeypatch.setattr("testbed.ui.entries.MOST_READ", 1)
    for name in ("a", "b"):
        write_run(tmp_path / name, plan)
    assert len(results.look()) == 2
    assert len(results.look()) == 3


@pytest.mark.parametrize("at", ["..", "../secret", "run/../../secret", "/etc", "link", "none", "x"])
def test_nothing_outside_of_the_folder(tmp_path: Path, plan: Plan, at: str) -> None:
    write_run(tmp_path / "secret", plan)
    (tmp_path / "results" / "x").mkdir(parents=True)
    write_run(tmp_path / "results" / "run", plan)
    (tmp_path / "results" / "link").symlink_to(tmp_path / "secret")
    results = ResultsFolder(tmp_path / "results")
    assert results.run("run").path == (tmp_path / "results" / "run").resolve()
    with pytest.raises(InputError, match=r"no (folder|run) at"):
        results.run(at)
    with pytest.raises(InputError, match=r"no (folder|sweep) at"):
        results.sweep(at)
    with pytest.raises(InputError):
        Documents(results).page(f"{at}/report.html")


def test_files_that_make_no_sense(tmp_path: Path, plan: Plan) -> None:
    for name in ("plan.json", "status.json", "summary.json", "spec.yaml"):
        run = write_run(tmp_path / name, plan)
        collect(run)
        (run.path / name).write_bytes(b'{"network": [' + bytes(50))
        assert by_place(tmp_path)[name].at == name
        parts = guarded(LiveRun(run, name).look)
        assert "entry" in parts
        assert b"<main>" in Documents(ResultsFolder(tmp_path)).page(f"{name}/report.html")


def test_a_run_in_progress(tmp_path: Path) -> None:
    growing = GrowingRun(tmp_path / "run", make_plan(growing_plan_network()))
    live = LiveRun(growing.run, "run")
    assert part(live.look(), "entry")["stage"]["stages"] == []
    growing.start()
    growing.go_on()
    parts = live.look()
    stage = part(parts, "entry")["stage"]
    assert (stage["done"], stage["total"], stage["unit"]) == (4, 24, "operation")
    assert stage["stages"][-1] == {"text": "running", "is_present": True}
    assert part(parts, "events") == []
    assert part(parts, "use")["east-north"] == [0.28, 0.14]  # 3.5 MB in 0.1 s at 1 Gbit/s

    growing.go_on()
    growing.go_on()
    parts = live.look()
    assert part(parts, "events") == [{"what": EVENT_TEXT, "at_s": 2.0}]
    assert part(parts, "output").splitlines()[-1] == "operation 11 is done"
    ranks = part(parts, "figure-ranks")["figure"]["data"][0]
    assert len(ranks["y"]) == 6
    assert [name for name in parts if name.startswith("figure-")] == [
        "figure-ranks",
        "figure-utilisation",
        "figure-queue",
    ]
    growing.end()
    assert part(live.look(), "entry")["state"] == "completed"
    assert list(LiveRun(growing.run, "run").look()) == ["entry"]


def test_training_in_progress_has_its_loss(tmp_path: Path, plan: Plan) -> None:
    run = write_training_run(tmp_path / "run", plan)
    write_status(run.status, Status(pid=os.getpid()))
    parts = LiveRun(run, "run").look()
    curve = part(parts, "figure-loss")["figure"]["data"][0]
    assert curve["name"] == "this run"


def test_a_sweep_in_progress(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    growing = GrowingRun(sweep.running / "p3.id3", make_plan(three_dcs()))
    growing.start()
    live = LiveSweep(sweep, "sweep")
    parts = live.look()
    points = [part(parts, name) for name in parts if name.startswith("point-")]
    assert [point["state"] for point in points] == ["completed", "completed", "failed", "running"]
    assert points[0]["at"] == "sweep/points/p0.id0"
    assert points[2]["reason"] == "it broke"
    assert points[3]["at"] == "sweep/running/p3.id3"
    assert part(parts, "stage-p3.id3")["stage"]["total"] == 24
    assert live.look() == parts


def test_a_hostile_report_is_not_shown(tmp_path: Path, plan: Plan) -> None:
    run = write_run(tmp_path / "run", plan)
    collect(run)
    run.report.write_text("<script>alert(1)</script>")
    documents = Documents(ResultsFolder(tmp_path))
    page = documents.page("run/report.html")
    assert b"alert(1)" not in page
    assert documents.page("run/report.html") is page
    collect(run)
    assert documents.page("run/report.html") is not page
    policy = frame_policy()
    assert "sandbox allow-scripts allow-downloads" in policy
    assert "allow-same-origin" not in policy
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]


def test_the_folder_itself_may_be_a_run(tmp_path: Path, plan: Plan) -> None:
    run = write_run(tmp_path / "run", plan)
    collect(run)
    results = ResultsFolder(run.path)
    assert [entry.at for entry in results.look()] == ["."]
    assert results.run(".") == RunDir(run.path)
    assert b"<main>" in Documents(results).page("./report.html")


def test_messages_hold_what_has_changed() -> None:
    message = difference({"a": "1", "b": "2"}, {"a": "3", "<c>": '"d"'})
    assert json.loads(message) == {"changed": {"a": 3, "<c>": "d"}, "removed": ["b"]}


def test_a_look_that_fails_says_why() -> None:
    def look() -> Parts:
        raise ValueError("no such column")

    assert "no such column" in part(guarded(look), PROBLEM)


def test_a_feed_of_nothing_says_so() -> None:
    async def read() -> str:
        messages = Feeds().messages("name", lambda: dict)
        text = await anext(messages)
        await messages.aclose()
        return text

    assert asyncio.run(read()) == 'data: {"changed": {}, "removed": []}\n\n'


def test_readers_of_a_feed_share_its_looks() -> None:
    looks: list[int] = []

    def look() -> Parts:
        looks.append(1)
        return {"count": "1"}

    async def read_twice() -> list[str]:
        feeds = Feeds()
        first = feeds.messages("name", lambda: look)
        second = feeds.messages("name", lambda: look)
        texts = [await anext(first), await anext(second)]
        await first.aclose()
        await second.aclose()
        again = feeds.messages("name", lambda: look)
        texts.append(await anext(again))
        await again.aclose()
        return texts

    texts = asyncio.run(read_twice())
    assert [json.loads(text.removeprefix("data: ")) for text in texts] == 3 * [
        {"changed": {"count": 1}, "removed": []}
    ]
    assert len(looks) == 2
