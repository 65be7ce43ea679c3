"""The story of one run, in order, inside the kernel that carries it.

usage: python -m testbed.execution.inside RUN_FOLDER
       python -m testbed.execution.inside --series FOLDER     one after another, as
       testbed.guest.resident asks for them python -m testbed.execution.inside --bundle FILE
       write a bundle of all that runs import

The run folder holds plan.json. What happens is appended to the folder's raw records as it happens;
tables are made from them afterwards, by whoever started this. The same command runs in a guest and
on the machine itself.
"""

from __future__ import annotations

import json
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
from testbed.runfolder.files import replace_text
from testbed.runfolder.folder import RecordFollower, RunDir, append_record
from testbed.workers.fleet import Fleet

QUIET_NS = 10 * 10**9  # on the virtual clock waiting is free
OWN = {"testbed", "__main__"}

os.environ.pop(
    "SETUPTOOLS_USE_DISTUTILS", None
)  # it was for our own imports; a user's script may build extensions


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
            if taps := [
                _tap(folder, network, point) for point in capture_points(plan.network, plan.capture)
            ]:
                virtual = plan.clock == "virtual"
                stack.enter_context(capturing(taps, plan.capturing, yielding=virtual))
            if plan.clock == "virtual":
                _wait_until_quiet()
            stack.enter_context(sampling(_ports(network, stack), folder.link_samples))
        with stage(folder, "import"):
            fleet.start({host.name: network.pid(host.node) for host in plan.network.hosts})
        with (
            stage(folder, "ops"),
            _watched(folder, network, plan),
            Transfers(network, partial(append_record, folder.transfers)) as transfers,
            _changing(folder, network, fleet, transfers),
        ):
            fleet.wait()


def _changing(
    folder: RunDir, network: BuiltNetwork, fleet: Fleet, transfers: Transfers
) -> AbstractContextManager[None]:
    """The changes of the plan happen within the block, at their times after rank 0's first
    operation or step.
    """
    events, changes = RecordFollower(folder.events), network.plan.changes

    def began_ns() -> int | None:
        return next(
            (int(event["time_ns"]) for event in events.new() if event["state"] == "first"), None
        )

    def then(number: int, due_ns: int) -> None:
        fleet.kill(changes[number].killed)
        fleet.start_again(changes[number].started)
        for transfer in changes[number].transfers:
            transfers.start(transfer)
        append_record(
            folder.changes, {"number": number, "due_ns": due_ns, "time_ns": time.time_ns()}
        )

    return changing(network, began_ns, then)


def _fleet(folder: RunDir, plan: Plan) -> Fleet:
    if plan.workers.isolation == "container":
        from testbed.workers.containers import Containers  # noqa: PLC0415 (importing docker takes 0.6 s in the guest)

        return Containers(folder, plan)
    from testbed.workers.processes import Processes  # noqa: PLC0415

    return Processes(folder, plan)


def _wait_until_quiet() -> None:
    """What follows begins at the same point of the kernel's timers in every run, however long
    Docker took.

    Linux writes what is in its page cache 5 s later, and would do so among the packets of the run,
    at another time in each: what Docker and the logs have written is flushed now, and the timer for
    it ends within the wait.
    """
    os.sync()
    time.sleep((2 * QUIET_NS - time.time_ns() % QUIET_NS) / 1e9)


def _ports(network: BuiltNetwork, stack: ExitStack) -> list[Port]:
    """The WAN ports whose counters are sampled."""
    found = []
    for port in qdiscs.wan_ports(network.plan):
        with inside_netns(network.pid(port.router)):
            connection = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
            index = socket.if_nametoindex(port.interface)
        found.append(
            Port(connection, index, port.direction.source, port.direction.target, port.link)
        )
    return found


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


@contextmanager
def _watched(folder: RunDir, network: BuiltNetwork, plan: Plan) -> Iterator[None]:
    """On the real clock: note what shows that this kernel did not keep up within the block."""
    if plan.clock == "virtual":
        yield
        return
    with straining() as seen:
        yield
    folder.write_json(
        folder.strain, {**seen.record(), "fibre_drops": _fibre_drops(network, plan.network)}
    )


def _fibre_drops(network: BuiltNetwork, plan: Network) -> dict[str, int]:
    """Drops of the fibres of `plan` that should never have any, by the names of their
    interfaces.
    """
    if not plan.wan:
        return {}
    with (
        inside_netns(network.pid("wan")),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection,
    ):
        counters = read_counters(connection)
        drops = {
            name: counters[index].drops
            for index, name in socket.if_nameindex()
            if index in counters
        }
    fibres = [port for state in plan.states() for port in qdiscs.ports(state) if port.node == "wan"]
    lossless = {port.interface for port in fibres} - {
        port.interface for port in fibres if qdiscs.loses(port)
    }
    return {name: drops[name] for name in sorted(lossless) if drops.get(name)}


@contextmanager
def stage(folder: RunDir, name: str) -> Iterator[None]:
    """Note the beginning and end of a part of the run, on the run's clock."""
    append_record(folder.events, {"stage": name, "state": "begin", "time_ns": time.time_ns()})
    try:
        yield
    finally:
        append_record(folder.events, {"stage": name, "state": "end", "time_ns": time.time_ns()})


def main(path: str) -> int:
    """Run, and note the outcome as the last event: 0 if the run completed, 1 if not."""
    folder = RunDir(Path(path))
    try:
        run(folder)
        outcome, reason = "completed", ""
    except TestbedError as error:
        outcome, reason = "failed", str(error)
    except Exception as error:  # whatever it is, the folder has to tell
        traceback.print_exc()
        outcome, reason = (
            "failed",
            f"{type(error).__name__}: {error} (a fault of the testbed: see {folder.console.name})",
        )
    append_record(
        folder.events,
        {"stage": "run", "state": outcome, "reason": reason, "time_ns": time.time_ns()},
    )
    return 0 if outcome == "completed" else 1


def series(path: str) -> int:
    """Carry out runs in processes forked from this one, which has imported what they need; see
    testbed.guest.resident.
    """
    from testbed.workers.zygote import prepare_torch  # noqa: PLC0415
    from testbed.workers.zygote_warm import import_torch  # noqa: PLC0415

    import_torch()
    folder, number = Path(path), 0
    replace_text(folder / "ready", "")
    while True:
        order = folder / f"order-{number}"
        while not order.exists():
            pass  # this guest is paused meanwhile, and its clock stands still
        run_folder = order.read_text()
        prepare_torch(json.loads(RunDir(Path(run_folder)).plan.read_text())["workers"]["workload"])
        pid = os.fork()
        if pid == 0:
            console = os.open(
                RunDir(Path(run_folder)).console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            os.dup2(console, 1)
            os.dup2(console, 2)
            _leave(main(run_folder))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        replace_text(folder / f"done-{number}", str(status))
        number += 1


def write_bundle(path: str) -> int:
    """Bundle what this module, its parts and all ranks import; the project's own modules change too
    often.
    """
    from testbed.core import code_bundle  # noqa: PLC0415
    from testbed.workers import containers, processes  # noqa: F401, PLC0415
    from testbed.workers.zygote import prepare_torch  # noqa: PLC0415
    from testbed.workers.zygote_warm import import_torch  # noqa: PLC0415

    import_torch()
    for workload in ("collectives", "train"):
        prepare_torch(workload)
    modules = {
        name: module for name, module in sys.modules.items() if name.split(".")[0] not in OWN
    }
    code_bundle.write(Path(path), modules)
    return 0


def _leave(status: int) -> NoReturn:
    """End at once: nothing is left to be tidied up in memory."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    orders = {"--series": series, "--bundle": write_bundle}
    _leave(orders[sys.argv[1]](sys.argv[2]) if sys.argv[1] in orders else main(*sys.argv[1:]))
