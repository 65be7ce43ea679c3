"""Carry out one run, stage by stage, inside the kernel of the guest or of this machine.

usage: python -m testbed.execution.inside RUN_FOLDER

The run folder contains plan.json. Events are appended to the raw records of the folder as they
happen; the starter turns the records into tables afterwards. The same command runs in a guest and
on the machine itself.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from testbed.core import linux
from testbed.core.errors import TestbedError
from testbed.execution.inside_measurement import (
    capturing_packets,
    sampling_links,
    seed_kernel,
    wait_until_quiet,
    watching_clock_health,
    watching_memory,
)
from testbed.execution.site_control import SiteControl
from testbed.network.background import Transfers
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.reconfigure import changing
from testbed.network.timers import exact_timers
from testbed.network.verify import verify_round_trips
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    EVENT,
    FirstOperation,
    Follower,
    NetworkChange,
    Record,
    RunEnded,
    StageBegan,
    StageEnded,
    append,
    write_round_trips,
)
from testbed.workers.fleet import Fleet

# Needed only by the imports above; a user's script may build extensions.
os.environ.pop("SETUPTOOLS_USE_DISTUTILS", None)


def run(folder: RunDir) -> None:
    """Build, verify and measure the network, and run the workload, as given in plan.json.

    Raises:
        TestbedError: a stage failed; the records so far are in the folder.
    """
    plan = folder.read_plan()
    if plan.where == "guest":
        exact_timers()
        seed_kernel(plan.seed)
    else:
        _mount_without_rights(folder.path)
    with ExitStack() as stack:
        control = stack.enter_context(SiteControl(plan.network.site))
        with stage(folder, "workers"):
            fleet: Fleet = stack.enter_context(_fleet(folder, plan))
        with stage(folder, "network"):
            network = stack.enter_context(build_network(plan.network, fleet.namespaces))
        with stage(folder, "verify"):
            control.meet("network")
            for is_own_turn in control.turns("verify", max(1, len(plan.sites))):
                if is_own_turn:
                    round_trips = verify_round_trips(network, virtual=plan.clock == "virtual")
                    write_round_trips(folder.fidelity, round_trips)
        with stage(folder, "measurement"):
            stack.enter_context(capturing_packets(folder, network, plan))
            control.meet("measurement")
            if plan.clock == "virtual":
                wait_until_quiet()
                seed_kernel(plan.seed)  # Docker has drawn as many numbers as it took to start
            stack.enter_context(sampling_links(folder, network))
        with stage(folder, "import"):
            pids = {host.name: network.pid(host.node) for host in plan.network.hosts_here}
            fleet.start(pids)
        with (
            stage(folder, "ops"),
            watching_clock_health(folder, network, plan),
            watching_memory(folder, network),
            Transfers(network, partial(append, folder.transfers)) as transfers,
            _network_changing(folder, network, fleet, transfers, control),
        ):
            fleet.wait(control.look)
            control.meet("end")


def _mount_without_rights(folder: Path) -> None:
    """Let nobody run programs of a folder with their owner's rights, as init does in a guest."""
    linux.mount(str(folder), str(folder), None, linux.MS_BIND)
    linux.forbid_programs_of_owners(str(folder))


def _fleet(folder: RunDir, plan: Plan) -> Fleet:
    """Return the fleet for the plan's isolation. An import of docker takes 0.6 s in a guest."""
    if plan.workers.isolation == "container":
        from testbed.workers.containers import Containers  # noqa: PLC0415

        return Containers(folder, plan)
    from testbed.workers.processes import Processes  # noqa: PLC0415

    return Processes(folder, plan)


def _network_changing(
    folder: RunDir,
    network: BuiltNetwork,
    fleet: Fleet,
    transfers: Transfers,
    control: SiteControl,
) -> AbstractContextManager[None]:
    """Apply the plan's network changes within the block.

    Times of changes count from the first operation or step of rank 0.
    """
    events: Follower[Record] = Follower(folder.events, EVENT)
    changes = network.plan.changes

    def began_ns() -> int | None:
        if not control.leads:
            return control.began_ns()
        for event in events.new():
            if isinstance(event, FirstOperation):
                control.tell_began(event.time_ns)
                return event.time_ns
        return None

    def finish_change(number: int, due_ns: int) -> None:
        change = changes[number]
        fleet.kill(change.killed)
        fleet.start_again(change.started)
        for transfer in change.transfers:
            transfers.start(transfer)
        done = NetworkChange(number=number, due_ns=due_ns, time_ns=time.time_ns())
        append(folder.changes, done)

    return changing(network, began_ns, finish_change)


@contextmanager
def stage(folder: RunDir, name: str) -> Iterator[None]:
    """Record the start and the end of a stage of the run, on the run's clock."""
    append(folder.events, StageBegan(stage=name, time_ns=time.time_ns()))
    try:
        yield
    finally:
        append(folder.events, StageEnded(stage=name, time_ns=time.time_ns()))


def main(path: str) -> int:
    """Carry out the run, and record its outcome as the last event.

    Returns:
        The exit status: 0 if the run completed, 1 if not.
    """
    folder = RunDir(Path(path))
    reason = ""
    try:
        run(folder)
    except TestbedError as error:
        reason = str(error)
    except Exception as error:  # every failure must be recorded in the folder
        traceback.print_exc()
        fault = f"a bug in testbed; see {folder.console.name}"
        reason = f"{type(error).__name__}: {error} ({fault})"
    else:
        append(folder.events, RunEnded(state="completed", time_ns=time.time_ns()))
        return 0
    append(folder.events, RunEnded(state="failed", reason=reason, time_ns=time.time_ns()))
    return 1


def leave(status: int) -> NoReturn:
    """End this process immediately, without interpreter shutdown."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1]))
