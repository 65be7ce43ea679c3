"""When the ranks of a run have all ended, with hosts that the plan lets crash; and how parents get
more orders.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from testbed.core.errors import WorkerError
from testbed.plan.model import Change, Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import RankExit, append
from testbed.workers import fleet
from testbed.workers.orders import LaterOrders, Order, encode_orders
from tests.support.synthetic import make_plan, two_dcs

KILLED = -9


class Ranks(fleet.Fleet):
    """Ranks that end when the test says so."""

    started: list[list[str]]

    def __exit__(self, *error: object) -> None: ...

    @property
    def namespaces(self) -> dict[str, int]:
        return {}

    def _start(self, hosts: Sequence[str], netns: Mapping[str, int]) -> None:
        self.started = [*getattr(self, "started", []), list(hosts)]

    def _kill(self, host: str) -> None:
        for rank in self.processes_of(host):
            self.ends(rank.rank, KILLED)

    def ends(self, rank: int, status: int) -> None:
        append(self.run.rank_exits, RankExit(rank=rank, status=status))

    def lost(self) -> list[str]:
        return []

    def pids(self, host: str) -> list[int]:
        return []

    def memory_kills(self, host: str) -> int:
        return 0


def plan(*changes: Change) -> Plan:
    made = make_plan(two_dcs())
    return made.model_copy(update={"network": made.network.model_copy(update={"changes": changes})})


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """A host of the plan crashes, and is back later."""
    monkeypatch.setattr(fleet, "POLL_S", 0.001)
    host = make_plan(two_dcs()).workers.ranks[0].host
    changes = (
        Change(at_ns=1, what=("down",), killed=(host,)),
        Change(at_ns=2, what=("up",), started=(host,)),
    )
    made = Ranks(RunDir.create(tmp_path / "run"), plan(*changes))
    made.start({})
    return made


def is_over(ranks: Ranks) -> bool:
    """Whether `wait` returns."""
    thread = threading.Thread(target=ranks.wait, daemon=True)
    thread.start()
    thread.join(0.2)
    return not thread.is_alive()


def others(ranks: Ranks) -> list[int]:
    host = ranks.plan.workers.ranks[0].host
    return [rank.rank for rank in ranks.plan.workers.ranks if rank.host != host]


def test_ranks_that_are_killed_as_planned_are_no_failure(crashing: Ranks) -> None:
    host = crashing.plan.workers.ranks[0].host
    crashing.kill([host])
    for rank in others(crashing)[1:]:
        crashing.ends(rank, 0)
    assert not is_over(crashing)
    crashing.ends(others(crashing)[0], 0)
    assert is_over(crashing)  # those that are to start again have nobody to join


def test_ranks_that_start_again_are_waited_for(crashing: Ranks) -> None:
    host = crashing.plan.workers.ranks[0].host
    crashing.kill([host])
    crashing.start_again([host])
    assert crashing.started[1:] == [[host]]
    for rank in others(crashing):
        crashing.ends(rank, 0)
    assert not is_over(crashing)
    for process in crashing.processes_of(host):
        crashing.ends(process.rank, 0)
    assert is_over(crashing)


def test_a_run_whose_hosts_all_crashed_waits_for_their_return(crashing: Ranks) -> None:
    crashing.kill(crashing.hosts)
    assert not is_over(crashing)


def test_a_failure_after_a_crash_says_so(crashing: Ranks) -> None:
    host = crashing.plan.workers.ranks[0].host
    crashing.kill([host])
    crashing.ends(others(crashing)[0], 1)
    with pytest.raises(
        WorkerError,
        match=f"exited with 1, after {host} had crashed as scheduled by an event of the topology",
    ):
        crashing.wait()


def test_what_the_plan_did_not_kill_is_a_failure(crashing: Ranks) -> None:
    """The same signal, from somebody else."""
    crashing.ends(0, KILLED)
    with pytest.raises(WorkerError, match=r"rank 0 on .* was ended by signal 9"):
        crashing.wait()


def test_a_rank_that_fails_after_its_return_is_a_failure(crashing: Ranks) -> None:
    host = crashing.plan.workers.ranks[0].host
    crashing.kill([host])
    crashing.start_again([host])
    crashing.ends(0, 3)
    with pytest.raises(WorkerError, match=r"rank 0 on .* exited with 3"):
        crashing.wait()


def test_more_orders_come_while_children_run(tmp_path: Path) -> None:
    """A wait ends with an order, or with a child; an order that comes in pieces is whole."""
    fifo = tmp_path / "orders"
    os.mkfifo(fifo)
    later, orders = LaterOrders(fifo), [Order(1, "a"), Order(2, "b", cgroup="/x")]
    text = encode_orders(orders)
    with fifo.open("w") as file:
        file.write(text[:10])
    assert later.wait([]) == []
    with fifo.open("w") as file:
        file.write(text[10:] + text)
    assert later.wait([]) == orders * 2
    child = os.fork()
    if child == 0:
        time.sleep(0.05)
        os._exit(0)
    assert later.wait([child]) == []
    assert os.waitpid(child, os.WNOHANG)[0] == child


def test_the_first_failure_is_told(crashing: Ranks) -> None:
    """It brings the others, of whatever rank."""
    last = crashing.plan.workers.ranks[-1].rank
    crashing.ends(last, 1)
    crashing.ends(0, 1)
    with pytest.raises(WorkerError, match=f"^rank {last} on "):
        crashing.wait()
