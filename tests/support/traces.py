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
    """Write a classic capture with nanoseconds that keeps `snap_bytes` of each packet."""
    with RawPcapWriter(str(path), linktype=1, nano=True, snaplen=snap_bytes) as writer:
        writer.write_header(None)
        for ms, packet in packets:
            frame = bytes(packet)
            kept = frame[:snap_bytes]
            seconds, nanoseconds = divmod(START_NS + round(ms * MS), 10**9)
            writer.write_packet(
                kept,
                sec=seconds,
                usec=nanoseconds,
                caplen=len(kept),
                wirelen=len(frame),
            )


def segment(
    ends: tuple[str, str],
    mac: str,
    *,
    size: int = 0,
    ip_id: int = 0,
    ports: tuple[int, int] = (40000, 5000),
    seq: int = 0,
    ack: int = 0,
    **tcp: Any,
) -> Packet:
    """Make a TCP packet.

    Args:
        ends: addresses of sender and receiver.
        mac: of the interface that sends.
        size: bytes of data.
        ip_id: the IP identification.
        ports: of sender and receiver.
        seq: the sequence number, which wraps.
        ack: the acknowledgement number, which wraps.
        tcp: other fields of scapy's TCP.
    """
    source, target = ends
    source_port, target_port = ports
    ethernet = Ether(src=mac, dst="02:00:00:00:00:01")
    ip = IP(src=source, dst=target, id=ip_id, flags="DF")
    fields = {**tcp, "seq": seq % 2**32, "ack": ack % 2**32}
    return ethernet / ip / TCP(sport=source_port, dport=target_port, **fields) / bytes(size)
