"""Packet captures as columns of numbers. Records are read by scapy's raw readers and decoded by
numpy, many at a time.

A record longer than the MTU is a super-packet: several packets that segmentation offload kept
together (up to 64 KiB). It is counted as the packets that would be sent, each with its own headers
(as the kernel's qdisc_pkt_len_init() does).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scapy.utils import RawPcapReader

ETHERNET = 1  # link type
ETHER_HEADER = 14
IPV4, TCP = 0x0800, 6
SYN, RST, ACK = 2, 4, 16
HEADERS = ETHER_HEADER + 60 + 60  # bytes, with all options of IPv4 and TCP
PCAP_HEADER, PCAP_RECORD = 24, 16
CHUNK = 1 << 15  # records that are decoded at a time
UNKNOWN = -1  # a window scale that was not captured; a protocol that is not IPv4's
NO_SCALE = -2  # a SYN without the option

Record = tuple[bytes, int, int]  # data, length on the wire in bytes, time in ns

# One captured record. Without IPv4 or TCP, or with headers that were not captured whole, the fields
# of those are 0.
PACKET = np.dtype(
    [
        ("time_ns", "i8"),  # Unix time on the capture's clock
        ("mac", "u8"),  # of the sender
        ("source", "u4"),
        ("target", "u4"),  # IPv4 addresses
        ("source_port", "u2"),
        ("target_port", "u2"),
        ("seq", "u4"),
        ("ack", "u4"),
        ("wire_bytes", "i4"),  # the frame on the wire, whatever was kept of it
        ("ip_bytes", "i4"),  # total length of the IPv4 header
        ("payload", "i4"),  # bytes of TCP's data
        ("headers", "i2"),  # bytes of the IPv4 and TCP headers
        ("window", "u2"),
        ("ip_id", "u2"),
        ("flags", "u1"),  # TCP's
        ("scale", "i1"),  # of a SYN: the shift of its sender's windows
        ("protocol", "i2"),  # of IPv4
    ]
)
Packets = NDArray[np.void]  # of PACKET, in the order of the capture


class NotWholeError(Exception):
    """The capture ends in the middle of a record, or is no capture of Ethernet at all."""


@dataclass
class Totals:
    """Packets of one direction. Times are ns of Unix time on the capture's clock; 0 while there are
    no packets.
    """

    packets: int = 0
    wire_bytes: int = 0  # whole frames as they were on the wire, whatever was kept of them
    ip_bytes: int = 0  # total lengths of the IPv4 headers
    first_ns: int = 0
    last_ns: int = 0


@dataclass(frozen=True)
class Trace:
    """The records of a capture. `truncated`: the file ends in the middle of a record, or is no
    capture at all.
    """

    packets: Packets
    truncated: bool = False

    def sent_by(self, mac: str) -> Packets:
        """What the interface with address `mac` sent."""
        mine: Packets = self.packets[self.packets["mac"] == mac_number(mac)]
        return mine

    def others(self, mac: str) -> Packets:
        """What came to the interface with address `mac`."""
        rest: Packets = self.packets[self.packets["mac"] != mac_number(mac)]
        return rest


def mac_number(mac: str) -> int:
    """The address ``02:00:00:00:00:0a`` as the number 0x02000000000a."""
    return int(mac.replace(":", ""), 16)


def read_trace(path: Path, scratch: Path | None = None) -> Trace:
    """The records of an Ethernet capture, pcap or pcapng. A damaged file gives what precedes the
    damage.

    Memory: 60 bytes a record, or with `scratch`, a file to make, none: the records are kept there.

    Raises:
        OSError: the file cannot be read.
    """
    chunks: list[Packets] = []
    truncated = False
    with (scratch or Path("/dev/null")).open("wb") as out:
        try:
            for chunk in _chunks(path):
                if scratch is None:
                    chunks.append(chunk)
                else:
                    out.write(chunk.data)
        except (NotWholeError, EOFError, struct.error):
            truncated = True
    if scratch is not None and scratch.stat().st_size:
        chunks = [np.memmap(scratch, PACKET, mode="r")]
    packets = chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, PACKET), *chunks])
    return Trace(packets, truncated)


def totals(packets: Packets, mtu: int = 65535) -> Totals:
    """What `packets` are in total, as they are sent on a link of `mtu` bytes."""
    if not len(packets):
        return Totals()
    more = extra_packets(packets, mtu)
    headers = int((more * packets["headers"]).sum())
    return Totals(
        packets=len(packets) + int(more.sum()),
        wire_bytes=int(packets["wire_bytes"].sum(dtype=np.int64))
        + int(more.sum()) * ETHER_HEADER
        + headers,
        ip_bytes=int(packets["ip_bytes"].sum(dtype=np.int64)) + headers,
        first_ns=int(packets["time_ns"][0]),
        last_ns=int(packets["time_ns"][-1]),
    )


def extra_packets(packets: Packets, mtu: int) -> NDArray[np.int64]:
    """How many packets more than one each record is: those of a TCP record that is longer than the
    MTU.
    """
    room = np.maximum(mtu - packets["headers"].astype(np.int64), 1)
    more = np.maximum(-(-packets["payload"].astype(np.int64) // room) - 1, 0)
    return np.where(
        (packets["protocol"] == TCP) & (packets["wire_bytes"] > mtu + ETHER_HEADER), more, 0
    )


def _chunks(path: Path) -> Iterator[Packets]:
    """The decoded records of `path`.

    Raises:
        NotWholeError: after what precedes the damage.
    """
    records = _records(path)
    while True:
        batch: list[Record] = []
        damage: Exception | None = None
        try:
            batch.extend(islice(records, CHUNK))
        except (NotWholeError, EOFError, struct.error) as error:
            damage = error
        if batch:
            yield _decode(batch)
        if damage is not None:
            raise damage
        if not batch:
            return


def _decode(records: Sequence[Record]) -> Packets:
    """Records as `PACKET`."""
    number = len(records)
    data, wire, time_ns = zip(*records, strict=True)
    kept = np.fromiter(map(len, data), np.int64, number)
    buffer = np.frombuffer(b"".join(d[:HEADERS].ljust(HEADERS, b"\0") for d in data), np.uint8)
    start = np.arange(number) * HEADERS

    def field(kind: str, offset: Any) -> NDArray[Any]:
        """The big-endian numbers of type `kind` at `offset` into each record."""
        width = np.dtype(kind).itemsize
        at = np.minimum(start + offset, len(buffer) - width)
        return np.ascontiguousarray(buffer[at[:, None] + np.arange(width)]).view(kind)[:, 0]

    found = np.zeros(number, PACKET)
    found["time_ns"], found["wire_bytes"] = time_ns, wire
    found["mac"] = field(">u2", 6).astype(np.uint64) << 32 | field(">u4", 8)
    ip = (field(">u2", 12) == IPV4) & (kept >= ETHER_HEADER + 20)
    found["protocol"] = np.where(ip, field("u1", 23), UNKNOWN)
    for name, kind, offset in (
        ("ip_bytes", ">u2", 16),
        ("ip_id", ">u2", 18),
        ("source", ">u4", 26),
        ("target", ">u4", 30),
    ):
        found[name] = np.where(ip, field(kind, offset), 0)
    ip_header = (field("u1", ETHER_HEADER).astype(np.int64) & 15) * 4
    begin = ETHER_HEADER + ip_header
    tcp = ip & (found["protocol"] == TCP) & (kept >= begin + 20)
    for name, kind, offset in (
        ("source_port", ">u2", 0),
        ("target_port", ">u2", 2),
        ("seq", ">u4", 4),
        ("ack", ">u4", 8),
        ("flags", "u1", 13),
        ("window", ">u2", 14),
    ):
        found[name] = np.where(tcp, field(kind, begin + offset), 0)
    found["headers"] = np.where(tcp, ip_header + (field("u1", begin + 12) >> 4) * 4, 0)
    found["payload"] = np.where(tcp, found["ip_bytes"] - found["headers"], 0)
    found["scale"] = UNKNOWN
    for row in np.flatnonzero(tcp & (found["flags"] & SYN > 0)):
        found["scale"][row] = _window_scale(
            data[row][begin[row] + 20 : ETHER_HEADER + found["headers"][row]]
        )
    return found


def _window_scale(options: bytes) -> int:
    """The shift in the TCP options of a SYN; `NO_SCALE` without, `UNKNOWN` if they were not
    captured whole.
    """
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or at + options[at + 1] > len(options):
            return UNKNOWN
        if options[at] == 3:
            return min(options[at + 2], 14)
        at += max(options[at + 1], 2)
    return NO_SCALE


def _records(path: Path) -> Iterator[Record]:
    """The whole records of `path`.

    Raises:
        NotWholeError: at the end of a file that is cut short, or that is no capture.
    """
    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    from scapy.error import Scapy_Exception  # noqa: PLC0415 (0.1 s, which runs without captures do without)
    from scapy.utils import RawPcapNgReader, RawPcapReader  # noqa: PLC0415

    size = path.stat().st_size
    if size == 0:
        raise NotWholeError
    try:
        with path.open("rb") as file, RawPcapReader(file) as reader:  # type: ignore[arg-type]
            if isinstance(reader, RawPcapNgReader):
                yield from _pcapng(reader)
                if not _blocks_are_whole(file, size, reader.endian):
                    raise NotWholeError
            else:
                yield from _pcap(reader, size)
    except Scapy_Exception as error:
        raise NotWholeError from error


def _pcap(reader: RawPcapReader, size: int) -> Iterator[Record]:
    if reader.linktype != ETHERNET:
        raise NotWholeError
    unit = 1 if reader.nano else 1000
    position = PCAP_HEADER
    for data, meta in reader:
        position += PCAP_RECORD + meta.caplen
        if position > size:
            break
        yield data, meta.wirelen, meta.sec * 1_000_000_000 + meta.usec * unit
    if position != size:
        raise NotWholeError


def _pcapng(reader: Iterable[Any]) -> Iterator[Record]:
    for data, meta in reader:
        if meta.linktype != ETHERNET:
            raise NotWholeError
        ticks = meta.tshigh << 32 | meta.tslow
        yield (
            data,
            meta.wirelen,
            ticks if meta.tsresol == 1_000_000_000 else ticks * 1_000_000_000 // meta.tsresol,
        )


def _blocks_are_whole(file: BinaryIO, size: int, endian: str) -> bool:
    """Whether the blocks of a pcapng file end where the file ends."""
    position = 0
    while position + 12 <= size:
        file.seek(position + 4)
        (length,) = struct.unpack(endian + "I", file.read(4))
        if length < 12:
            return False
        position += length
    return position == size
