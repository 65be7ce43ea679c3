"""What ranks do when a run stands still: asked by a signal, with real processes."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from testbed.core.errors import RunError, WorkerError
from testbed.execution.limits import LimitWatch, RunLimits, default_time_limit_s
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import RankExit, append
from testbed.runfolder.stacks import Frame, parse_stacks
from testbed.workers import fleet
from testbed.workers.stacks import answer_requests, rank_of, request_stacks
from tests.support.synthetic import make_plan, three_dcs

LONGEST_S = 60.0


def spin() -> None:
    while True:
        pass


def sum_in_c() -> None:
    sum(range(10**12))  # holds the interpreter's lock, and never returns to it


def wait_for_ever() -> None:
    threading.Event().wait()


def all_reduce() -> None:
    """As a rank of torch.distributed: its file says so."""
    source = "def all_reduce():\n    import time\n    time.sleep(1000)\nall_reduce()\n"
    exec(compile(source, "/lib/torch/distributed/distributed_c10d.py", "exec"))


class Ranks(fleet.Fleet):
    """Ranks as forks of this process, which do what the test says."""

    work: Sequence[Callable[[], object]] = ()

    def __exit__(self, *error: object) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    @property
    def namespaces(self) -> dict[str, int]:
        return {}

    def _start(self, hosts: Sequence[str], netns: Mapping[str, int]) -> None:
        self.children = []
        for rank, work in zip(self.plan.workers.processes, self.work, strict=False):
            self.children.append(self._fork(rank.rank, work))

    def _fork(self, rank: int, work: Callable[[], object]) -> int:
        ready, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            log = os.open(self.run.rank_log(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            answer_requests()
            os.write(end, b"!")
            work()
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(end)
        return pid

    def _kill(self, host: str) -> None: ...

    def lost(self) -> list[str]:
        return []

    def pids(self, host: str) -> list[int]:
        mine = {("", rank.rank) for rank in self.processes_of(host)}
        return [pid for pid in self.children if rank_of(pid) in mine]

    def memory_kills(self, host: str) -> int:
        return 0


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    # In place of 0.1 s of a run's clock: on a busy machine ranks take longer to answer.
    monkeypatch.setattr("testbed.workers.stacks.MOST_PAUSES", 5000)
    made = Ranks(RunDir.create(tmp_path / "run"), make_plan(three_dcs()))
    made.children: list[int] = []  # type: ignore[misc]
    with made:
        yield made


def test_what_ranks_do(ranks: Ranks) -> None:
    """A loop in Python, a loop in C, and a wait; with the line of each."""
    ranks.work = (spin, sum_in_c, wait_for_ever)
    ranks.start({})
    time.sleep(0.5)
    stacks = ranks.write_stacks()
    assert [entry.rank for entry in stacks[:3]] == [0, 1, 2]
    places = [entry.place for entry in stacks[:3]]
    assert [place.name for place in places if place is not None] == [
        "spin",
        "sum_in_c",
        "wait_for_ever",
    ]
    assert {place.file for place in places if place is not None} == {__file__}
    assert "is running" in stacks[0].state
    assert "is waiting" in stacks[2].state
    assert all(entry.operation is None for entry in stacks)
    text = ranks.run.stacks.read_text()
    assert parse_stacks(text) == stacks
    for pid in ranks.children:
        os.kill(pid, 0)  # all are still alive


def test_a_process_without_a_handler_is_left_alone() -> None:
    """The signal would end it."""
    pid = os.fork()
    if pid == 0:
        time.sleep(LONGEST_S)
        os._exit(0)
    try:
        assert request_stacks([pid, 2**22 + 1]) == []
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_timeout_names_the_rank_that_did_not_enter(ranks: Ranks) -> None:
    """Rank 0 has timed out, rank 1 is in the operation, rank 2 sleeps elsewhere."""
    ranks.work = (spin, all_reduce, wait_for_ever)
    ranks.start({})
    os.kill(ranks.children[0], signal.SIGKILL)
    os.waitpid(ranks.children.pop(0), 0)
    log = ranks.run.rank_log(0)
    log.write_text("RuntimeError: Timed out waiting 60000ms for recv operation to complete\n")
    time.sleep(0.5)
    append(ranks.run.rank_exits, RankExit(rank=0, status=1))
    with pytest.raises(WorkerError) as caught:
        ranks.wait()
    host = ranks.plan.workers.ranks[2].host
    first, second, *rest = str(caught.value).splitlines()
    assert first == f"rank 2 on {host} did not enter the operation in which rank 0 timed out:"
    assert f"rank 2 on {host}" in second
    assert f"{Path(__file__).name}:" in second
    assert second.endswith("in wait_for_ever")
    assert "rank 1" not in "\n".join([first, second])
    assert any("Timed out waiting 60000ms" in line for line in rest)


def test_other_failures_accuse_nobody(ranks: Ranks) -> None:
    ranks.work = (spin, wait_for_ever)
    ranks.start({})
    ranks.run.rank_log(0).write_text("ValueError: too many values\n")
    append(ranks.run.rank_exits, RankExit(rank=0, status=1))
    with pytest.raises(WorkerError, match=r"^rank 0 on \S+ exited with 1; the end of"):
        ranks.wait()


class Display:
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def test_limits_end_a_run_with_its_stacks(ranks: Ranks) -> None:
    """The run's clock is past its limit; the fleet answers the request for stacks."""
    ranks.work = (spin, wait_for_ever)
    ranks.start({})
    time.sleep(0.5)  # until both have begun
    thread = threading.Thread(target=ranks.wait, daemon=True)
    thread.start()
    display = Display()
    watch = LimitWatch(ranks.run, RunLimits(stall_s=300, time_s=3600), display)
    watch.begin()
    assert display.notices == ["time limit on the run's clock: 3600 s (--time-limit)"]
    watch.look(emulated_ns=3599 * 10**9, forced_ns=0, stalled_s=0, process="")
    with pytest.raises(RunError) as caught:
        watch.look(emulated_ns=3601 * 10**9, forced_ns=0, stalled_s=0, process="")
    message = str(caught.value)
    assert message.startswith(
        "the run has taken 3600 s of its clock (--time-limit); what each rank"
    )
    assert f"{Path(__file__).name}:" in message
    assert "in wait_for_ever" in message
    assert "results so far were kept" in message


def test_a_stall_is_reported(ranks: Ranks) -> None:
    """After 10 s; ranks are asked only once the clock was forced, because the answer takes time."""
    display = Display()
    watch = LimitWatch(ranks.run, RunLimits(stall_s=300), display)
    process = "python3 (pid 7) on iowa-h0"
    watch.look(emulated_ns=0, forced_ns=0, stalled_s=9, process=process)
    assert display.notices == []
    watch.look(emulated_ns=0, forced_ns=0, stalled_s=11, process=process)
    watch.look(emulated_ns=0, forced_ns=0, stalled_s=12, process=process)
    assert display.notices == [
        f"the virtual clock has not moved for 11 s: {process} is computing, or waits in a loop"
    ]
    assert not ranks.run.stacks_wanted.exists()
    watch.look(emulated_ns=0, forced_ns=5, stalled_s=13, process=process)
    assert ranks.run.stacks_wanted.exists()
    ranks.work = (spin,)
    ranks.start({})
    ranks.write_stacks()
    watch.look(emulated_ns=0, forced_ns=9, stalled_s=14, process=process)
    assert display.notices[1].startswith("what each rank does (logs/stacks.txt):\n    rank 0 on ")
    assert len(display.notices) == 2


def test_the_default_time_limit_follows_the_plan() -> None:
    plan = make_plan(three_dcs())
    assert default_time_limit_s(plan) >= 7 * 86400
    workers = plan.workers.model_copy(update={"timeout_s": 10**6})
    patient = plan.model_copy(update={"workers": workers})
    assert default_time_limit_s(patient) == 100 * 10**6


def test_places_of_the_user_come_first() -> None:
    text = """rank 3 on a-h1: python3 (process 9) is waiting
Thread 0x01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait

Current thread 0x02 (most recent call first):
  File "/v/torch/distributed/distributed_c10d.py", line 3 in all_reduce
  File "/v/torch/distributed/c10d_logger.py", line 4 in wrapper
  File "/home/me/train.py", line 12 in step
  File "<frozen runpy>", line 88 in _run_code
"""
    (entry,) = parse_stacks(text)
    assert entry.place == Frame("/home/me/train.py", 12, "step")
    assert entry.operation == "all_reduce"
    assert str(entry).startswith(
        "rank 3 on a-h1: python3 (process 9) is waiting, at /home/me/train"
    )
