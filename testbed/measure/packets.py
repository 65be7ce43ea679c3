"""What a capture says in total, per direction. Reads records with scapy's raw readers, without dissecting packets."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.error import Scapy_Exception  # noqa: E402
from scapy.utils import RawPcapNgReader, RawPcapReader  # noqa: E402

ETHERNET = 1  # link type
ETHER_HEADER = 14
IPV4 = b"\x08\x00"
TCP = 6
PCAP_HEADER, PCAP_RECORD = 24, 16

Record = tuple[bytes, int, int]  # data, length on the wire in bytes, time in ns


@dataclass
class Totals:
    """Packets of one direction. Times are ns of Unix time on the capture's clock; 0 while there are no packets."""

    packets: int = 0
    wire_bytes: int = 0  # whole frames as they were on the wire, whatever was kept of them
    ip_bytes: int = 0  # total lengths of the IPv4 headers
    first_ns: int = 0
    last_ns: int = 0


@dataclass
class Capture:
    """Totals by source MAC address. `truncated`: the file ends in the middle of a record, or is no capture at all."""

    by_source: dict[str, Totals] = field(default_factory=dict)
    truncated: bool = False

    def sent_by(self, mac: str) -> Totals:
        """What the interface with address `mac` sent; zeros if nothing."""
        return self.by_source.get(mac.lower(), Totals())


def read_totals(path: Path, mtu: int = 65535) -> Capture:
    """The totals of an Ethernet capture, pcap or pcapng. A damaged file gives what precedes the damage.

    A record longer than `mtu` is several packets that segmentation offload kept together; they are counted as they are
    sent, each with its own headers (as the kernel's qdisc_pkt_len_init() does).

    Raises:
        OSError: the file cannot be read.
    """
    by_source: dict[bytes, Totals] = {}
    capture = Capture()
    try:
        for data, wire_bytes, time_ns in _records(path, capture):
            totals = by_source.get(data[6:12])
            if totals is None:
                totals = by_source[data[6:12]] = Totals(first_ns=time_ns)
            more, headers = _offloaded(data, mtu) if wire_bytes > mtu + ETHER_HEADER else (0, 0)
            totals.packets += 1 + more
            totals.wire_bytes += wire_bytes + more * (ETHER_HEADER + headers)
            totals.last_ns = time_ns
            if data[12:14] == IPV4:
                totals.ip_bytes += (data[16] << 8 | data[17]) + more * headers
    except (Scapy_Exception, EOFError, struct.error, IndexError):
        capture.truncated = True
    capture.by_source = {mac.hex(":"): totals for mac, totals in by_source.items()}
    return capture


def _offloaded(data: bytes, mtu: int) -> tuple[int, int]:
    """Of a TCP record longer than the MTU: how many packets more than one it is, and their IP and TCP header bytes."""
    if data[12:14] != IPV4 or data[23] != TCP:
        return 0, 0
    ip = (data[14] & 15) * 4
    headers = ip + (data[ETHER_HEADER + ip + 12] >> 4) * 4
    payload = (data[16] << 8 | data[17]) - headers
    return -(-payload // (mtu - headers)) - 1, headers


def _records(path: Path, capture: Capture) -> Iterator[Record]:
    """The whole records of `path`; sets `capture.truncated` at the end of a file that is cut short."""
    if path.stat().st_size == 0:
        capture.truncated = True
        return
    with path.open("rb") as file, RawPcapReader(file) as reader:  # type: ignore[arg-type]
        if isinstance(reader, RawPcapNgReader):
            yield from _pcapng(reader)
            capture.truncated = not _blocks_are_whole(path, reader.endian)
        else:
            yield from _pcap(reader, path.stat().st_size, capture)


def _pcap(reader: RawPcapReader, size: int, capture: Capture) -> Iterator[Record]:
    if reader.linktype != ETHERNET:
        raise Scapy_Exception(f"link type {reader.linktype} is not Ethernet")
    unit = 1 if reader.nano else 1000
    position = PCAP_HEADER
    for data, meta in reader:
        position += PCAP_RECORD + meta.caplen
        if position > size:
            break
        yield data, meta.wirelen, meta.sec * 1_000_000_000 + meta.usec * unit
    capture.truncated = position != size


def _pcapng(reader: RawPcapNgReader) -> Iterator[Record]:
    meta: Any  # its fields are not those of a pcap
    for data, meta in reader:
        if meta.linktype != ETHERNET:
            raise Scapy_Exception(f"link type {meta.linktype} is not Ethernet")
        ticks = meta.tshigh << 32 | meta.tslow
        yield data, meta.wirelen, ticks * 1_000_000_000 // meta.tsresol


def _blocks_are_whole(path: Path, endian: str) -> bool:
    """Whether the blocks of a pcapng file end where the file ends."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position + 12 <= size:
            file.seek(position + 4)
            (length,) = struct.unpack(endian + "I", file.read(4))
            if length < 12:
                return False
            position += length
    return position == size
