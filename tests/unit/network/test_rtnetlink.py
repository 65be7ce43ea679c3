"""Messages to rtnetlink: those that pyroute2 sends for the same requests."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, NamedTuple

import pytest
from pyroute2 import IPBatch

from testbed.core.errors import RunError
from testbed.network import netem, rtnetlink
from testbed.network.netem import Netem
from testbed.network.rtnetlink import HEADER, NLM_F_ACK, NLM_F_REQUEST, Rtnetlink, netlink

HOST = IPv4Interface("10.0.0.5/16")
MAC = "02:00:00:00:01:05"
HOPS = [IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")]
SUBNET = IPv4Network("10.3.0.0/16")
INGRESS = 0xFFFF0000


@pytest.fixture(autouse=True)
def in_own_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stay in the namespace of this process: to enter even this one takes root's rights."""
    monkeypatch.setattr(rtnetlink, "inside_netns", lambda pid: nullcontext())


class Message(NamedTuple):
    """What a message asks for, without what numbers and acknowledges it."""

    kind: int
    flags: int
    body: bytes


class RecordedSocket:
    """Keeps what is sent, and answers that all went well."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def recv(self, most: int) -> bytes:
        del most
        last = list(messages(self.sent[-1]))[-1]
        assert last.flags & NLM_F_ACK
        number = len(list(messages(self.sent[-1]))) - 1
        return HEADER.pack(HEADER.size + 4, 2, 0, number, 0) + struct.pack("=i", 0)


def messages(data: bytes) -> Iterator[Message]:
    while data:
        length, kind, flags, _number, _port = HEADER.unpack_from(data)
        yield Message(kind, flags, data[HEADER.size : length])
        data = data[length + -length % 4 :]


def without_ack(data: bytes) -> list[Message]:
    return [message._replace(flags=message.flags & ~NLM_F_ACK) for message in messages(data)]


def ours(ask: Callable[[Rtnetlink], object], monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    with netlink(os.getpid()) as connection:
        recorded = RecordedSocket()
        real = connection._socket
        monkeypatch.setattr(connection, "_socket", recorded)
        ask(connection)
        connection.send()
        monkeypatch.setattr(connection, "_socket", real)
    (data,) = recorded.sent
    return without_ack(data)


def pyroute2s(ask: Callable[[Any], object]) -> list[Message]:
    with closing(IPBatch()) as batch:
        ask(batch)
        return without_ack(bytes(batch.batch))


CASES: dict[str, tuple[Callable[[Rtnetlink], object], Callable[[Any], object]]] = {
    "neighbour": (
        lambda own: own.add_neighbour(3, HOST, MAC),
        lambda batch: batch.neigh("add", dst="10.0.0.5", lladdr=MAC, ifindex=3, state=0x80),
    ),
    "address": (
        lambda own: own.add_address(3, HOST),
        lambda batch: batch.addr("add", index=3, address="10.0.0.5", prefixlen=16),
    ),
    "up": (
        lambda own: own.set_link(3, up=True, mtu=1500, packets_per_skb=1),
        lambda batch: batch.link("set", index=3, mtu=1500, gso_max_segs=1, state="up"),
    ),
    "port of a bridge": (
        lambda own: own.set_link(3, up=True, bridge=7),
        lambda batch: batch.link("set", index=3, master=7, state="up"),
    ),
    "hardware address": (
        lambda own: own.set_link(3, mac=MAC),
        lambda batch: batch.link("set", index=3, address=MAC),
    ),
    "veth": (
        lambda own: own.add_veth("a", MAC, "b", None, 17),
        lambda batch: batch.link(
            "add", ifname="a", kind="veth", peer={"ifname": "b", "net_ns_pid": 17}, address=MAC
        ),
    ),
    "bridge": (
        lambda own: own.add_bridge("br0"),
        lambda batch: batch.link(
            "add", ifname="br0", kind="bridge", br_stp_state=0, br_mcast_snooping=0
        ),
    ),
    "ifb": (
        lambda own: own.add_ifb("x"),
        lambda batch: batch.link("add", ifname="x", kind="ifb"),
    ),
    "moved": (
        lambda own: own.move_link(3, "w0a", 77),
        lambda batch: batch.link("set", index=3, ifname="w0a", net_ns_pid=77),
    ),
    "removed": (
        lambda own: own.remove_link("w0a"),
        lambda batch: batch.link("del", ifname="w0a"),
    ),
    "default route": (
        lambda own: own.set_route(IPv4Network("0.0.0.0/0"), HOPS[:1]),
        lambda batch: batch.route("replace", dst="default", gateway="10.0.0.1"),
    ),
    "route": (
        lambda own: own.set_route(SUBNET, HOPS[:1]),
        lambda batch: batch.route("replace", dst=str(SUBNET), gateway="10.0.0.1"),
    ),
    "equal routes": (
        lambda own: own.set_route(SUBNET, HOPS),
        lambda batch: batch.route(
            "replace", dst=str(SUBNET), multipath=[{"gateway": str(hop)} for hop in HOPS]
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_messages_are_those_of_pyroute2(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, of_pyroute2 = CASES[case]
    assert ours(own, monkeypatch) == pyroute2s(of_pyroute2)


def test_a_redirection_is_that_of_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    def redirect(batch: Any) -> None:
        batch.tc("add", kind="ingress", index=3, handle=INGRESS)
        action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": 4}
        values = {"parent": INGRESS, "prio": 1, "protocol": 3}
        batch.tc("add-filter", kind="matchall", index=3, action=[action], **values)

    assert ours(lambda own: own.redirect_ingress(3, 4), monkeypatch) == pyroute2s(redirect)


@pytest.mark.parametrize(
    "values",
    [
        Netem(2**31 - 1),
        Netem(5, 10**9, 3000, 20, seed=7),
        Netem(1, 2**32, loss=5, duplicate=3, corrupt=4, gilbert_elliott=(1, 2, 3, 4), seed=2**60),
        Netem(1, 2**64 - 1, 10**12, 2**40, distribution=(-8192, 0, 8191)),
    ],
)
def test_options_of_netem_are_read_as_written(values: Netem) -> None:
    kept = netem.decode_options(netem.encode_options(values))
    for field in fields(Netem):
        if field.name != "distribution":
            assert kept[field.name] == getattr(values, field.name)


def test_many_requests_are_few_system_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """2000 neighbours of 48 bytes: 3 calls of at most 32 KiB, each with one acknowledgement."""
    recorded = RecordedSocket()
    with netlink(os.getpid()) as connection:
        real = connection._socket
        monkeypatch.setattr(connection, "_socket", recorded)
        for _number in range(2000):
            connection.add_neighbour(3, HOST, MAC)
        connection.send()
        monkeypatch.setattr(connection, "_socket", real)
    assert [len(data) // 48 for data in recorded.sent] == [682, 682, 636]
    for data in recorded.sent:
        flags = [message.flags & NLM_F_ACK for message in messages(data)]
        assert sum(map(bool, flags)) == 1
        assert all(message.flags & NLM_F_REQUEST for message in messages(data))


def test_the_kernel_refuses_a_request() -> None:
    with (
        pytest.raises(RunError, match="cannot add the neighbour"),
        netlink(os.getpid()) as connection,
    ):
        connection.add_neighbour(2**30, HOST, MAC)
        connection.set_link(2**30, up=True)


def test_an_interface_that_does_not_exist() -> None:
    with netlink(os.getpid()) as connection:
        assert connection.index_of("lo") == socket.if_nametoindex("lo")
        with pytest.raises(RunError, match="there is no interface nowhere"):
            connection.index_of("nowhere")
