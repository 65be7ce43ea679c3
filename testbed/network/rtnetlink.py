"""Requests to rtnetlink: those for one node are one system call.

pyroute2 takes about a millisecond of CPU time for each request, nearly all of it to encode a
message of some dozen bytes and to run an event loop. A network of 256 hosts in two datacenters
needs 35 000 requests.

Messages are those of rtnetlink(7), linux/rtnetlink.h, linux/if_link.h and linux/pkt_sched.h.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, NamedTuple

from testbed.core.errors import RunError
from testbed.network.netns import inside_netns

if TYPE_CHECKING:
    from pyroute2 import IPRoute

NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
ADD, REPLACE, SET = NLM_F_CREATE | NLM_F_EXCL, NLM_F_CREATE | NLM_F_REPLACE, 0
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH = 16, 17, 20, 24, 28
RTM_NEWQDISC, RTM_GETQDISC, RTM_NEWTFILTER = 36, 38, 44

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER = 1, 3, 4, 10
IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_GSO_MAX_SEGS = 18, 19, 40
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 5, 23
IFF_UP = 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
NDA_DST, NDA_LLADDR, NUD_PERMANENT = 1, 2, 0x80
RTA_DST, RTA_GATEWAY, RTA_MULTIPATH = 1, 5, 9
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1
TCA_KIND, TCA_OPTIONS = 1, 2
TC_H_ROOT, INGRESS_PARENT, INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
TCA_MATCHALL_ACT, TCA_ACT_KIND, TCA_ACT_OPTIONS = 2, 1, 2
TCA_MIRRED_PARMS, TCA_POLICE_TBF = 2, 1
TC_ACT_SHOT, TC_ACT_PIPE, TC_ACT_STOLEN, TCA_EGRESS_REDIR = 2, 3, 4, 1
ETH_P_ALL, FILTER_PRIORITY = 3, 1
SIOCGIFINDEX = 0x8933  # linux/sockios.h

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length with these four bytes, type
LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, changed flags
ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, ..., index
NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
# struct rtmsg: family, lengths of prefixes, type of service, table, protocol, scope, type, flags
ROUTE = struct.Struct("=BBBBBBBBI")
NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, weight - 1, index
QDISC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred: index, capab, action, counts, egress, target
POLICE = struct.Struct("=IiIII12x12xiiI")  # struct tc_police: index, action, limit, burst, mtu, ...
ERROR = struct.Struct("=i")  # of struct nlmsgerr: a negative errno
NESTED, NESTED_AND_ORDER = 0x8000, 0xC000  # bits of an attribute's type
MOST_BYTES = 2**15  # of requests in a system call, which the socket's buffer must hold
BUFFER_BYTES = 2**16


class NetlinkRequest(NamedTuple):
    """A request that changes something.

    Attributes:
        kind: type of the message.
        flags: `ADD`, `REPLACE` or `SET`.
        body: what follows the header.
        doing: what the request does, for errors: "set the route to 10.3.0.0/16".
    """

    kind: int
    flags: int
    body: bytes
    doing: str


class KernelQdisc(NamedTuple):
    """A queueing discipline of an interface as the kernel describes it; `options` are encoded."""

    interface: int
    parent: int
    kind: str
    options: bytes


class Rtnetlink:
    """A connection to the rtnetlink of one network namespace.

    Requests that change something wait until `send`, or until queueing disciplines are read.
    """

    def __init__(self, pid: int) -> None:
        """Connect to the network namespace of process `pid`."""
        with inside_netns(pid):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._pid = pid
        self._waiting: list[NetlinkRequest] = []
        self._pyroute2: IPRoute | None = None

    def close(self) -> None:
        """Close the connection; requests that still wait are not sent."""
        self._socket.close()
        if self._pyroute2 is not None:
            self._pyroute2.close()

    def pyroute2(self) -> IPRoute:
        """Return a connection of pyroute2, which knows more and takes longer, after `send`."""
        from pyroute2 import IPRoute  # noqa: PLC0415 (0.1 s in a guest, and few networks need it)

        self.send()
        if self._pyroute2 is None:
            with inside_netns(self._pid):
                self._pyroute2 = IPRoute()
        return self._pyroute2

    def index_of(self, interface: str) -> int:
        """Return the index of an interface, which must exist: requests to add it have been sent.

        Raises:
            RunError: there is no such interface.
        """
        question = struct.pack("16s24x", interface.encode())
        try:
            answer = fcntl.ioctl(self._socket, SIOCGIFINDEX, question)
        except OSError as error:
            raise RunError(f"there is no interface {interface}: {error.strerror}") from error
        (index,) = struct.unpack_from("=i", answer, 16)
        return int(index)

    def qdiscs(self) -> list[KernelQdisc]:
        """Return the queueing disciplines of all interfaces."""
        self.send()
        body = QDISC.pack(0, 0, 0, 0, 0)
        self._socket.send(_message(RTM_GETQDISC, NLM_F_REQUEST | NLM_F_DUMP, 1, body))
        qdiscs: list[KernelQdisc] = []
        while True:
            for kind, _number, data in _messages(self._socket.recv(BUFFER_BYTES)):
                if kind == NLMSG_DONE:
                    return qdiscs
                if kind == NLMSG_ERROR:
                    _check(data, "list the queueing disciplines")
                _family, index, _handle, parent, _info = QDISC.unpack_from(data)
                values = attributes(data[QDISC.size :])
                name = values[TCA_KIND].rstrip(b"\0").decode()
                qdiscs.append(KernelQdisc(index, parent, name, values.get(TCA_OPTIONS, b"")))

    def send(self) -> None:
        """Send the requests that wait.

        Raises:
            RunError: the kernel refuses a request; later ones may have been carried out.
        """
        waiting, self._waiting = self._waiting, []
        some: list[NetlinkRequest] = []
        size = 0
        for request in waiting:
            length = HEADER.size + len(request.body)
            if some and size + length > MOST_BYTES:
                self._send_some(some)
                some, size = [], 0
            some.append(request)
            size += length
        if some:
            self._send_some(some)

    def _send_some(self, requests: Sequence[NetlinkRequest]) -> None:
        """Send requests; the kernel reports errors, and that it has come to the last request."""
        last = len(requests) - 1
        messages: list[bytes] = []
        for number, request in enumerate(requests):
            flags = NLM_F_REQUEST | request.flags
            if number == last:
                flags |= NLM_F_ACK
            messages.append(_message(request.kind, flags, number, request.body))
        self._socket.send(b"".join(messages))

        is_over = False
        while not is_over:
            for kind, number, data in _messages(self._socket.recv(BUFFER_BYTES)):
                if kind == NLMSG_ERROR:
                    _check(data, requests[number].doing)
                    is_over = number == last

    def _add(self, kind: int, flags: int, body: bytes, doing: str) -> None:
        self._waiting.append(NetlinkRequest(kind, flags, body, doing))

    def add_veth(
        self, name: str, mac: str | None, peer_name: str, peer_mac: str | None, peer_pid: int
    ) -> None:
        """Add a pair of virtual Ethernet interfaces.

        Args:
            name: name of the interface in this namespace.
            mac: its hardware address; None: the kernel draws one.
            peer_name: name of the other interface.
            peer_mac: its hardware address.
            peer_pid: a process in the namespace of the other interface.
        """
        peer = LINK.pack(0, 0, 0, 0, 0)
        peer += _interface(peer_name, peer_mac)
        peer += attribute(IFLA_NET_NS_PID, struct.pack("=I", peer_pid))
        body = LINK.pack(0, 0, 0, 0, 0) + _interface(name, mac)
        body += _link_kind("veth", attribute(VETH_INFO_PEER, peer))
        self._add(RTM_NEWLINK, ADD, body, f"add the interfaces {name} and {peer_name}")

    def add_bridge(self, name: str) -> None:
        """Add a bridge without a spanning tree that sends multicast everywhere."""
        values = attribute(IFLA_BR_STP_STATE, struct.pack("=I", 0))
        values += attribute(IFLA_BR_MCAST_SNOOPING, b"\0")
        body = LINK.pack(0, 0, 0, 0, 0) + _interface(name, None) + _link_kind("bridge", values)
        self._add(RTM_NEWLINK, ADD, body, f"add the bridge {name}")

    def add_ifb(self, name: str) -> None:
        """Add an intermediate functional block device."""
        body = LINK.pack(0, 0, 0, 0, 0) + _interface(name, None) + _link_kind("ifb", b"")
        self._add(RTM_NEWLINK, ADD, body, f"add the interface {name}")

    def set_link(
        self,
        index: int,
        *,
        up: bool = False,
        mtu: int | None = None,
        packets_per_skb: int | None = None,
        bridge: int | None = None,
        mac: str | None = None,
    ) -> None:
        """Change an interface.

        Args:
            index: index of the interface.
            up: whether to bring the interface up.
            mtu: bytes of the largest IP packet.
            packets_per_skb: packets that segmentation offload keeps together at most.
            bridge: index of the bridge to whose ports the interface belongs.
            mac: hardware address.
        """
        state = IFF_UP if up else 0
        body = LINK.pack(0, 0, index, state, state)
        numbers = ((IFLA_MTU, mtu), (IFLA_GSO_MAX_SEGS, packets_per_skb), (IFLA_MASTER, bridge))
        for kind, value in numbers:
            if value is not None:
                body += attribute(kind, struct.pack("=I", value))
        if mac is not None:
            body += attribute(IFLA_ADDRESS, mac_bytes(mac))
        self._add(RTM_NEWLINK, SET, body, f"change interface {index}")

    def move_link(self, index: int, name: str, pid: int) -> None:
        """Give an interface a name, and move it into the network namespace of process `pid`."""
        body = LINK.pack(0, 0, index, 0, 0) + _interface(name, None)
        body += attribute(IFLA_NET_NS_PID, struct.pack("=I", pid))
        self._add(RTM_NEWLINK, SET, body, f"move the interface {name}")

    def remove_link(self, name: str) -> None:
        """Remove an interface."""
        body = LINK.pack(0, 0, 0, 0, 0) + _interface(name, None)
        self._add(RTM_DELLINK, SET, body, f"remove the interface {name}")

    def add_address(self, index: int, address: IPv4Interface) -> None:
        """Add an address to an interface, with the prefix length of its subnet."""
        body = ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
        for kind in (IFA_ADDRESS, IFA_LOCAL):
            body += attribute(kind, address.packed)
        self._add(RTM_NEWADDR, ADD, body, f"add the address {address}")

    def add_neighbour(self, index: int, address: IPv4Interface, mac: str) -> None:
        """Add a permanent neighbour entry, so that no measured packet waits for ARP.

        Args:
            index: index of the interface.
            address: IP address of the neighbour.
            mac: hardware address of the neighbour.
        """
        body = NEIGHBOUR.pack(socket.AF_INET, index, NUD_PERMANENT, 0, 0)
        body += attribute(NDA_DST, address.packed) + attribute(NDA_LLADDR, mac_bytes(mac))
        self._add(RTM_NEWNEIGH, ADD, body, f"add the neighbour {address}")

    def set_route(self, destination: IPv4Network, via: Sequence[IPv4Address]) -> None:
        """Add or replace the route to a subnet.

        Args:
            destination: the subnet; with a prefix length of 0, all others.
            via: next hops; several next hops share the traffic.
        """
        body = ROUTE.pack(
            socket.AF_INET,
            destination.prefixlen,
            0,  # length of the source's prefix
            0,  # type of service
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            RT_SCOPE_UNIVERSE,
            RTN_UNICAST,
            0,  # flags
        )
        if destination.prefixlen:
            body += attribute(RTA_DST, destination.network_address.packed)
        if len(via) == 1:
            body += attribute(RTA_GATEWAY, via[0].packed)
        else:
            next_hops = b"".join(_next_hop(address) for address in via)
            body += attribute(RTA_MULTIPATH, next_hops)
        hops = ", ".join(map(str, via))
        self._add(RTM_NEWROUTE, REPLACE, body, f"set the route to {destination} via {hops}")

    def set_qdisc(self, index: int, handle: int, kind: str, options: bytes) -> None:
        """Add or change the root queueing discipline of an interface.

        Args:
            index: index of the interface.
            handle: handle of the queueing discipline.
            kind: name of its kind.
            options: its encoded options.
        """
        body = QDISC.pack(0, index, handle, TC_H_ROOT, 0)
        body += _name(TCA_KIND, kind) + attribute(TCA_OPTIONS, options)
        self._add(RTM_NEWQDISC, REPLACE, body, f"set the {kind} of interface {index}")

    def redirect_ingress(self, index: int, far_index: int, *, copy: bool = False) -> None:
        """Send the frames that an interface receives out of another interface.

        The kernel redirects a frame itself if the redirection ends the frame's way, and otherwise a
        copy, which does not belong to the socket that has sent the frame.

        Args:
            index: index of the interface that receives.
            far_index: index of the interface that sends.
            copy: whether the frames leave the sender's socket, whose TCP otherwise notices how long
                they wait.
        """
        doing = f"redirect interface {index} to {far_index}"
        body = QDISC.pack(0, index, INGRESS_HANDLE, INGRESS_PARENT, 0)
        self._add(RTM_NEWQDISC, ADD, body + _name(TCA_KIND, "ingress"), doing)

        then = TC_ACT_PIPE if copy else TC_ACT_STOLEN
        mirred = MIRRED.pack(0, 0, then, 0, 0, TCA_EGRESS_REDIR, far_index)
        actions = _action(1, "mirred", attribute(TCA_MIRRED_PARMS, mirred))
        if copy:
            # Drops the frame itself, which is longer than 1 byte: the guest's kernel has no gact.
            police = POLICE.pack(0, TC_ACT_SHOT, 0, 0, 1, 0, 0, 0)
            actions += _action(2, "police", attribute(TCA_POLICE_TBF, police))
        info = FILTER_PRIORITY << 16 | socket.htons(ETH_P_ALL)
        body = QDISC.pack(0, index, 0, INGRESS_HANDLE, info) + _name(TCA_KIND, "matchall")
        body += attribute(TCA_OPTIONS, attribute(TCA_MATCHALL_ACT, actions))
        self._add(RTM_NEWTFILTER, ADD, body, doing)


@contextmanager
def netlink(pid: int) -> Iterator[Rtnetlink]:
    """Connect to the network namespace of process `pid`; what waits is sent at the end.

    Raises:
        RunError: the kernel refuses a request.
    """
    connection = Rtnetlink(pid)
    try:
        yield connection
        connection.send()
    finally:
        connection.close()


def attribute(kind: int, payload: bytes) -> bytes:
    """Return an attribute (struct rtattr), padded to four bytes."""
    padding = bytes(-len(payload) % 4)
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + padding


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the payloads of attributes by their type."""
    payloads: dict[int, bytes] = {}
    begin = 0
    while begin + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, begin)
        payloads[kind & ~NESTED_AND_ORDER] = data[begin + ATTRIBUTE.size : begin + length]
        begin += max(ATTRIBUTE.size, length + -length % 4)
    return payloads


def mac_bytes(mac: str) -> bytes:
    """Return the bytes of a hardware address such as ``02:00:00:00:00:01``."""
    return bytes.fromhex(mac.replace(":", ""))


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, number, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and body of each message."""
    begin = 0
    while begin < len(data):
        length, kind, _flags, number, _port = HEADER.unpack_from(data, begin)
        yield kind, number, data[begin + HEADER.size : begin + length]
        begin += length + -length % 4


def _check(answer: bytes, doing: str) -> None:
    """Raise RunError if an answer (struct nlmsgerr) reports an error."""
    (error,) = ERROR.unpack_from(answer)
    if error:
        raise RunError(f"cannot {doing}: {os.strerror(-error)}")


def _name(kind: int, name: str) -> bytes:
    return attribute(kind, name.encode() + b"\0")


def _interface(name: str, mac: str | None) -> bytes:
    """Return the attributes of an interface."""
    values = _name(IFLA_IFNAME, name)
    return values if mac is None else values + attribute(IFLA_ADDRESS, mac_bytes(mac))


def _link_kind(kind: str, values: bytes) -> bytes:
    """Return the attribute that gives a new interface its kind and the kind's values."""
    info = _name(IFLA_INFO_KIND, kind)
    if values:
        info += attribute(IFLA_INFO_DATA, values)
    return attribute(IFLA_LINKINFO, info)


def _next_hop(via: IPv4Address) -> bytes:
    gateway = attribute(RTA_GATEWAY, via.packed)
    return NEXT_HOP.pack(NEXT_HOP.size + len(gateway), 0, 0, 0) + gateway


def _action(order: int, kind: str, options: bytes) -> bytes:
    """Return an action of a filter; actions follow each other in their order."""
    values = attribute(TCA_ACT_OPTIONS | NESTED, options)
    return attribute(order, _name(TCA_ACT_KIND, kind) + values)
