"""Change the links and routes of a built network.

`change_network` changes the network immediately, `changing` at the times of the plan. Packets in a
queue leave at the new rate; packets already on a fibre keep the delay with which they were sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from testbed.core.errors import RunError
from testbed.network import qdiscs
from testbed.network.aqm import ManagedQueue
from testbed.network.built import BuiltNetwork
from testbed.network.netem import Netem
from testbed.network.qdiscs import ShapedPort
from testbed.network.rtnetlink import netlink
from testbed.network.timers import exact_timers
from testbed.plan.model import Network

# netem never removes a table of the jitter's distribution: this table equals netem's default
# without a table, in netem's units of spread / 8192.
UNIFORM = tuple(range(-8192, 8192, 16))
LOOK_S = 0.01

BeginTime = Callable[[], int | None]
AfterChange = Callable[[int, int], None]


class PortChange(NamedTuple):
    """The present and the wanted state of a shaped port."""

    old: ShapedPort
    new: ShapedPort


def change_network(network: BuiltNetwork, wanted: Network) -> None:
    """Give the shaped ports and routes of `network` the parameters of `wanted`.

    A shorter delay lets later packets overtake packets already in flight.

    Args:
        network: the built network; its plan becomes `wanted`.
        wanted: a network with the same nodes and links.

    Raises:
        RunError: the kernel keeps a different value; the ports before the failed port are changed.
    """
    old_ports = {(port.node, port.interface): port for port in qdiscs.ports(network.plan)}
    changes: dict[str, list[PortChange]] = {}
    for port in qdiscs.ports(wanted):
        old_port = old_ports[port.node, port.interface]
        if port != old_port:
            node_changes = changes.setdefault(port.node, [])
            node_changes.append(PortChange(old_port, port))

    for node, node_changes in changes.items():
        _change_ports(network, node, node_changes)

    _change_routes(network, wanted)
    network.plan = wanted


def _change_ports(network: BuiltNetwork, node: str, changes: Sequence[PortChange]) -> None:
    """Change ports of `node` and read the new values back."""
    with netlink(network.pid(node)) as connection:
        for change in changes:
            transition = _transition(change.old.qdisc, change.new.qdisc)
            qdiscs.apply(connection, replace(change.new, qdisc=transition))

        qdiscs.read_back(connection, [change.new for change in changes])


def _transition(old: Netem | ManagedQueue, new: Netem | ManagedQueue) -> Netem | ManagedQueue:
    """Return the qdisc to send to the kernel so that `old` becomes `new`."""
    if not isinstance(old, Netem) or not isinstance(new, Netem):
        return new
    needs_table = old.distribution and new.jitter and not new.distribution
    if not needs_table:
        return new
    return replace(new, distribution=UNIFORM)


def _change_routes(network: BuiltNetwork, wanted: Network) -> None:
    """Set the routes of `wanted` that differ from the routes of `network`."""
    current = {route.ends: route for route in network.plan.routes}
    for route in wanted.routes:
        if route == current[route.ends] or not wanted.is_here(route.dc):
            continue

        router = wanted.router(route.dc)
        subnet = wanted.datacenter(route.destination).subnet
        next_hops = [hop.via for hop in route.hops]
        with netlink(network.pid(router)) as connection:
            connection.set_route(subnet, next_hops)


@contextmanager
def changing(
    network: BuiltNetwork, began_ns: BeginTime, after_change: AfterChange
) -> Iterator[None]:
    """Make the changes of the network's plan at their times while the block runs.

    Args:
        network: the built network.
        began_ns: returns the Unix time in ns from which the times of changes count, or None while
            that time is unknown. Called every `LOOK_S`, so a change in the first moments can be
            late by as much.
        after_change: called after a change with the change's number and the Unix time in ns when
            the change was due.

    Raises:
        RunError: the kernel keeps a different value; later changes did not happen.
    """
    if not network.plan.changes:
        yield
        return

    stop = threading.Event()
    faults: list[Exception] = []

    def change_in_time() -> None:
        try:
            _change_in_time(network, began_ns, after_change, stop)
        except Exception as error:  # raised again where the block ends
            faults.append(error)

    thread = threading.Thread(target=change_in_time, name="changes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if faults:
        raise RunError(f"cannot change the network: {faults[0]}") from faults[0]


def _change_in_time(
    network: BuiltNetwork,
    began_ns: BeginTime,
    after_change: AfterChange,
    stop: threading.Event,
) -> None:
    """Make all changes at their times, until `stop` is set."""
    exact_timers()
    begin_ns = began_ns()
    while begin_ns is None:
        if stop.wait(LOOK_S):
            return
        begin_ns = began_ns()

    state = network.plan
    for number, change in enumerate(state.changes):
        state = state.after(change)
        due_ns = begin_ns + change.at_ns
        left_ns = max(0, due_ns - time.time_ns())
        if stop.wait(left_ns / 1e9):
            return
        change_network(network, state)
        after_change(number, due_ns)
