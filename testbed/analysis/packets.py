"""Decode packet captures into arrays with a field per header value.

scapy's raw readers read the records; numpy decodes many records at a time.

A record longer than the MTU is a super-packet: several packets that segmentation offload kept
together (up to 64 KiB). A super-packet counts as the packets that the kernel would send, each with
its own headers (as in the kernel's qdisc_pkt_len_init()).
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
WORD = 4  # bytes; unit of the header length fields
IPV4, TCP = 0x0800, 6
SYN, RST, ACK = 2, 4, 16
LEAST_IP_HEADER, LEAST_TCP_HEADER = 20, 20
HEADERS = ETHER_HEADER + 60 + 60  # bytes, with all options of IPv4 and TCP
PCAP_HEADER, PCAP_RECORD = 24, 16
BLOCK_FRAME = 12  # bytes of a pcapng block without its body
NS_PER_S = 1_000_000_000
CHUNK = 1 << 15  # records decoded at a time
UNKNOWN = -1  # window scale not captured, or protocol other than IPv4
NO_SCALE = -2  # a SYN without the option
MOST_SCALE = 14  # RFC 7323, section 2.3
END_OF_OPTIONS, NO_OPERATION, WINDOW_SCALE = 0, 1, 3  # kinds of TCP options

# One captured record. Fields of IPv4 and TCP are 0 where a record lacks these headers, or where the
# headers were not captured whole.
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
        ("wire_bytes", "i4"),  # bytes of the frame on the wire, captured or not
        ("ip_bytes", "i4"),  # total length in the IPv4 header
        ("payload", "i4"),  # bytes of TCP payload
        ("headers", "i2"),  # bytes of the IPv4 and TCP headers
        ("window", "u2"),
        ("ip_id", "u2"),
        ("flags", "u1"),  # of the TCP header
        ("scale", "i1"),  # of a SYN: the window shift of the SYN's sender
        ("protocol", "i2"),  # of the IPv4 header
    ]
)
# Fields of the headers: name in PACKET, type in the frame, and offset in the IPv4 header ...
IP_FIELDS = (
    ("ip_bytes", ">u2", 16),
    ("ip_id", ">u2", 18),
    ("source", ">u4", 26),
    ("target", ">u4", 30),
)
# ... or in the TCP header.
TCP_FIELDS = (
    ("source_port", ">u2", 0),
    ("target_port", ">u2", 2),
    ("seq", ">u4", 4),
    ("ack", ">u4", 8),
    ("flags", "u1", 13),
    ("window", ">u2", 14),
)

NO_PACKETS = np.empty(0, PACKET)

Packets = NDArray[np.void]  # dtype PACKET, in the order of the capture
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


# A captured record: captured bytes of the frame, length of the whole frame in bytes, time in ns.
Record = tuple[bytes, int, int]


class NotWholeError(Exception):
    """A capture that ends in the middle of a record, or a file that is not an Ethernet capture."""


@dataclass(frozen=True)
class Totals:
    """Totals of the packets of one direction.

    Attributes:
        packets: number of packets.
        wire_bytes: bytes of whole frames on the wire, captured or not.
        ip_bytes: sum of the total lengths in the IPv4 headers.
        first_ns: time of the first packet, Unix ns on the capture's clock; 0 without packets.
        last_ns: time of the last packet, likewise.
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
        packets: dtype `PACKET`, in the order of the capture.
        truncated: whether the file ends in the middle of a record, or is not a capture.
    """

    packets: Packets
    truncated: bool = False

    def sent_by(self, mac: str) -> Packets:
        """Select the packets sent by the interface with address `mac`."""
        sent: Packets = self.packets[self.packets["mac"] == mac_number(mac)]
        return sent

    def others(self, mac: str) -> Packets:
        """Select the packets sent to the interface with address `mac`."""
        received: Packets = self.packets[self.packets["mac"] != mac_number(mac)]
        return received


def mac_number(mac: str) -> int:
    """Return the address ``02:00:00:00:00:0a`` as the number 0x02000000000a."""
    return int(mac.replace(":", ""), 16)


def read_trace(path: Path, scratch: Path | None = None) -> Trace:
    """Read the records of an Ethernet capture, pcap or pcapng.

    Of a damaged file, the records before the damage are returned.

    Args:
        path: the capture.
        scratch: a file to create, which stores the records; None: in memory, 60 bytes a record.

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
    """Pass the decoded records of a capture to `keep`, many records at a time.

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
    """Return the totals of packets as sent on a link.

    Args:
        packets: dtype `PACKET`.
        mtu: MTU of the link, in bytes.
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
    """Return the number of extra packets in each record: more than 0 for TCP records above the MTU.

    Args:
        packets: dtype `PACKET`, shape (n,).
        mtu: MTU of the link, in bytes.

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
    """Yield the decoded records of a capture, `CHUNK` records at a time.

    Raises:
        NotWholeError, EOFError, struct.error: the file is damaged; raised after the records before
            the damage.
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
    """The first `HEADERS` bytes of each record, padded with zeros.

    Attributes:
        data: uint8, shape (n * `HEADERS` ,).
        start: int64, shape (n,): offset of each record in `data`.
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
        """Read a number from each record.

        Args:
            kind: dtype of the number, big-endian.
            offset: offset of the number in the record; one for all records, or int64 of shape (n,).

        Returns:
            Shape (n,), of dtype `kind`; numbers beyond the end of a record are arbitrary.
        """
        width = np.dtype(kind).itemsize
        begin = np.minimum(self.start + offset, len(self.data) - width)
        positions = begin[:, None] + np.arange(width)
        in_bytes = np.ascontiguousarray(self.data[positions])
        numbers: NDArray[Any] = in_bytes.view(kind)
        return numbers[:, 0]

    def mac(self, offset: int) -> NDArray[np.uint64]:
        """Return a MAC address of each record as a number, shape (n,)."""
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

    is_ip = _put_ip_fields(packets, headers, kept)
    version_and_length = headers.field("u1", ETHER_HEADER).astype(np.int64)
    ip_header = (version_and_length & 15) * WORD
    tcp_begin = ETHER_HEADER + ip_header
    has_tcp_header = kept >= tcp_begin + LEAST_TCP_HEADER
    is_tcp = is_ip & has_tcp_header & (packets["protocol"] == TCP)
    _put_tcp_fields(packets, headers, ip_header, is_tcp)

    is_syn = is_tcp & (packets["flags"] & SYN > 0)
    for row in np.flatnonzero(is_syn):
        begin = tcp_begin[row] + LEAST_TCP_HEADER
        end = ETHER_HEADER + packets["headers"][row]
        options = frames[row][begin:end]
        packets["scale"][row] = _window_scale(options)

    return packets


def _put_ip_fields(packets: Packets, headers: _Headers, kept: Ints) -> Bools:
    """Set the fields of the IP headers.

    Args:
        packets: the packets, shape (n,).
        headers: their headers.
        kept: number of captured bytes of each packet, shape (n,).

    Returns:
        Which packets are of IPv4, shape (n,).
    """
    has_ip_header = kept >= ETHER_HEADER + LEAST_IP_HEADER
    ether_type = headers.field(">u2", ETHER_TYPE)
    is_ip: Bools = has_ip_header & (ether_type == IPV4)
    protocol = headers.field("u1", IP_PROTOCOL)
    packets["protocol"] = np.where(is_ip, protocol, UNKNOWN)
    for name, kind, offset in IP_FIELDS:
        value = headers.field(kind, offset)
        packets[name] = np.where(is_ip, value, 0)
    return is_ip


def _put_tcp_fields(packets: Packets, headers: _Headers, ip_header: Ints, is_tcp: Bools) -> None:
    """Set the fields of the TCP headers, and the sizes of headers and payload.

    Args:
        packets: the packets, shape (n,).
        headers: their headers.
        ip_header: bytes of the IP header of each packet, shape (n,).
        is_tcp: which packets are of TCP, shape (n,).
    """
    tcp_begin = ETHER_HEADER + ip_header
    for name, kind, offset in TCP_FIELDS:
        value = headers.field(kind, tcp_begin + offset)
        packets[name] = np.where(is_tcp, value, 0)

    data_offset = headers.field("u1", tcp_begin + TCP_DATA_OFFSET)
    tcp_header = (data_offset >> 4) * WORD
    packets["headers"] = np.where(is_tcp, ip_header + tcp_header, 0)
    payload = packets["ip_bytes"] - packets["headers"]
    packets["payload"] = np.where(is_tcp, payload, 0)


def _window_scale(options: bytes) -> int:
    """Return the window shift in the TCP options of a SYN.

    Returns:
        The shift; `NO_SCALE` without the option, `UNKNOWN` if the options were not captured whole.
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
    """Yield the whole records of a capture.

    Raises:
        NotWholeError: the file is cut short, or is not a capture; raised after the whole records.
    """
    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    # Importing scapy takes 0.1 s, and most runs have no captures.
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
    """Return whether the last block of a pcapng file ends at the end of the file."""
    position = 0
    while position + BLOCK_FRAME <= size:
        file.seek(position + 4)
        (length,) = struct.unpack(endian + "I", file.read(4))
        if length < BLOCK_FRAME:
            return False
        position += length
    return position == size
