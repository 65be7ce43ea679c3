"""The story of one run, in order, inside the kernel that carries it out.

usage: python -m testbed.execution.inside RUN_FOLDER

The run folder holds plan.json. What happens is appended to the folder's raw records as it happens;
tables are made from them afterwards, by whoever started this. The same command runs in a guest and
on the machine itself.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from testbed.core.errors import TestbedError
from testbed.measure.capture import Tap, capturing
from testbed.measure.clock_health import straining
from testbed.measure.counters import Port, read_counters, sampling
from testbed.network import qdiscs
from testbed.network.background import Transfers
from testbed.network.build import BuiltNetwork, build_network
from testbed.network.netlink import inside_netns
from testbed.network.reconfigure import changing
from testbed.network.verify import verify_round_trips
from testbed.plan.captures import CapturePoint, capture_points
from testbed.plan.model import Network, Plan
from testbed.runfolder.folder import RunDir, append_record
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
)
from testbed.workers.fleet import Fleet

QUIET_NS = 10 * 10**9  # on the virtual clock waiting is free

# It was for the imports above; a user's script may build extensions.
os.environ.pop("SETUPTOOLS_USE_DISTUTILS", None)


def run(folder: RunDir) -> None:
    """Build, verify, measure and run what plan.json says.

    Raises:
        TestbedError: a stage failed; the records so far are in the folder.
    """
    plan = folder.read_plan()
    with ExitStack() as stack:
        with stage(folder, "workers"):
            fleet: Fleet = stack.enter_context(_fleet(folder, plan))
        with stage(folder, "network"):
            network = stack.enter_context(build_network(plan.network, fleet.namespaces))
        with stage(folder, "verify"):
            round_trips = verify_round_trips(network, virtual=plan.clock == "virtual")
            folder.write_json(folder.fidelity, [round_trip.record() for round_trip in round_trips])
        with stage(folder, "measurement"):
            stack.enter_context(_capturing(folder, network, plan))
            if plan.clock == "virtual":
                _wait_until_quiet()
            ports = _sampled_ports(network, stack)
            stack.enter_context(sampling(ports, folder.link_samples))
        with stage(folder, "import"):
            fleet.start({host.name: network.pid(host.node) for host in plan.network.hosts})
        with (
            stage(folder, "ops"),
            _clock_health_watched(folder, network, plan),
            Transfers(network, partial(append_record, folder.transfers)) as transfers,
            _network_changing(folder, network, fleet, transfers),
        ):
            fleet.wait()


def _fleet(folder: RunDir, plan: Plan) -> Fleet:
    """Choose how hosts are isolated. An import of docker takes 0.6 s in a guest."""
    if plan.workers.isolation == "container":
        from testbed.workers.containers import Containers  # noqa: PLC0415

        return Containers(folder, plan)
    from testbed.workers.processes import Processes  # noqa: PLC0415

    return Processes(folder, plan)


@contextmanager
def _capturing(folder: RunDir, network: BuiltNetwork, plan: Plan) -> Iterator[None]:
    """Capture packets within the block, where the plan says so."""
    points = capture_points(plan.network, plan.capture)
    taps = [_tap(folder, network, point) for point in points]
    if not taps:
        yield
        return
    with capturing(taps, plan.capturing, yielding=plan.clock == "virtual"):
        yield


def _tap(folder: RunDir, network: BuiltNetwork, point: CapturePoint) -> Tap:
    interface = point.interface
    if point.kind == "wan":
        index = next(link.index for link in network.plan.wan if link.key == point.what)
        interface = qdiscs.wan_interface(point.node, index)
    elif point.kind == "nic":
        interface = qdiscs.host_interface(network.plan.host(point.at))
    elif not interface:
        interface = qdiscs.lan_interface(point.node)
    path = folder.capture(point.what, point.at)
    return Tap(path, network.pid(point.node), interface, inbound=point.kind == "lan")


def _wait_until_quiet() -> None:
    """Wait for the same point of the kernel's timers in every run, however long Docker took.

    Linux writes what is in its page cache 5 s later, and would do so among the packets of the run,
    at another time in each: what Docker and the logs have written is flushed now, and the timer for
    it ends within the wait.
    """
    os.sync()
    time.sleep((2 * QUIET_NS - time.time_ns() % QUIET_NS) / 1e9)


def _sampled_ports(network: BuiltNetwork, stack: ExitStack) -> list[Port]:
    """Give the WAN ports whose counters are sampled, over sockets that `stack` closes."""
    ports: list[Port] = []
    for wan_port in qdiscs.wan_ports(network.plan):
        with inside_netns(network.pid(wan_port.router)):
            connection = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
            index = socket.if_nametoindex(wan_port.interface)
        direction = wan_port.direction
        port = Port(connection, index, direction.source, direction.target, wan_port.link)
        ports.append(port)
    return ports


@contextmanager
def _clock_health_watched(folder: RunDir, network: BuiltNetwork, plan: Plan) -> Iterator[None]:
    """Note, on the real clock, what shows that this kernel did not keep up within the block."""
    if plan.clock == "virtual":
        yield
        return
    with straining() as seen:
        yield
    drops = _fibre_drops(network, plan.network)
    folder.write_json(folder.strain, {**seen.record(), "fibre_drops": drops})


def _fibre_drops(network: BuiltNetwork, plan: Network) -> dict[str, int]:
    """Count the drops of fibres that should never have any.

    Args:
        network: the network as it stands.
        plan: its plan.

    Returns:
        The number of drops by interface, where there are some.
    """
    if not plan.wan:
        return {}
    drops: dict[str, int] = {}
    with (
        inside_netns(network.pid("wan")),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection,
    ):
        counters = read_counters(connection)
        for index, interface in socket.if_nameindex():
            if index in counters:
                drops[interface] = counters[index].drops
    fibres: set[str] = set()
    lossy: set[str] = set()
    for state in plan.states():
        for port in qdiscs.ports(state):
            if port.node == "wan":
                fibres.add(port.interface)
                if qdiscs.loses(port):
                    lossy.add(port.interface)
    return {fibre: drops[fibre] for fibre in sorted(fibres - lossy) if drops.get(fibre)}


def _network_changing(
    folder: RunDir, network: BuiltNetwork, fleet: Fleet, transfers: Transfers
) -> AbstractContextManager[None]:
    """Let the plan's changes happen within the block.

    Their times count from rank 0's first operation or step.
    """
    events: Follower[Record] = Follower(folder.events, EVENT)
    changes = network.plan.changes

    def began_ns() -> int | None:
        for event in events.new():
            if isinstance(event, FirstOperation):
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
    """Note the beginning and the end of a part of the run, on the run's clock."""
    append(folder.events, StageBegan(stage=name, time_ns=time.time_ns()))
    try:
        yield
    finally:
        append(folder.events, StageEnded(stage=name, time_ns=time.time_ns()))


def main(path: str) -> int:
    """Carry out the run, and note its outcome as the last event.

    Returns:
        The exit status: 0 if the run completed, 1 if not.
    """
    folder = RunDir(Path(path))
    reason = ""
    try:
        run(folder)
    except TestbedError as error:
        reason = str(error)
    except Exception as error:  # whatever it is, the folder has to say so
        traceback.print_exc()
        fault = f"a fault of the testbed: see {folder.console.name}"
        reason = f"{type(error).__name__}: {error} ({fault})"
    else:
        append(folder.events, RunEnded(state="completed", time_ns=time.time_ns()))
        return 0
    append(folder.events, RunEnded(state="failed", reason=reason, time_ns=time.time_ns()))
    return 1


def leave(status: int) -> NoReturn:
    """End this process at once: nothing has to be tidied up in its memory."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1]))
