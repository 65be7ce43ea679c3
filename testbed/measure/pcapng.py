"""Convert tcpdump's classic captures to pcapng, with the interface and each packet's direction.

Blocks and options: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NANOSECOND_PCAP = 0xA1B23C4D
NS_PER_S = 1_000_000_000
FILE_HEADER = 24  # bytes
RECORD_HEADER = struct.Struct("<IIII")  # seconds, nanoseconds, bytes kept, bytes on the wire
BYTE_ORDER_MAGIC = 0x1A2B3C4D
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6  # types of blocks
# A packet block: type, length, interface, time (high, low), bytes kept, bytes on the wire.
PACKET_HEADER = struct.Struct("<IIIIIII")
BLOCK_HEADER = struct.Struct("<II")  # type, length
BLOCK_LENGTH = struct.Struct("<I")  # at the end of a block
END_OF_OPTIONS, IF_NAME, IF_TSRESOL, IF_FILTER, EPB_FLAGS = 0, 2, 9, 11, 2  # kinds of options
SECONDS_RESOLUTION = b"\x09"  # 10^-9 s
ETHERNET = 1
SOURCE_MAC = slice(6, 12)  # of a frame
READ = 1 << 20  # bytes at a time


def _option(kind: int, value: bytes) -> bytes:
    header = struct.pack("<HH", kind, len(value))
    padding = bytes(-len(value) % 4)
    return header + value + padding


# Options of a packet block: the packet's direction.
INBOUND = _option(EPB_FLAGS, struct.pack("<I", 1)) + _option(END_OF_OPTIONS, b"")
OUTBOUND = _option(EPB_FLAGS, struct.pack("<I", 2)) + _option(END_OF_OPTIONS, b"")
FRAMELESS = PACKET_HEADER.size + len(OUTBOUND) + BLOCK_LENGTH.size  # bytes of a block without frame


@dataclass(frozen=True)
class CapturedInterface:
    """Name and address of a captured interface, and the settings of tcpdump."""

    name: str
    mac: str
    snap_bytes: int
    filter: str


def write_pcapng(target: Path, pieces: Sequence[Path], interface: CapturedInterface) -> None:
    """Write the packets of several captures into one pcapng file.

    If the last piece ends in the middle of a record, `target` ends in the middle of a block.

    Args:
        target: the pcapng file to write.
        pieces: captures with nanosecond timestamps, in any order; the oldest packets come first.
        interface: the captured interface.

    Raises:
        OSError: a file cannot be read or written.
    """
    own_mac = bytes.fromhex(interface.mac.replace(":", ""))
    new = target.with_name(target.name + ".new")
    with new.open("wb") as out:
        out.write(_section() + _interface(interface))
        whole = True
        for piece in sorted(pieces, key=_begin):
            with piece.open("rb") as file:
                whole = _copy(file, out, own_mac)

        if not whole:
            out.write(BLOCK_HEADER.pack(PACKET, 32))

    new.replace(target)


def _begin(piece: Path) -> tuple[int, int]:
    """Return seconds and nanoseconds of a piece's first packet; an empty piece sorts last."""
    with piece.open("rb") as file:
        head = file.read(FILE_HEADER + 8)
    if len(head) < FILE_HEADER + 8:
        return 1 << 32, 0
    seconds, nanoseconds = struct.unpack_from("<II", head, FILE_HEADER)
    return seconds, nanoseconds


def _copy(file: BinaryIO, out: BinaryIO, own_mac: bytes) -> bool:
    """Write the packets of a capture as blocks.

    Returns:
        Whether the capture ends with a complete record.
    """
    head = file.read(FILE_HEADER)
    if len(head) < FILE_HEADER or struct.unpack_from("<I", head)[0] != NANOSECOND_PCAP:
        return False

    rest = b""
    while data := file.read(READ):
        rest += data
        done = 0
        for block, end in _blocks(rest, own_mac):
            out.write(block)
            done = end

        rest = rest[done:]

    return not rest


def _blocks(data: bytes, own_mac: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the block of each complete record, and the position of the next record."""
    position = 0
    while position + RECORD_HEADER.size <= len(data):
        seconds, nanoseconds, kept, wire = RECORD_HEADER.unpack_from(data, position)
        begin = position + RECORD_HEADER.size
        position = begin + kept
        if position > len(data):
            return

        frame = data[begin:position]
        options = OUTBOUND if frame[SOURCE_MAC] == own_mac else INBOUND
        padding = bytes(-kept % 4)
        length = FRAMELESS + kept + len(padding)

        time_ns = seconds * NS_PER_S + nanoseconds
        time_high = time_ns >> 32
        time_low = time_ns & 0xFFFFFFFF
        header = PACKET_HEADER.pack(PACKET, length, 0, time_high, time_low, kept, wire)
        end = BLOCK_LENGTH.pack(length)
        yield b"".join((header, frame, padding, options, end)), position


def _block(kind: int, body: bytes) -> bytes:
    length = BLOCK_HEADER.size + len(body) + BLOCK_LENGTH.size
    return BLOCK_HEADER.pack(kind, length) + body + BLOCK_LENGTH.pack(length)


def _section() -> bytes:
    version = (1, 0)
    unknown_length = -1
    body = struct.pack("<IHHq", BYTE_ORDER_MAGIC, *version, unknown_length)
    return _block(SECTION, body)


def _interface(interface: CapturedInterface) -> bytes:
    options = _option(IF_NAME, interface.name.encode())
    options += _option(IF_TSRESOL, SECONDS_RESOLUTION)
    if interface.filter:
        options += _option(IF_FILTER, b"\0" + interface.filter.encode())
    options += _option(END_OF_OPTIONS, b"")

    header = struct.pack("<HHI", ETHERNET, 0, interface.snap_bytes)
    return _block(INTERFACE, header + options)
