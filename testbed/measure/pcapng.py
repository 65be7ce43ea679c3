"""tcpdump's classic captures as pcapng files, which tell the interface's name and each packet's
direction.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NANOSECOND_PCAP = 0xA1B23C4D
FILE_HEADER, RECORD_HEADER = 24, 16
INBOUND, OUTBOUND = (
    struct.pack("<HHIHH", 2, 4, way, 0, 0) for way in (1, 2)
)  # epb_flags and the end of options
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6  # types of blocks
IF_NAME, IF_TSRESOL, IF_FILTER = 2, 9, 11
READ = 1 << 20  # bytes at a time


@dataclass(frozen=True)
class Interface:
    """Where a capture was made."""

    name: str
    mac: str
    snap_bytes: int
    filter: str


def write_pcapng(target: Path, pieces: Sequence[Path], interface: Interface) -> None:
    """Write the packets of `pieces`, captures with nanoseconds, to `target`, those of the oldest
    piece first.

    Where a piece ends in the middle of a record, so does a block of `target`, if it is the last
    piece.

    Raises:
        OSError: a file cannot be read or written.
    """
    new = target.with_name(target.name + ".new")
    with new.open("wb") as out:
        out.write(_section() + _interface(interface))
        whole = True
        for piece in sorted(pieces, key=_begin):
            with piece.open("rb") as file:
                whole = _copy(file, out, bytes.fromhex(interface.mac.replace(":", "")))
        if not whole:
            out.write(struct.pack("<II", PACKET, 32))
    new.replace(target)


def _begin(piece: Path) -> tuple[int, int]:
    """Seconds and nanoseconds of the first packet; of a piece without one, those after all
    others.
    """
    with piece.open("rb") as file:
        head = file.read(FILE_HEADER + 8)
    return (
        struct.unpack_from("<II", head, FILE_HEADER)
        if len(head) == FILE_HEADER + 8
        else (1 << 32, 0)
    )


def _copy(file: BinaryIO, out: BinaryIO, mac: bytes) -> bool:
    """Write the packets of a capture as blocks; whether it ends with a whole one."""
    head = file.read(FILE_HEADER)
    if len(head) < FILE_HEADER or struct.unpack_from("<I", head)[0] != NANOSECOND_PCAP:
        return False
    rest = b""
    while data := file.read(READ):
        rest += data
        at = 0
        for block, end in _blocks(rest, mac):
            out.write(block)
            at = end
        rest = rest[at:]
    return not rest


def _blocks(data: bytes, mac: bytes) -> Iterator[tuple[bytes, int]]:
    """Of each whole record: its block, and where the next record begins."""
    unpack, pack, at = struct.Struct("<IIII").unpack_from, struct.Struct("<IIIIIII").pack, 0
    while at + RECORD_HEADER <= len(data):
        seconds, nanoseconds, kept, wire = unpack(data, at)
        end = at + RECORD_HEADER + kept
        if end > len(data):
            return
        frame = data[at + RECORD_HEADER : end]
        time_ns = seconds * 1_000_000_000 + nanoseconds
        length = 28 + kept + -kept % 4 + 12 + 4
        head = pack(PACKET, length, 0, time_ns >> 32, time_ns & 0xFFFFFFFF, kept, wire)
        way = OUTBOUND if frame[6:12] == mac else INBOUND
        yield b"".join((head, frame, bytes(-kept % 4), way, length.to_bytes(4, "little"))), end
        at = end


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _section() -> bytes:
    return _block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))


def _interface(interface: Interface) -> bytes:
    options = _option(IF_NAME, interface.name.encode()) + _option(IF_TSRESOL, b"\x09")
    if interface.filter:
        options += _option(IF_FILTER, b"\0" + interface.filter.encode())
    return _block(
        INTERFACE, struct.pack("<HHI", 1, 0, interface.snap_bytes) + options + _option(0, b"")
    )
