"""Packet captures as columns of numbers.

scapy's raw readers read the records, numpy decodes many of them at a time.

A record longer than the MTU is a super-packet: several packets that segmentation offload kept
together (up to 64 KiB). It is counted as the packets that would be sent, each with its own headers
(as the kernel's qdisc_pkt_len_init() does).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
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
SOURCE_MAC, ETHER_TYPE, IP_PROTOCOL = 6, 12, 23  # offsets into a frame
TCP_DATA_OFFSET = 12  # offset into a TCP header
WORD = 4  # bytes, in which lengths of headers are counted
IPV4, TCP = 0x0800, 6
SYN, RST, ACK = 2, 4, 16
LEAST_IP_HEADER, LEAST_TCP_HEADER = 20, 20
HEADERS = ETHER_HEADER + 60 + 60  # bytes, with all options of IPv4 and TCP
PCAP_HEADER, PCAP_RECORD = 24, 16
BLOCK_FRAME = 12  # bytes of a pcapng block without body
NS_PER_S = 1_000_000_000
CHUNK = 1 << 15  # records that are decoded at a time
UNKNOWN = -1  # a window scale that was not captured; a protocol that is not IPv4's
NO_SCALE = -2  # a SYN without the option
MOST_SCALE = 14  # RFC 7323, section 2.3
END_OF_OPTIONS, NO_OPERATION, WINDOW_SCALE = 0, 1, 3  # kinds of TCP options

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
# Fields of the headers: name in PACKET, type in the frame, and offset into it ...
IP_FIELDS = (
    ("ip_bytes", ">u2", 16),
    ("ip_id", ">u2", 18),
    ("source", ">u4", 26),
    ("target", ">u4", 30),
)
# ... or into the TCP header.
TCP_FIELDS = (
    ("source_port", ">u2", 0),
    ("target_port", ">u2", 2),
    ("seq", ">u4", 4),
    ("ack", ">u4", 8),
    ("flags", "u1", 13),
    ("window", ">u2", 14),
)

NO_PACKETS = np.empty(0, PACKET)

Packets = NDArray[np.void]  # of PACKET, in the order of the capture
Ints = NDArray[np.int64]


# A captured record: what was kept of the frame, bytes of the whole frame, time in ns.
Record = tuple[bytes, int, int]


class NotWholeError(Exception):
    """The capture ends in the middle of a record, or is no capture of Ethernet at all."""


@dataclass(frozen=True)
class Totals:
    """Packets of one direction.

    Attributes:
        packets: how many.
        wire_bytes: whole frames as they were on the wire, whatever was kept of them.
        ip_bytes: total lengths of the IPv4 headers.
        first_ns: time of the first, Unix ns on the capture's clock; 0 if there are no packets.
        last_ns: time of the last.
    """

    packets: int = 0
    wire_bytes: int = 0
    ip_bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0


@dataclass(frozen=True)
class Trace:
    """The records of a capture.

    Attributes:
        packets: of dtype `PACKET`, in the order of the capture.
        truncated: whether the file ends in the middle of a record, or is no capture at all.
    """

    packets: Packets
    truncated: bool = False

    def sent_by(self, mac: str) -> Packets:
        """Select what the interface with address `mac` sent."""
        sent: Packets = self.packets[self.packets["mac"] == mac_number(mac)]
        return sent

    def others(self, mac: str) -> Packets:
        """Select what came to the interface with address `mac`."""
        received: Packets = self.packets[self.packets["mac"] != mac_number(mac)]
        return received


def mac_number(mac: str) -> int:
    """Give the address ``02:00:00:00:00:0a`` as the number 0x02000000000a."""
    return int(mac.replace(":", ""), 16)


def read_trace(path: Path, scratch: Path | None = None) -> Trace:
    """Read the records of an Ethernet capture, pcap or pcapng.

    A damaged file gives what precedes the damage.

    Args:
        path: the capture.
        scratch: a file to make, in which the records are kept; None: in memory, 60 bytes a record.

    Raises:
        OSError: a file cannot be read or written.
    """
    if scratch is None:
        chunks: list[Packets] = []
        truncated = _read_chunks(path, chunks.append)
        packets = np.concatenate([NO_PACKETS, *chunks])
        return Trace(packets, truncated)

    with scratch.open("wb") as out:
        truncated = _read_chunks(path, lambda chunk: out.write(chunk.data))

    if not scratch.stat().st_size:
        return Trace(NO_PACKETS, truncated)

    packets = np.memmap(scratch, PACKET, mode="r")
    return Trace(packets, truncated)


def _read_chunks(path: Path, keep: Callable[[Packets], object]) -> bool:
    """Pass the decoded records of a capture on, many at a time.

    Returns:
        Whether the capture is truncated.
    """
    try:
        for chunk in _chunks(path):
            keep(chunk)
    except (NotWholeError, EOFError, struct.error):
        return True
    return False


def totals(packets: Packets, mtu: int = 65535) -> Totals:
    """Sum up packets as they are sent on a link.

    Args:
        packets: of dtype `PACKET`.
        mtu: of the link, in bytes.
    """
    if not len(packets):
        return Totals()

    more = extra_packets(packets, mtu)
    extra = int(more.sum())
    extra_headers = int((more * packets["headers"]).sum())
    wire_bytes = int(packets["wire_bytes"].sum(dtype=np.int64))
    ip_bytes = int(packets["ip_bytes"].sum(dtype=np.int64))
    times_ns = packets["time_ns"]

    return Totals(
        packets=len(packets) + extra,
        wire_bytes=wire_bytes + extra * ETHER_HEADER + extra_headers,
        ip_bytes=ip_bytes + extra_headers,
        first_ns=int(times_ns[0]),
        last_ns=int(times_ns[-1]),
    )


def extra_packets(packets: Packets, mtu: int) -> Ints:
    """Count how many packets more than one each record is: those of a TCP record above the MTU.

    Args:
        packets: of dtype `PACKET`, shape (n,).
        mtu: of the link, in bytes.

    Returns:
        int64, shape (n,).
    """
    is_tcp = packets["protocol"] == TCP
    is_long = packets["wire_bytes"] > mtu + ETHER_HEADER
    payload = packets["payload"].astype(np.int64)
    headers = packets["headers"].astype(np.int64)

    room = np.maximum(mtu - headers, 1)
    segments = -(-payload // room)
    extra = np.maximum(segments - 1, 0)

    return np.where(is_tcp & is_long, extra, 0)


def _chunks(path: Path) -> Iterator[Packets]:
    """Give the decoded records of a capture, `CHUNK` at a time.

    Raises:
        NotWholeError, EOFError, struct.error: after what precedes the damage.
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


@dataclass(frozen=True)
class _Headers:
    """The first `HEADERS` bytes of each record, zeros where there were fewer.

    Attributes:
        data: uint8, shape (n * `HEADERS` ,).
        start: int64, shape (n,): where each record begins in it.
    """

    data: NDArray[np.uint8]
    start: Ints

    @classmethod
    def of(cls, frames: Sequence[bytes]) -> _Headers:
        padded: list[bytes] = []
        for frame in frames:
            padded.append(frame[:HEADERS].ljust(HEADERS, b"\0"))

        data = np.frombuffer(b"".join(padded), np.uint8)
        start = np.arange(len(frames)) * HEADERS
        return cls(data, start)

    def field(self, kind: str, offset: int | Ints) -> NDArray[Any]:
        """Read a number of each record.

        Args:
            kind: its dtype, big-endian.
            offset: where it begins in the record; one for all of them, or int64 of shape (n,).

        Returns:
            Shape (n,), of dtype `kind`; numbers beyond the end of the data have any value.
        """
        width = np.dtype(kind).itemsize
        begin = np.minimum(self.start + offset, len(self.data) - width)
        positions = begin[:, None] + np.arange(width)
        in_bytes = np.ascontiguousarray(self.data[positions])
        numbers: NDArray[Any] = in_bytes.view(kind)
        return numbers[:, 0]

    def mac(self, offset: int) -> NDArray[np.uint64]:
        """Read a MAC address of each record as a number; shape (n,)."""
        high = self.field(">u2", offset).astype(np.uint64)
        low = self.field(">u4", offset + 2)
        mac: NDArray[np.uint64] = high << np.uint64(32) | low
        return mac


def _decode(records: Sequence[Record]) -> Packets:
    """Decode records into an array of dtype `PACKET`, shape (n,)."""
    frames, wire_bytes, times_ns = zip(*records, strict=True)
    kept = np.fromiter(map(len, frames), np.int64, len(frames))
    headers = _Headers.of(frames)

    packets = np.zeros(len(frames), PACKET)
    packets["time_ns"] = times_ns
    packets["wire_bytes"] = wire_bytes
    packets["mac"] = headers.mac(SOURCE_MAC)
    packets["scale"] = UNKNOWN

    has_ip_header = kept >= ETHER_HEADER + LEAST_IP_HEADER
    is_ip = has_ip_header & (headers.field(">u2", ETHER_TYPE) == IPV4)
    protocol = headers.field("u1", IP_PROTOCOL)
    packets["protocol"] = np.where(is_ip, protocol, UNKNOWN)
    for name, kind, offset in IP_FIELDS:
        value = headers.field(kind, offset)
        packets[name] = np.where(is_ip, value, 0)

    version_and_length = headers.field("u1", ETHER_HEADER).astype(np.int64)
    ip_header = (version_and_length & 15) * WORD
    tcp_begin = ETHER_HEADER + ip_header
    has_tcp_header = kept >= tcp_begin + LEAST_TCP_HEADER
    is_tcp = is_ip & has_tcp_header & (protocol == TCP)
    for name, kind, offset in TCP_FIELDS:
        value = headers.field(kind, tcp_begin + offset)
        packets[name] = np.where(is_tcp, value, 0)

    data_offset = headers.field("u1", tcp_begin + TCP_DATA_OFFSET)
    tcp_header = (data_offset >> 4) * WORD
    packets["headers"] = np.where(is_tcp, ip_header + tcp_header, 0)
    payload = packets["ip_bytes"] - packets["headers"]
    packets["payload"] = np.where(is_tcp, payload, 0)

    is_syn = is_tcp & (packets["flags"] & SYN > 0)
    for row in np.flatnonzero(is_syn):
        begin = tcp_begin[row] + LEAST_TCP_HEADER
        end = ETHER_HEADER + packets["headers"][row]
        packets["scale"][row] = _window_scale(frames[row][begin:end])

    return packets


def _window_scale(options: bytes) -> int:
    """Find the shift in the TCP options of a SYN.

    Returns:
        The shift; `NO_SCALE` if there is none, `UNKNOWN` if the options were not captured whole.
    """
    position = 0
    while position < len(options):
        kind = options[position]
        if kind == END_OF_OPTIONS:
            break

        if kind == NO_OPERATION:
            position += 1
            continue

        if position + 1 >= len(options):
            return UNKNOWN

        length = options[position + 1]
        if position + length > len(options):
            return UNKNOWN
        if kind == WINDOW_SCALE:
            return min(options[position + 2], MOST_SCALE)

        position += max(length, 2)

    return NO_SCALE


def _records(path: Path) -> Iterator[Record]:
    """Give the whole records of a capture.

    Raises:
        NotWholeError: at the end of a file that is cut short, or that is no capture.
    """
    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    # It takes 0.1 s, and most runs have no captures.
    from scapy.error import Scapy_Exception  # noqa: PLC0415
    from scapy.utils import RawPcapNgReader, RawPcapReader  # noqa: PLC0415

    size = path.stat().st_size
    if size == 0:
        raise NotWholeError

    try:
        with path.open("rb") as file, RawPcapReader(file) as reader:  # type: ignore[arg-type]
            if isinstance(reader, RawPcapNgReader):
                yield from _pcapng_records(reader)
                if not _blocks_are_whole(file, size, reader.endian):
                    raise NotWholeError
            else:
                yield from _pcap_records(reader, size)
    except Scapy_Exception as error:
        raise NotWholeError from error


def _pcap_records(reader: RawPcapReader, size: int) -> Iterator[Record]:
    if reader.linktype != ETHERNET:
        raise NotWholeError

    unit_ns = 1 if reader.nano else 1000
    position = PCAP_HEADER
    for data, meta in reader:
        position += PCAP_RECORD + meta.caplen
        if position > size:
            break

        yield data, meta.wirelen, meta.sec * NS_PER_S + meta.usec * unit_ns

    if position != size:
        raise NotWholeError


def _pcapng_records(reader: Iterable[Any]) -> Iterator[Record]:
    for data, meta in reader:
        if meta.linktype != ETHERNET:
            raise NotWholeError
        time_ns = meta.tshigh << 32 | meta.tslow
        if meta.tsresol != NS_PER_S:
            time_ns = time_ns * NS_PER_S // meta.tsresol
        yield data, meta.wirelen, time_ns


def _blocks_are_whole(file: BinaryIO, size: int, endian: str) -> bool:
    """Tell whether the blocks of a pcapng file end where the file ends."""
    position = 0
    while position + BLOCK_FRAME <= size:
        file.seek(position + 4)
        (length,) = struct.unpack(endian + "I", file.read(4))
        if length < BLOCK_FRAME:
            return False
        position += length
    return position == size
