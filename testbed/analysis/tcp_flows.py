"""What a capture says about each TCP flow: one direction of a connection.

docs/captures.md defines the figures. Everything is seen from where the flow was captured: the round
trip is that from there to the receiver and back; bytes are in flight when they have passed there
and have not been acknowledged.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.packets import (
    ACK,
    ETHER_HEADER,
    NO_SCALE,
    RST,
    SYN,
    UNKNOWN,
    Packets,
    Trace,
    extra_packets,
    mac_number,
)

FIN = 1
# Without IP identifications, a hole that is filled sooner was reordering (Wireshark's figure).
REORDERED_NS = 3_000_000
QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95}
IN_FLIGHT_COLUMNS = (
    "in_flight_max_bytes",
    "in_flight_mean_bytes",
    "window_min_bytes",
    "window_max_bytes",
    "duration_ns",
    "idle_share",
    "window_limited_share",
    "network_limited_share",
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Keys = NDArray[np.uint64]
Row = Mapping[str, int | float | str | None]  # columns of flows.parquet


@dataclass(frozen=True)
class Flow:
    """The packets of a flow, in the order of the capture.

    Attributes:
        packets: of dtype `PACKET`, shape (n,), n > 0.
        back: those of the other direction, shape (m,).
        rows: positions of `packets` in the capture, shape (n,).
        back_rows: positions of `back`, shape (m,).
    """

    packets: Packets
    back: Packets
    rows: Ints
    back_rows: Ints


@dataclass(frozen=True)
class Stream:
    """What each packet of a flow adds to the stream; arrays of shape (n,).

    Attributes:
        begin: its first byte, counted from the flow's first.
        end: the byte after its last one; SYN and FIN count as bytes.
        top: the highest end so far, with this packet.
        retransmitted: whether it was sent again.
        reordered: whether it came late.
        unseen_bytes: bytes that were never seen.
    """

    begin: Ints
    end: Ints
    top: Ints
    retransmitted: Bools
    reordered: Bools
    unseen_bytes: int

    @property
    def top_before(self) -> Ints:
        """The highest end before each packet."""
        before: Ints = np.r_[0, self.top[:-1]]
        return before


@dataclass(frozen=True)
class Acknowledgements:
    """The packets of the other direction that acknowledge; k of m.

    Attributes:
        packets: of dtype `PACKET`, shape (k,).
        rows: their positions in the capture, shape (k,).
        byte: the next byte that each expects, counted from the flow's first, shape (k,).
        top: the highest of these so far, shape (k,).
    """

    packets: Packets
    rows: Ints
    byte: Ints
    top: Ints

    @classmethod
    def of(cls, flow: Flow) -> Acknowledgements:
        """Find the acknowledgements of a flow."""
        is_ack = flow.back["flags"] & ACK > 0
        packets = flow.back[is_ack]
        byte = _unwrap(packets["ack"], int(flow.packets["seq"][0]))
        return cls(packets, flow.back_rows[is_ack], byte, np.maximum.accumulate(byte))


def flows(trace: Trace, mac: str) -> Iterator[Flow]:
    """Give the flows that the interface with address `mac` sends, by their first packets.

    A connection that is opened again with the same ports is another flow.
    """
    packets = trace.packets
    is_tcp = packets["headers"] > 0
    is_sent = packets["mac"] == mac_number(mac)
    sent = _rows_by_key(endpoints(packets), np.flatnonzero(is_tcp & is_sent))
    back_keys = endpoints(packets, reverse=True)
    received = _rows_by_key(back_keys, np.flatnonzero(is_tcp & ~is_sent))
    nothing = np.empty(0, np.int64)
    for key in sorted(sent, key=lambda key: int(sent[key][0])):
        rows, back_rows = sent[key], received.get(key, nothing)
        borders = [0, *_openings(packets, rows, back_rows), len(packets)]
        for begin, end in pairwise(borders):
            of_flow, back_of_flow = _between(rows, begin, end), _between(back_rows, begin, end)
            if len(of_flow):
                yield Flow(packets[of_flow], packets[back_of_flow], of_flow, back_of_flow)


def _between(rows: Ints, begin: int, end: int) -> Ints:
    return rows[(rows >= begin) & (rows < end)]


def _hash(*columns: Keys) -> Keys:
    """Hash each row of columns, all of shape (n,), to 64 bits (multipliers of splitmix64)."""
    value = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        value = (value ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(32)
    return value


def _pair(high: NDArray[np.unsignedinteger], low: NDArray[np.unsignedinteger], bits: int) -> Keys:
    """Put two columns of unsigned numbers into one: `low` takes the lowest `bits` bits."""
    return high.astype(np.uint64) << np.uint64(bits) | low


def endpoints(packets: Packets, *, reverse: bool = False) -> Keys:
    """Give a key of each packet's addresses and ports.

    Args:
        packets: of dtype `PACKET`, shape (n,).
        reverse: give the key that packets of the other direction have.

    Returns:
        uint64, shape (n,).
    """
    first, second = ("target", "source") if reverse else ("source", "target")
    addresses = _pair(packets[first], packets[second], 32)
    ports = _pair(packets[f"{first}_port"], packets[f"{second}_port"], 16)
    return _hash(addresses, ports)


def identities(packets: Packets) -> Keys:
    """Give a key that a packet keeps on its way and hardly shares with another one.

    A copy that is sent again has another IP identification.

    Args:
        packets: of dtype `PACKET`, shape (n,).

    Returns:
        uint64, shape (n,).
    """
    numbers = _pair(packets["seq"], packets["ack"], 32)
    length_and_flags = _pair(packets["ip_bytes"].astype(np.uint64), packets["flags"], 8)
    rest = _pair(packets["ip_id"], length_and_flags, 32)
    return _hash(endpoints(packets), numbers, rest)


def _rows_by_key(keys: Keys, rows: Ints) -> dict[int, Ints]:
    """Group `rows`, positions in `keys`, by their keys; ascending in each group."""
    if not len(rows):
        return {}
    in_order = rows[np.argsort(keys[rows], kind="stable")]
    ordered_keys = keys[in_order]
    is_first = np.r_[True, ordered_keys[1:] != ordered_keys[:-1]]
    starts = np.flatnonzero(is_first)
    groups = np.split(in_order, starts[1:])
    return dict(zip(ordered_keys[starts].tolist(), groups, strict=True))


def _openings(packets: Packets, rows: Ints, back_rows: Ints) -> list[int]:
    """Find where connections after the first one begin.

    They begin with a SYN whose sequence number differs from that of the last SYN.

    Args:
        packets: of the whole capture.
        rows: positions of one direction's packets.
        back_rows: positions of those of the other direction.

    Returns:
        Positions in the capture, ascending.
    """
    both = np.sort(np.concatenate([rows, back_rows]))
    syns = both[(packets["flags"][both] & (SYN | ACK)) == SYN]
    if not len(syns):
        return []
    numbers = packets["seq"][syns]
    later = [int(row) for row in syns[1:][numbers[1:] != numbers[:-1]]]
    begins_with_syn = syns[0] == both[0]
    return later if begins_with_syn else [int(syns[0]), *later]


def flow_row(flow: Flow, mtu: int) -> Row:
    """Give the columns of flows.parquet that one capture is enough for.

    Args:
        flow: the flow.
        mtu: of the link where the flow was captured, in bytes.
    """
    packets = flow.packets
    stream, acks = _stream(packets), Acknowledgements.of(flow)
    more = extra_packets(packets, mtu)
    wire_bytes = packets["wire_bytes"] + more * (ETHER_HEADER + packets["headers"])
    payload = packets["payload"].astype(np.int64)
    first_ns, last_ns = int(packets["time_ns"][0]), int(packets["time_ns"][-1])
    size = int(payload.sum())
    throughput_bps = size * 8e9 / (last_ns - first_ns) if last_ns > first_ns else None
    return {
        "records": len(packets),
        "packets": len(packets) + int(more.sum()),
        "payload_bytes": size,
        "wire_bytes": int(wire_bytes.sum()),
        "retransmissions": int(stream.retransmitted.sum()),
        "retransmitted_bytes": int(payload[stream.retransmitted].sum()),
        "out_of_order": int(stream.reordered.sum()),
        "unseen_bytes": stream.unseen_bytes,
        "first_ns": first_ns,
        "last_ns": last_ns,
        "throughput_bps": throughput_bps,
        **_round_trips(flow, stream, acks),
        **_in_flight(flow, stream, acks, mtu),
    }


def _unwrap(numbers: NDArray[np.uint32], origin: int) -> Ints:
    """Turn 32-bit sequence numbers, which wrap, into bytes from `origin`; shape (n,).

    Neighbours differ by less than 2^31.
    """
    if not len(numbers):
        return np.empty(0, np.int64)
    steps = np.diff(numbers, prepend=np.uint32(origin)).view(np.int32)
    return np.cumsum(steps, dtype=np.int64)


def _stream(packets: Packets) -> Stream:
    """Put the packets of a flow, of dtype `PACKET`, into their places in the stream."""
    flags = packets["flags"]
    marks = (flags & SYN > 0).astype(np.int64) + (flags & FIN > 0)
    length = np.where(flags & RST > 0, 0, packets["payload"].astype(np.int64) + marks)
    begin = _unwrap(packets["seq"], int(packets["seq"][0]))
    end = begin + length
    has_data = length > 0
    top = np.maximum.accumulate(np.where(has_data, end, begin[0]))
    before = np.r_[begin[0], top[:-1]]
    is_keepalive = (length == 1) & (marks == 0) & (begin == before - 1)
    is_below = has_data & (begin < before) & ~is_keepalive
    is_ahead = has_data & (begin > before)
    is_growing = ~is_below & (end > before)
    retransmitted, reordered = np.zeros(len(begin), bool), np.zeros(len(begin), bool)
    growing = np.flatnonzero(is_growing)
    holes = _Holes()
    for row in np.flatnonzero(is_below | is_ahead):
        time_ns, ip_id = int(packets["time_ns"][row]), int(packets["ip_id"][row])
        if is_ahead[row]:
            previous = growing[max(int(np.searchsorted(growing, row)) - 1, 0)]
            ids = (int(packets["ip_id"][previous]), ip_id)
            holes.append(_Hole(int(before[row]), int(begin[row]), ids, time_ns))
        elif holes.fill(int(begin[row]), int(end[row]), time_ns, ip_id):
            reordered[row] = True
        else:
            retransmitted[row] = True
    return Stream(begin, end, top, retransmitted, reordered, holes.total_bytes)


@dataclass(frozen=True)
class _Hole:
    """Bytes that were not seen.

    Attributes:
        begin: the first of them.
        end: the byte after the last one.
        ids: IP identifications of the packets before and after the hole.
        time_ns: when the hole appeared.
    """

    begin: int
    end: int
    ids: tuple[int, int]
    time_ns: int

    def explains(self, time_ns: int, ip_id: int) -> bool:
        """Tell whether a packet was sent where the hole is, and was overtaken."""
        before, after = self.ids
        if before == after:
            return time_ns - self.time_ns < REORDERED_NS
        return 0 < (ip_id - before) % 2**16 < (after - before) % 2**16


class _Holes:
    """The holes of a stream, ascending."""

    def __init__(self) -> None:
        self._holes: list[_Hole] = []

    @property
    def total_bytes(self) -> int:
        return sum(hole.end - hole.begin for hole in self._holes)

    def append(self, hole: _Hole) -> None:
        self._holes.append(hole)

    def fill(self, begin: int, end: int, time_ns: int, ip_id: int) -> bool:
        """Take the bytes of a packet below the highest byte out of the holes.

        What was seen before is sent again. A packet that fills a hole came late if its IP
        identification lies between those of the packets on both sides of the hole, and is sent
        again (the first was lost before the capture) if not.

        Args:
            begin: the packet's first byte.
            end: the byte after its last one.
            time_ns: when it passed.
            ip_id: its IP identification.

        Returns:
            Whether the packet came late.
        """
        first = bisect_right(self._holes, begin, key=lambda hole: hole.end)
        last = bisect_left(self._holes, end, key=lambda hole: hole.begin)
        touched = self._holes[first:last]
        late = False
        if len(touched) == 1:
            hole = touched[0]
            lies_inside = hole.begin <= begin and end <= hole.end
            late = lies_inside and hole.explains(time_ns, ip_id)
        remaining: list[_Hole] = []
        for hole in touched:
            before = replace(hole, end=min(begin, hole.end))
            after = replace(hole, begin=max(end, hole.begin))
            remaining += [part for part in (before, after) if part.begin < part.end]
        self._holes[first:last] = remaining
        return late


def _round_trips(flow: Flow, stream: Stream, acks: Acknowledgements) -> Row:
    """Measure from packets to the acknowledgements that end where the packets end.

    An acknowledgement counts if it is the first for its byte and covers nothing that was sent
    twice, for then it is not known which copy it answers (Karn's rule), nor whether it waited for a
    copy.

    Returns:
        The columns rtt_*.
    """
    is_fresh = (stream.end > stream.top_before) & ~stream.retransmitted & ~stream.reordered
    fresh = np.flatnonzero(is_fresh)
    if not len(fresh) or not len(acks.byte):
        return {"rtt_samples": 0, **spread("rtt", np.empty(0, np.int64))}
    acked_before = np.r_[0, acks.top[:-1]]
    ends = stream.end[fresh]
    position = np.minimum(np.searchsorted(ends, acks.byte), len(fresh) - 1)
    is_first = acks.byte > acked_before
    matches = ends[position] == acks.byte
    usable = is_first & matches & ~_sent_twice(stream, acked_before, acks.byte)
    sent_ns = flow.packets["time_ns"][fresh[position[usable]]]
    rtt_ns = acks.packets["time_ns"][usable] - sent_ns
    return {"rtt_samples": len(rtt_ns), **spread("rtt", rtt_ns)}


def _sent_twice(stream: Stream, begin: Ints, end: Ints) -> Bools:
    """Tell which stretches of bytes hold one that was sent twice.

    Args:
        stream: of the flow.
        begin: first byte of each stretch, shape (k,).
        end: the byte after its last one, shape (k,).

    Returns:
        Shape (k,).
    """
    twice = np.flatnonzero(stream.retransmitted)
    in_order = twice[np.argsort(stream.begin[twice])]
    starts = np.r_[stream.begin[in_order], np.iinfo(np.int64).max]
    ends = np.maximum.accumulate(stream.end[in_order])
    position = np.searchsorted(ends, begin, side="right")
    touched: Bools = starts[position] < end
    return touched


def spread(name: str, values: Ints) -> Row:
    """Give the columns `name`_min_ns, _median_ns and _p95_ns of values in ns; None without any."""
    if not len(values):
        return {f"{name}_{quantile}_ns": None for quantile in QUANTILES}
    numbers = np.quantile(values, list(QUANTILES.values()))
    columns: dict[str, int | float | str | None] = {}
    for quantile, number in zip(QUANTILES, numbers, strict=True):
        columns[f"{name}_{quantile}_ns"] = round(number)
    return columns


def _in_flight(flow: Flow, stream: Stream, acks: Acknowledgements, mtu: int) -> Row:
    """Weigh by time: bytes in flight, the receiver's window, and what the flow waited for.

    Returns:
        The columns `IN_FLIGHT_COLUMNS`; None where they are not known.
    """
    columns: dict[str, int | float | str | None] = dict.fromkeys(IN_FLIGHT_COLUMNS)
    if not len(acks.byte):
        return columns
    # Packets and acknowledgements together in the order of the capture: positions below n are
    # those of packets, others less n those of acknowledgements.
    order = np.argsort(np.concatenate([flow.rows, acks.rows]), kind="stable")
    ack_positions = order - len(flow.rows)
    times_ns = np.concatenate([flow.packets["time_ns"], acks.packets["time_ns"]])[order]
    step_ns = np.diff(times_ns)
    duration_ns = int(step_ns.sum())
    if not duration_ns:
        return columns
    sent, acked = _latest(stream.top, order, 0), _latest(acks.top, ack_positions, 0)
    flight = np.maximum(sent - acked, 0)
    idle_share = float(step_ns[flight[:-1] == 0].sum() / duration_ns)
    columns["in_flight_max_bytes"] = int(flight.max())
    columns["in_flight_mean_bytes"] = float((flight[:-1] * step_ns).sum() / duration_ns)
    columns["duration_ns"] = duration_ns
    columns["idle_share"] = idle_share
    windows = _windows(flow, acks)
    if windows is None:
        return columns
    most_payload = int(flow.packets["payload"].max()) or 1
    segment = min(most_payload, mtu - int(np.median(flow.packets["headers"])))
    window = _latest(windows, ack_positions, int(windows[0]))
    is_full = (flight > 0) & (flight + segment > window)
    full_share = float(step_ns[is_full[:-1]].sum() / duration_ns)
    columns["window_limited_share"] = full_share
    columns["network_limited_share"] = max(1 - (idle_share + full_share), 0.0)
    open_windows = windows[acks.packets["flags"] & (SYN | RST) == 0]
    if len(open_windows):
        columns["window_min_bytes"] = int(open_windows.min())
        columns["window_max_bytes"] = int(open_windows.max())
    return columns


def _latest(values: Ints, positions: Ints, initial: int) -> Ints:
    """Give for each event the latest value until then.

    Args:
        values: shape (n,), n > 0.
        positions: of each event the position of its value, shape (k,); others if it has none.
        initial: the value before the first.

    Returns:
        Shape (k,).
    """
    has_value = (positions >= 0) & (positions < len(values))
    latest_event = np.maximum.accumulate(np.where(has_value, np.arange(len(positions)), -1))
    is_before_first = latest_event < 0
    latest_position = np.where(is_before_first, 0, positions[latest_event])
    return np.where(is_before_first, initial, values[latest_position])


def _windows(flow: Flow, acks: Acknowledgements) -> Ints | None:
    """Give the receiver's window with each acknowledgement in bytes, shape (k,).

    None if the capture lacks the handshake, which has the scales.
    """
    scales: list[int] = []
    for packets in (flow.back, flow.packets):
        of_syns = packets["scale"][packets["flags"] & SYN > 0]
        if not len(of_syns) or of_syns[0] == UNKNOWN:
            return None
        scales.append(int(of_syns[0]))
    shift = 0 if NO_SCALE in scales else scales[0]
    is_syn = acks.packets["flags"] & SYN > 0
    return acks.packets["window"].astype(np.int64) << np.where(is_syn, 0, shift)
