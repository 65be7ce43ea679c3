"""Writes what tcpdumps say into pcapng files: with the interface's name, each packet's direction, and a limit of size.

usage: python pcapng.py POINTS     POINTS: a JSON list of the fields of `Point`

A program of its own, in the guest, that needs nothing but Python. It reads the classic captures that tcpdumps send
through pipes, all at once, and ends when they do. A capture that grows beyond its limit goes on in further files, and
the oldest but the first is removed: the handshakes and the newest packets stay.
"""

from __future__ import annotations

import json
import os
import selectors
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

FILES = 4  # of one capture, at most
NANOSECOND_PCAP = 0xA1B23C4D
FILE_HEADER, RECORD_HEADER = 24, 16
INBOUND, OUTBOUND = (struct.pack("<HHIHH", 2, 4, way, 0, 0) for way in (1, 2))  # epb_flags and the end of options
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6  # types of blocks
IF_NAME, IF_TSRESOL, IF_FILTER = 2, 9, 11
READ = 1 << 18  # bytes at a time


@dataclass(frozen=True)
class Point:
    """A tcpdump's pipe, and what is to become of it."""

    descriptor: int
    path: str  # of the first file
    interface: str
    mac: str  # of the interface
    snap_bytes: int
    limit_bytes: int
    filter: str
    cuts: str  # file of JSON lines: {"capture", "records", "first_ns", "last_ns"} of what was removed


def file_of(first: Path, number: int) -> Path:
    """The `number`-th file of a capture, counted from 1."""
    return first if number == 1 else first.with_name(f"{first.stem}.{number:04}{first.suffix}")


def files_of(first: Path) -> list[Path]:
    """The files of a capture that there are, in order; of one that was not written the first."""
    prefix = f"{first.stem}."
    later = [
        path
        for path in first.parent.glob(f"*{first.suffix}")
        if path.stem.startswith(prefix) and path.stem[len(prefix) :].isdigit()
    ]
    return [first, *sorted(later, key=lambda path: int(path.stem[len(prefix) :]))]


@dataclass
class _Part:
    """What one file holds."""

    path: Path
    bytes: int = 0
    records: int = 0
    first_ns: int = 0
    last_ns: int = 0


class Capture:
    """The files of one capture."""

    def __init__(self, point: Point) -> None:
        self._point = point
        self._mac = bytes.fromhex(point.mac.replace(":", ""))
        self._parts: list[_Part] = []
        self._number = 0
        self._pending = b""
        self._out: BinaryIO = self._next()
        self._skip = FILE_HEADER

    def write(self, data: bytes) -> None:
        """Go on with what tcpdump said next."""
        data = self._pending + data
        if self._skip:
            if len(data) < self._skip:
                self._pending = data
                return
            if struct.unpack_from("<I", data)[0] != NANOSECOND_PCAP:
                raise ValueError(f"{self._point.interface}: no capture with nanoseconds comes from tcpdump")
        at, self._skip = self._skip, 0
        blocks: list[bytes] = []
        for at, block, time_ns in self._records(data, at):  # noqa: B007, B020 (where the rest begins)
            blocks.append(block)
            part = self._parts[-1]
            part.records += 1
            part.bytes += len(block)
            part.first_ns, part.last_ns = part.first_ns or time_ns, time_ns
            if part.bytes >= self._point.limit_bytes // FILES:
                self._out.writelines(blocks)
                blocks.clear()
                self._out = self._next()
        self._out.writelines(blocks)
        self._out.flush()
        self._pending = data[at:]

    def close(self) -> None:
        """After the last packet."""
        self._out.close()

    def _records(self, data: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
        """Of each whole record from `at` on: where the next one begins, its block, its time."""
        unpack, pack, mac = struct.Struct("<IIII").unpack_from, struct.Struct("<IIIIIII").pack, self._mac
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
            at = end
            yield at, b"".join((head, frame, bytes(-kept % 4), way, length.to_bytes(4, "little"))), time_ns

    def _next(self) -> BinaryIO:
        """A new file; of too many, the oldest but the first goes."""
        if self._parts:
            self._out.close()
        self._number += 1
        if len(self._parts) == FILES:
            self._remove(self._parts.pop(1))
        header = _section() + _interface(self._point)
        self._parts.append(_Part(file_of(Path(self._point.path), self._number), bytes=len(header)))
        out = self._parts[-1].path.open("wb")
        out.write(header)
        return out

    def _remove(self, part: _Part) -> None:
        part.path.unlink()
        name = Path(self._point.path).name
        gone = {"capture": name, "records": part.records, "first_ns": part.first_ns, "last_ns": part.last_ns}
        with Path(self._point.cuts).open("a") as cuts:
            cuts.write(json.dumps(gone) + "\n")


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _section() -> bytes:
    return _block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))


def _interface(point: Point) -> bytes:
    options = _option(IF_NAME, point.interface.encode()) + _option(IF_TSRESOL, b"\x09")
    if point.filter:
        options += _option(IF_FILTER, b"\0" + point.filter.encode())
    return _block(INTERFACE, struct.pack("<HHI", 1, 0, point.snap_bytes) + options + _option(0, b""))


def main(points: list[Point]) -> None:
    """Write until every tcpdump has ended."""
    with selectors.DefaultSelector() as selector:
        for point in points:
            selector.register(point.descriptor, selectors.EVENT_READ, Capture(point))
        while selector.get_map():
            for key, _events in selector.select():
                data = os.read(key.fd, READ)
                if data:
                    key.data.write(data)
                else:
                    key.data.close()
                    selector.unregister(key.fd)


if __name__ == "__main__":
    main([Point(**fields) for fields in json.loads(sys.argv[1])])
