"""Captures made by scapy, packet by packet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import RawPcapWriter

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
EAST, WEST = "10.1.0.10", "10.2.0.10"
NEAR, FAR = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
Stamped = tuple[float, Packet]  # ms after START_NS


def write_packets(path: Path, packets: Sequence[Stamped], *, snap_bytes: int = 128) -> None:
    with RawPcapWriter(str(path), linktype=1, nano=True, snaplen=snap_bytes) as writer:
        writer.write_header(None)
        for ms, packet in packets:
            frame, time_ns = bytes(packet), START_NS + round(ms * MS)
            kept = frame[:snap_bytes]
            writer.write_packet(
                kept,
                sec=time_ns // 10**9,
                usec=time_ns % 10**9,
                caplen=len(kept),
                wirelen=len(frame),
            )


def segment(
    way: tuple[str, str],
    mac: str,
    *,
    size: int = 0,
    ip_id: int = 0,
    ports: tuple[int, int] = (40000, 5000),
    **tcp: Any,
) -> Packet:
    """Make a TCP packet from the interface with address `mac`.

    Args:
        way: the addresses of the sender and of the receiver.
        mac: of the interface.
        size: bytes of data.
        ip_id: its IP identification.
        ports: of the sender and of the receiver.
        tcp: further fields of scapy's `TCP`; `seq` and `ack` wrap at 2^32.
    """
    source, target = way
    for name in tcp.keys() & {"seq", "ack"}:
        tcp[name] %= 2**32
    return (
        Ether(src=mac, dst="02:00:00:00:00:01")
        / IP(src=source, dst=target, id=ip_id, flags="DF")
        / TCP(sport=ports[0], dport=ports[1], **tcp)
        / bytes(size)
    )
