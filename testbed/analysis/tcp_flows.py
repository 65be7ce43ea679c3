"""Figures of each TCP flow, one direction of a connection, from a packet capture.

docs/captures.md defines the figures. All figures are seen from the capture point: the round trip
runs from there to the receiver and back; bytes are in flight when the bytes have passed the capture
point and have not been acknowledged.
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
# Without IP identifications, a hole that is filled sooner counts as reordering (as in Wireshark).
REORDERED_NS = 3_000_000
FIRST_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MULTIPLIER = np.uint64(0x94D049BB133111EB)
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

NO_ROWS = np.empty(0, np.int64)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Keys = NDArray[np.uint64]
Row = Mapping[str, int | float | str | None]  # columns of flows.parquet


@dataclass(frozen=True)
class Flow:
    """The packets of a flow, in the order of the capture.

    Attributes:
        packets: dtype `PACKET`, shape (n,), n > 0.
        back: packets of the other direction, dtype `PACKET`, shape (m,).
        rows: positions of `packets` in the capture, shape (n,).
        back_rows: positions of `back` in the capture, shape (m,).
    """

    packets: Packets
    back: Packets
    rows: Ints
    back_rows: Ints


@dataclass(frozen=True)
class Stream:
    """The position of each packet of a flow in the byte stream; arrays of shape (n,).

    Attributes:
        begin: first byte of the packet, counted from the flow's first byte.
        end: the byte after the packet's last byte; SYN and FIN count as bytes.
        top: the highest end up to and including this packet.
        retransmitted: whether the packet was retransmitted.
        reordered: whether the packet arrived late.
        unseen_bytes: bytes missing from the capture.
    """

    begin: Ints
    end: Ints
    top: Ints
    retransmitted: Bools
    reordered: Bools
    unseen_bytes: int

    @property
    def top_before(self) -> Ints:
        """The highest end before each packet, shape (n,)."""
        before: Ints = np.r_[0, self.top[:-1]]
        return before


@dataclass(frozen=True)
class Acknowledgements:
    """The k acknowledging packets among the m packets of the other direction.

    Attributes:
        packets: dtype `PACKET`, shape (k,).
        rows: positions of `packets` in the capture, shape (k,).
        byte: next byte expected by each packet, counted from the flow's first byte, shape (k,).
        top: the highest `byte` so far, shape (k,).
    """

    packets: Packets
    rows: Ints
    byte: Ints
    top: Ints

    @classmethod
    def of(cls, flow: Flow) -> Acknowledgements:
        """Return the acknowledgements of a flow."""
        is_ack = flow.back["flags"] & ACK > 0
        packets = flow.back[is_ack]
        origin = int(flow.packets["seq"][0])
        byte = _unwrap(packets["ack"], origin)

        return cls(
            packets=packets,
            rows=flow.back_rows[is_ack],
            byte=byte,
            top=np.maximum.accumulate(byte),
        )


def flows(trace: Trace, mac: str) -> Iterator[Flow]:
    """Yield the flows sent by the interface with address `mac`, sorted by first packet.

    A connection that is reopened with the same ports is another flow.
    """
    packets = trace.packets
    is_tcp = packets["headers"] > 0
    is_sent = packets["mac"] == mac_number(mac)
    sent_rows = np.flatnonzero(is_tcp & is_sent)
    received_rows = np.flatnonzero(is_tcp & ~is_sent)

    forth_keys = endpoints(packets)
    back_keys = endpoints(packets, reverse=True)
    sent = _rows_by_key(forth_keys, sent_rows)
    received = _rows_by_key(back_keys, received_rows)

    for key, rows in sorted(sent.items(), key=_first_row):
        back_rows = received.get(key, NO_ROWS)
        openings = _openings(packets, rows, back_rows)
        borders = [0, *openings, len(packets)]
        for begin, end in pairwise(borders):
            of_flow = _between(rows, begin, end)
            if not len(of_flow):
                continue

            back_of_flow = _between(back_rows, begin, end)
            yield Flow(
                packets=packets[of_flow],
                back=packets[back_of_flow],
                rows=of_flow,
                back_rows=back_of_flow,
            )


def _first_row(flow: tuple[int, Ints]) -> int:
    _key, rows = flow
    return int(rows[0])


def _between(rows: Ints, begin: int, end: int) -> Ints:
    return rows[(rows >= begin) & (rows < end)]


def _hash(*columns: Keys) -> Keys:
    """Return a 64-bit hash of each row of columns, all of shape (n,), computed as in splitmix64."""
    value = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        value ^= column
        value *= FIRST_MULTIPLIER
        value ^= value >> np.uint64(29)
        value *= SECOND_MULTIPLIER
        value ^= value >> np.uint64(32)
    return value


def _pair(high: NDArray[np.unsignedinteger], low: NDArray[np.unsignedinteger], bits: int) -> Keys:
    """Return two columns of unsigned numbers packed into one, `low` in the lowest `bits` bits."""
    return high.astype(np.uint64) << np.uint64(bits) | low


def endpoints(packets: Packets, *, reverse: bool = False) -> Keys:
    """Return a key of each packet's addresses and ports.

    Args:
        packets: dtype `PACKET`, shape (n,).
        reverse: whether to return the key of packets in the opposite direction.

    Returns:
        uint64, shape (n,).
    """
    first, second = "source", "target"
    if reverse:
        first, second = second, first
    addresses = _pair(packets[first], packets[second], 32)
    ports = _pair(packets[f"{first}_port"], packets[f"{second}_port"], 16)
    return _hash(addresses, ports)


def identities(packets: Packets) -> Keys:
    """Return a key of each packet that is constant along the path and almost unique.

    A retransmitted copy has another IP identification.

    Args:
        packets: dtype `PACKET`, shape (n,).

    Returns:
        uint64, shape (n,).
    """
    numbers = _pair(packets["seq"], packets["ack"], 32)
    ip_bytes = packets["ip_bytes"].astype(np.uint64)
    length_and_flags = _pair(ip_bytes, packets["flags"], 8)
    rest = _pair(packets["ip_id"], length_and_flags, 32)
    return _hash(endpoints(packets), numbers, rest)


def _rows_by_key(keys: Keys, rows: Ints) -> dict[int, Ints]:
    """Return `rows`, positions in `keys`, grouped by key and ascending in each group."""
    if not len(rows):
        return {}

    keys_of_rows = keys[rows]
    order = np.argsort(keys_of_rows, kind="stable")
    ordered_rows = rows[order]
    ordered_keys = keys_of_rows[order]

    differs = ordered_keys[1:] != ordered_keys[:-1]
    starts = np.flatnonzero(np.r_[True, differs])
    groups = np.split(ordered_rows, starts[1:])

    return dict(zip(ordered_keys[starts].tolist(), groups, strict=True))


def _openings(packets: Packets, rows: Ints, back_rows: Ints) -> list[int]:
    """Return the positions at which connections after the first one begin.

    A new connection begins with a SYN without ACK whose sequence number differs from that of the
    sender's last SYN, with ACK or without. If no SYN came before, it begins with any SYN without
    ACK that follows other packets.

    Args:
        packets: packets of the whole capture, dtype `PACKET`.
        rows: positions of one direction's packets.
        back_rows: positions of the other direction's packets.

    Returns:
        Positions in the capture, ascending.
    """
    both = np.concatenate([rows, back_rows])
    both.sort()
    flags = packets["flags"][both]
    senders = packets["mac"][both]
    numbers = packets["seq"][both]
    openings: list[int] = []
    last_number: dict[int, int] = {}  # of a SYN, by sender
    for position in np.flatnonzero(flags & SYN > 0):
        sender, number = int(senders[position]), int(numbers[position])
        is_first = flags[position] & ACK == 0
        is_new = last_number.get(sender, number) != number
        if is_first and (is_new or (not last_number and position > 0)):
            openings.append(int(both[position]))
        last_number[sender] = number

    return openings


def flow_row(flow: Flow, mtu: int) -> Row:
    """Return the columns of flows.parquet that need only one capture.

    Args:
        flow: the flow.
        mtu: MTU of the link where the flow was captured, in bytes.
    """
    packets = flow.packets
    acks = Acknowledgements.of(flow)
    stream = _stream(packets, _meets_closed_window(flow, acks))
    is_spurious = stream.retransmitted & _already_acknowledged(flow, stream, acks)

    more = extra_packets(packets, mtu)
    frame_headers = ETHER_HEADER + packets["headers"]
    wire_bytes = packets["wire_bytes"] + more * frame_headers
    payload = packets["payload"].astype(np.int64)
    size = int(payload.sum())

    first_ns = int(packets["time_ns"][0])
    last_ns = int(packets["time_ns"][-1])
    throughput_bps = None
    if last_ns > first_ns:
        throughput_bps = size * 8e9 / (last_ns - first_ns)

    return {
        "records": len(packets),
        "packets": len(packets) + int(more.sum()),
        "payload_bytes": size,
        "wire_bytes": int(wire_bytes.sum()),
        "retransmissions": int(stream.retransmitted.sum()),
        "retransmitted_bytes": int(payload[stream.retransmitted].sum()),
        "spurious_retransmissions": int(is_spurious.sum()),
        "out_of_order": int(stream.reordered.sum()),
        "unseen_bytes": stream.unseen_bytes,
        "first_ns": first_ns,
        "last_ns": last_ns,
        "throughput_bps": throughput_bps,
        **_round_trips(flow, stream, acks),
        **_in_flight(flow, stream, acks, mtu),
    }


def _unwrap(numbers: NDArray[np.uint32], origin: int) -> Ints:
    """Return wrapping 32-bit sequence numbers as bytes from `origin`; shape (n,).

    Neighbouring numbers must differ by less than 2^31.
    """
    if not len(numbers):
        return np.empty(0, np.int64)
    steps = np.diff(numbers, prepend=np.uint32(origin)).view(np.int32)
    return np.cumsum(steps, dtype=np.int64)


def _meets_closed_window(flow: Flow, acks: Acknowledgements) -> Bools:
    """Return the packets before which the receiver last advertised a window of 0, shape (n,)."""
    last = np.searchsorted(acks.rows, flow.rows) - 1
    windows = np.r_[acks.packets["window"], 1]  # the last for packets before any acknowledgement
    is_reset = np.r_[acks.packets["flags"] & RST > 0, False]
    closed: Bools = (windows[last] == 0) & ~is_reset[last]
    return closed


def _already_acknowledged(flow: Flow, stream: Stream, acks: Acknowledgements) -> Bools:
    """Return the packets with data that the receiver had acknowledged entirely, shape (n,)."""
    last = np.searchsorted(acks.rows, flow.rows) - 1
    tops = np.r_[acks.top, stream.begin[0]]  # the last for packets before any acknowledgement
    known: Bools = (flow.packets["payload"] > 0) & (stream.end <= tops[last])
    return known


def _stream(packets: Packets, meets_closed_window: Bools) -> Stream:
    """Return the stream positions of a flow's packets.

    A packet with one new byte that meets a closed window is a probe of the window. Its byte does
    not count as sent, because the sender sends the byte again with others once the window opens.

    Args:
        packets: packets of the flow, dtype `PACKET`, shape (n,).
        meets_closed_window: whether the receiver's window was 0 before each packet, shape (n,).
    """
    flags = packets["flags"]
    is_syn = flags & SYN > 0
    is_fin = flags & FIN > 0
    is_rst = flags & RST > 0
    marks = is_syn.astype(np.int64) + is_fin

    payload = packets["payload"].astype(np.int64)
    length = np.where(is_rst, 0, payload + marks)
    has_data = length > 0

    numbers = packets["seq"]
    begin = _unwrap(numbers, int(numbers[0]))
    end = begin + length
    is_one_byte = (length == 1) & (marks == 0)
    may_probe = is_one_byte & meets_closed_window
    for row in np.flatnonzero(may_probe):
        may_probe[row] = (begin[row + 1 :] == begin[row]).any()

    data_end = np.where(has_data & ~may_probe, end, begin[0])
    top = np.maximum.accumulate(data_end)
    top_before = np.r_[begin[0], top[:-1]]

    is_probe = may_probe & (begin == top_before)
    is_keepalive = is_one_byte & (begin == top_before - 1)
    is_below = has_data & (begin < top_before) & ~is_keepalive
    is_ahead = has_data & (begin > top_before)
    is_growing = ~is_below & ~is_probe & (end > top_before)

    late = _Lateness(packets, np.flatnonzero(is_growing))
    for row in np.flatnonzero(is_below | is_ahead):
        if is_ahead[row]:
            late.jump(int(row), int(top_before[row]), int(begin[row]))
        else:
            late.fill(int(row), int(begin[row]), int(end[row]))

    unseen_bytes = late.holes.total_bytes
    return Stream(begin, end, top, late.retransmitted, late.reordered, unseen_bytes)


class _Lateness:
    """Distinguishes retransmitted packets from late packets; see `_Holes.fill`.

    Attributes:
        retransmitted: bool, shape (n,).
        reordered: bool, shape (n,).
        holes: the remaining holes.
    """

    def __init__(self, packets: Packets, growing: Ints) -> None:
        """Create the state before the first packet.

        Args:
            packets: packets of the flow, shape (n,).
            growing: rows of the packets with new bytes, ascending.
        """
        self.retransmitted = np.zeros(len(packets), bool)
        self.reordered = np.zeros(len(packets), bool)
        self.holes = _Holes()
        self._times_ns = packets["time_ns"]
        self._ip_ids = packets["ip_id"]
        self._growing = growing

    def jump(self, row: int, begin: int, end: int) -> None:
        """Add a hole from byte `begin` to `end`, where the packet at `row` begins."""
        position = int(np.searchsorted(self._growing, row))
        previous_position = max(position - 1, 0)
        previous = self._growing[previous_position]
        id_before = int(self._ip_ids[previous])
        id_after = int(self._ip_ids[row])
        time_ns = int(self._times_ns[row])
        hole = _Hole(begin, end, (id_before, id_after), time_ns)
        self.holes.append(hole)

    def fill(self, row: int, begin: int, end: int) -> None:
        """Classify the packet at `row`, with bytes from `begin` to `end` below the highest byte."""
        time_ns = int(self._times_ns[row])
        ip_id = int(self._ip_ids[row])
        came_late = self.holes.fill(begin, end, time_ns, ip_id)
        if came_late:
            self.reordered[row] = True
        else:
            self.retransmitted[row] = True


@dataclass(frozen=True)
class _Hole:
    """A range of bytes that were not seen.

    Attributes:
        begin: first byte of the hole.
        end: the byte after the last byte of the hole.
        ids: IP identifications of the packets before and after the hole.
        time_ns: time at which the hole appeared.
    """

    begin: int
    end: int
    ids: tuple[int, int]
    time_ns: int

    def explains(self, time_ns: int, ip_id: int) -> bool:
        """Return whether a packet was sent in the order of the hole and then overtaken."""
        before, after = self.ids
        if before == after:
            return time_ns - self.time_ns < REORDERED_NS
        return 0 < (ip_id - before) % 2**16 < (after - before) % 2**16


class _Holes:
    """The holes of a stream, in ascending order."""

    def __init__(self) -> None:
        self._holes: list[_Hole] = []

    @property
    def total_bytes(self) -> int:
        return sum(hole.end - hole.begin for hole in self._holes)

    def append(self, hole: _Hole) -> None:
        self._holes.append(hole)

    def fill(self, begin: int, end: int, time_ns: int, ip_id: int) -> bool:
        """Remove the bytes of a packet below the highest byte from the holes.

        Bytes seen before are retransmitted. A packet that fills a hole is late if the packet's IP
        identification lies between the identifications of the packets on both sides of the hole;
        otherwise the packet is a retransmission (the first copy was lost before the capture).

        Args:
            begin: the packet's first byte.
            end: the byte after the packet's last byte.
            time_ns: time of the packet in ns.
            ip_id: the packet's IP identification.

        Returns:
            Whether the packet is late.
        """
        first = bisect_right(self._holes, begin, key=lambda hole: hole.end)
        last = bisect_left(self._holes, end, key=lambda hole: hole.begin)
        touched = self._holes[first:last]

        came_late = False
        if len(touched) == 1:
            (hole,) = touched
            lies_inside = hole.begin <= begin and end <= hole.end
            came_late = lies_inside and hole.explains(time_ns, ip_id)

        remaining: list[_Hole] = []
        for hole in touched:
            if hole.begin < begin:
                remaining.append(replace(hole, end=min(begin, hole.end)))
            if end < hole.end:
                remaining.append(replace(hole, begin=max(end, hole.begin)))

        self._holes[first:last] = remaining
        return came_late


def _round_trips(flow: Flow, stream: Stream, acks: Acknowledgements) -> Row:
    """Return round-trip times from packets to the acknowledgements of the packets' last bytes.

    An acknowledgement counts if no earlier packet acknowledged the same byte and no acknowledged
    byte was sent twice. Otherwise the acknowledgement could answer either copy (Karn's rule) or
    have waited for a copy.

    Returns:
        The columns rtt_*.
    """
    has_new_bytes = stream.end > stream.top_before
    is_fresh = has_new_bytes & ~stream.retransmitted & ~stream.reordered
    fresh = np.flatnonzero(is_fresh)
    if not len(fresh) or not len(acks.byte):
        return {"rtt_samples": 0, **spread("rtt", NO_ROWS)}

    ends = stream.end[fresh]
    found = np.searchsorted(ends, acks.byte)
    position = np.minimum(found, len(fresh) - 1)
    acked_before = np.r_[0, acks.top[:-1]]
    is_first = acks.byte > acked_before
    matches = ends[position] == acks.byte
    is_ambiguous = _sent_twice(stream, acked_before, acks.byte)
    usable = is_first & matches & ~is_ambiguous

    rows = fresh[position[usable]]
    sent_ns = flow.packets["time_ns"][rows]
    answered_ns = acks.packets["time_ns"][usable]
    rtt_ns = answered_ns - sent_ns

    return {"rtt_samples": len(rtt_ns), **spread("rtt", rtt_ns)}


def _sent_twice(stream: Stream, begin: Ints, end: Ints) -> Bools:
    """Return which stretches of bytes contain a byte that was sent twice.

    Args:
        stream: the flow's stream.
        begin: first byte of each stretch, shape (k,).
        end: the byte after each stretch's last byte, shape (k,).

    Returns:
        Booleans, shape (k,).
    """
    twice = np.flatnonzero(stream.retransmitted)
    order = np.argsort(stream.begin[twice])
    ordered = twice[order]
    starts = np.r_[stream.begin[ordered], np.iinfo(np.int64).max]
    ends = np.maximum.accumulate(stream.end[ordered])

    position = np.searchsorted(ends, begin, side="right")
    touched: Bools = starts[position] < end
    return touched


def spread(name: str, values: Ints) -> Row:
    """Return the columns `name`_min_ns, _median_ns and _p95_ns of values in ns; None if empty."""
    columns: dict[str, int | float | str | None] = {}
    for quantile in QUANTILES:
        columns[f"{name}_{quantile}_ns"] = None

    if not len(values):
        return columns

    numbers = np.quantile(values, list(QUANTILES.values()))
    for column, number in zip(columns, numbers, strict=True):
        columns[column] = round(number)

    return columns


def _in_flight(flow: Flow, stream: Stream, acks: Acknowledgements, mtu: int) -> Row:
    """Return bytes in flight, the receiver's window and the limiting factor, weighted by time.

    Returns:
        The columns `IN_FLIGHT_COLUMNS`; None where unknown.
    """
    columns: dict[str, int | float | str | None] = dict.fromkeys(IN_FLIGHT_COLUMNS)
    if not len(acks.byte):
        return columns

    events = _Events.of(flow, acks)
    duration_ns = int(events.step_ns.sum())
    if not duration_ns:
        return columns

    sent = _latest(stream.top, events.order, 0)
    acked = _latest(acks.top, events.ack_positions, 0)
    flight = np.maximum(sent - acked, 0)
    weighted_bytes = (flight[:-1] * events.step_ns).sum()
    columns["in_flight_max_bytes"] = int(flight.max())
    columns["in_flight_mean_bytes"] = float(weighted_bytes / duration_ns)
    columns["duration_ns"] = duration_ns

    windows = _windows(flow, acks)
    if windows is None:
        is_idle = flight[:-1] == 0
        columns["idle_share"] = events.share(is_idle)
        return columns

    window = _latest(windows, events.ack_positions, int(windows[0]))
    segment = _segment_bytes(flow, mtu)
    columns |= _shares(flow, stream, events, flight, window, segment)

    is_open = acks.packets["flags"] & (SYN | RST) == 0
    open_windows = windows[is_open]
    if len(open_windows):
        columns["window_min_bytes"] = int(open_windows.min())
        columns["window_max_bytes"] = int(open_windows.max())

    return columns


@dataclass(frozen=True)
class _Events:
    """The n packets of a flow and the m acknowledgements together, in the order of the capture.

    Attributes:
        order: number of each event, shape (n + m,): packets below n, acknowledgements from n on.
        ack_positions: number of each acknowledgement, shape (n + m,); negative for packets.
        step_ns: time from each event to the next, shape (n + m - 1,).
    """

    order: Ints
    ack_positions: Ints
    step_ns: Ints

    @classmethod
    def of(cls, flow: Flow, acks: Acknowledgements) -> _Events:
        """Merge the packets and the acknowledgements of a flow."""
        rows = np.concatenate([flow.rows, acks.rows])
        order = np.argsort(rows, kind="stable")
        ack_positions = order - len(flow.rows)
        times_ns = np.concatenate([flow.packets["time_ns"], acks.packets["time_ns"]])
        ordered_times_ns = times_ns[order]
        return cls(order, ack_positions, np.diff(ordered_times_ns))

    def share(self, steps: Bools) -> float:
        """Return the share of the time that some steps, shape (n + m - 1,), take."""
        steps_ns = self.step_ns[steps].sum()
        duration_ns = int(self.step_ns.sum())
        return float(steps_ns / duration_ns)


def _shares(
    flow: Flow, stream: Stream, events: _Events, flight: Ints, window: Ints, segment: int
) -> Row:
    """Return the shares of the time by what the sender waits for.

    Args:
        flow: the flow.
        stream: the flow's stream.
        events: the packets and acknowledgements, k in all.
        flight: bytes in flight after each event, shape (k,).
        window: the receiver's window in bytes after each event, shape (k,).
        segment: payload in bytes of the largest packets.

    Returns:
        The columns idle_share, window_limited_share and network_limited_share.
    """
    flight_in_step = flight[:-1]
    window_in_step = window[:-1]
    is_idle = flight_in_step == 0
    has_no_room = flight_in_step + segment > window_in_step
    is_full = ~is_idle & has_no_room
    is_closed = is_idle & (window_in_step < segment)
    is_held = _held_by_closed_window(flow, stream, events.order, events.step_ns, is_closed)

    idle_share = events.share(is_idle & ~is_held)
    full_share = events.share(is_full | is_held)
    other_share = 1 - (idle_share + full_share)
    return {
        "idle_share": idle_share,
        "window_limited_share": full_share,
        "network_limited_share": max(other_share, 0.0),
    }


def _held_by_closed_window(
    flow: Flow, stream: Stream, order: Ints, step_ns: Ints, is_closed: Bools
) -> Bools:
    """Return the steps in which the sender had data but the receiver's window was closed.

    The sender probes a closed window, with a packet without data whose number is one before the
    next byte, or sends data soon after the window opens: within the time that the window was
    closed. A sender that does neither has nothing to send.

    Args:
        flow: the flow.
        stream: the flow's stream.
        order: the packets (positions below n) and acknowledgements (from n on), shape (k,).
        step_ns: time from each of them to the next, shape (k - 1,).
        is_closed: the steps in which nothing is in flight and the window has no room for a segment,
            shape (k - 1,).

    Returns:
        Shape (k - 1,).
    """
    packets = flow.packets
    is_plain = packets["flags"] & (SYN | FIN | RST) == 0
    has_data = packets["payload"] > 0
    is_probe = is_plain & ~has_data & (stream.begin == stream.top - 1)
    held = np.zeros(len(is_closed), bool)

    time_ns = np.r_[0, np.cumsum(step_ns)]
    is_packet = order < len(packets)
    framed = np.r_[False, is_closed, False]
    edges = np.flatnonzero(np.diff(framed))
    for begin, end in edges.reshape(-1, 2):
        inside = slice(begin + 1, end + 1)
        packets_inside = order[inside][is_packet[inside]]
        if is_probe[packets_inside].any():
            held[begin:end] = True
            continue

        packets_later = np.flatnonzero(is_packet[end:])
        if not len(packets_later):
            continue
        later = end + packets_later[0]
        closed_ns = time_ns[end] - time_ns[begin]
        is_soon = time_ns[later] - time_ns[end] <= closed_ns
        held[begin:end] = is_soon and has_data[order[later]]

    return held


def _segment_bytes(flow: Flow, mtu: int) -> int:
    """Return the payload in bytes of the flow's largest packets."""
    most_payload = int(flow.packets["payload"].max()) or 1
    headers = int(np.median(flow.packets["headers"]))
    return min(most_payload, mtu - headers)


def _latest(values: Ints, positions: Ints, initial: int) -> Ints:
    """Return the latest value at each event.

    Args:
        values: shape (n,), n > 0.
        positions: position of each event's value, shape (k,); out of range if the event has none.
        initial: the value before the first event.

    Returns:
        Shape (k,).
    """
    has_value = (positions >= 0) & (positions < len(values))
    event_numbers = np.arange(len(positions))
    numbers_with_value = np.where(has_value, event_numbers, -1)
    latest_event = np.maximum.accumulate(numbers_with_value)

    is_before_first = latest_event < 0
    latest_position = np.where(is_before_first, 0, positions[latest_event])
    latest_value = values[latest_position]

    return np.where(is_before_first, initial, latest_value)


def _windows(flow: Flow, acks: Acknowledgements) -> Ints | None:
    """Return the receiver's window in bytes at each acknowledgement, shape (k,).

    The result is None if the capture lacks the handshake, which carries the window scales.
    """
    scales: list[int] = []
    for packets in (flow.back, flow.packets):
        is_syn = packets["flags"] & SYN > 0
        of_syns = packets["scale"][is_syn]
        if not len(of_syns) or of_syns[0] == UNKNOWN:
            return None

        scales.append(int(of_syns[0]))

    scale = 0 if NO_SCALE in scales else scales[0]
    is_syn = acks.packets["flags"] & SYN > 0
    shift = np.where(is_syn, 0, scale)
    windows = acks.packets["window"].astype(np.int64)

    return windows << shift
