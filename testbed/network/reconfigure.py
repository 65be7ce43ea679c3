"""Change the links and routes of a network that stands. Packets on links stay on their way, as they
were sent.

`change_network` does so at once, `changing` at the times of the plan.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from testbed.core.errors import RunError
from testbed.network import qdiscs
from testbed.network.aqm import Managed
from testbed.network.build import BuiltNetwork
from testbed.network.netlink import netlink, set_route
from testbed.network.qdiscs import Netem
from testbed.network.timers import exact_timers
from testbed.plan.model import Network

# netem keeps a table of the jitter's distribution for good: this one is what it does without, in
# its units of spread / 8192.
UNIFORM = tuple(range(-8192, 8192, 16))
LOOK_S = 0.01


def change_network(network: BuiltNetwork, wanted: Network) -> None:
    """Give every shaped port of `network` the parameters of `wanted`, which has the same nodes and
    links.

    A shorter delay lets later packets overtake those on their way.

    Raises:
        RunError: the kernel keeps another value than was asked for; ports before that one are
            changed.
    """
    before = {(port.node, port.interface): port for port in qdiscs.ports(network.plan)}
    changed: dict[str, list[qdiscs.Port]] = {}
    for port in qdiscs.ports(wanted):
        if port != before[port.node, port.interface]:
            changed.setdefault(port.node, []).append(port)
    for node, ports in changed.items():
        with netlink(network.pid(node)) as connection:
            for port in ports:
                old = before[node, port.interface]
                qdiscs.apply(connection, replace(port, qdisc=_over(old.qdisc, port.qdisc)))
            for port in ports:
                qdiscs.read_back(connection, port)
    if wanted.tcp.packets_per_skb != network.plan.tcp.packets_per_skb:
        _set_offload(network, wanted.tcp.packets_per_skb)
    _change_routes(network, wanted)
    network.plan = wanted


def _change_routes(network: BuiltNetwork, wanted: Network) -> None:
    before = {(route.dc, route.destination): route for route in network.plan.routes}
    for route in wanted.routes:
        if route != before[route.dc, route.destination]:
            with netlink(network.pid(wanted.datacenter(route.dc).router)) as connection:
                subnet = wanted.datacenter(route.destination).subnet
                set_route(connection, subnet, [hop.via for hop in route.hops])


@contextmanager
def changing(
    network: BuiltNetwork, began_ns: Callable[[], int | None], then: Callable[[int, int], None]
) -> Iterator[None]:
    """Carry out the changes of the network's plan while the block goes on.

    Args:
        network: what changes.
        began_ns: the Unix time in ns from which on their times count; None: not yet known. Asked
            every `LOOK_S`, by which a change in the first moments may be late.
        then: called after a change with its number and the Unix time in ns when it was due.

    Raises:
        RunError: the kernel keeps another value than was asked for; changes after that one did not
            happen.
    """
    if not network.plan.changes:
        yield
        return
    over, faults = threading.Event(), list[Exception]()

    def work() -> None:
        try:
            _change_in_time(network, began_ns, then, over)
        except Exception as error:  # it belongs to who waits for the block's end
            faults.append(error)

    thread = threading.Thread(target=work, name="changes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if faults:
        raise RunError(f"changing the network failed: {faults[0]}") from faults[0]


def _change_in_time(
    network: BuiltNetwork,
    began_ns: Callable[[], int | None],
    then: Callable[[int, int], None],
    over: threading.Event,
) -> None:
    exact_timers()
    while (begin := began_ns()) is None:
        if over.wait(LOOK_S):
            return
    state = network.plan
    for number, change in enumerate(state.changes):
        state = state.after(change)
        if over.wait(max(0, begin + change.at_ns - time.time_ns()) / 1e9):
            return
        change_network(network, state)
        then(number, begin + change.at_ns)


def _over(old: Netem | Managed, new: Netem | Managed) -> Netem | Managed:
    """What has to be sent so that `old` becomes `new`."""
    if (
        isinstance(old, Netem)
        and isinstance(new, Netem)
        and old.distribution
        and new.jitter
        and not new.distribution
    ):
        return replace(new, distribution=UNIFORM)
    return new


def _set_offload(network: BuiltNetwork, packets: int) -> None:
    """On hosts and border routers; what a socket still hands over as one is then taken apart behind
    its NIC's queue.
    """
    plan = network.plan
    for node in [*(host.node for host in plan.hosts), *(dc.router for dc in plan.datacenters)]:
        with netlink(network.pid(node)) as connection:
            for name in network.mininet[node].nameToIntf:
                index = connection.link_lookup(ifname=name)[0]
                connection.link("set", index=index, gso_max_segs=packets)
