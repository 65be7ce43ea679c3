"""What a capture says about each TCP flow: one direction of a connection. docs/captures.md defines
the figures.

Everything is seen from where the flow was captured: the round trip is that from there to the
receiver and back, what is in flight is what has passed and has not been acknowledged.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
# without IP identifications: a hole that is filled sooner was reordering (Wireshark's figure)
REORDERED_NS = 3_000_000

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Flow:
    """The packets of a flow, and those of the other direction, in the order of the capture.

    `rows` and `back_rows` are the positions of the packets in the capture.
    """

    packets: Packets
    back: Packets
    rows: Ints
    back_rows: Ints


@dataclass(frozen=True)
class Sent:
    """What each packet of a flow adds to the stream; bytes are counted from the flow's first."""

    begin: Ints
    end: Ints
    top: Ints  # the highest end so far, with this packet
    again: Bools  # retransmissions
    reordered: Bools
    holes: int  # bytes that were never seen


def flows(trace: Trace, mac: str) -> Iterator[Flow]:
    """The flows that the interface with address `mac` sends, in the order of their first packets.

    A connection that is opened anew with the same ports is another flow.
    """
    packets = trace.packets
    tcp = packets["headers"] > 0
    out = packets["mac"] == mac_number(mac)
    forth, back = endpoints(packets), endpoints(packets, reverse=True)
    sent, received = (
        _by_key(forth, np.flatnonzero(tcp & out)),
        _by_key(back, np.flatnonzero(tcp & ~out)),
    )
    nothing = np.empty(0, np.int64)
    for key in sorted(sent, key=lambda key: int(sent[key][0])):
        rows, back_rows = sent[key], received.get(key, nothing)
        cuts = _openings(packets, rows, back_rows)
        for begin, end in zip([0, *cuts], [*cuts, len(packets)], strict=True):
            mine, others = (r[(r >= begin) & (r < end)] for r in (rows, back_rows))
            if len(mine):
                yield Flow(packets[mine], packets[others], mine, others)


def _mixed(*words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of 64 bits for each row of `words` (multipliers of splitmix64)."""
    value = np.zeros(len(words[0]), np.uint64)
    for word in words:
        value = (value ^ word) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(32)
    return value


def endpoints(packets: Packets, *, reverse: bool = False) -> NDArray[np.uint64]:
    """A key of each packet's addresses and ports; with `reverse`, of those of the other
    direction.
    """
    a, b = ("target", "source") if reverse else ("source", "target")
    addresses = packets[a].astype(np.uint64) << np.uint64(32) | packets[b]
    ports = packets[f"{a}_port"].astype(np.uint64) << np.uint64(16) | packets[f"{b}_port"]
    return _mixed(addresses, ports)


def identities(packets: Packets) -> NDArray[np.uint64]:
    """A key that a packet keeps on its way and hardly shares with another one: a copy sent again
    has another IP identification."""
    numbers = packets["seq"].astype(np.uint64) << np.uint64(32) | packets["ack"]
    rest = packets["ip_id"].astype(np.uint64) << np.uint64(32) | packets["ip_bytes"].astype(
        np.uint64
    ) << np.uint64(8)
    return _mixed(endpoints(packets), numbers, rest | packets["flags"])


def _by_key(keys: NDArray[np.uint64], rows: Ints) -> dict[int, Ints]:
    """The `rows` of each key, ascending."""
    if not len(rows):
        return {}
    order = rows[np.argsort(keys[rows], kind="stable")]
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return {
        int(ordered[start]): part
        for start, part in zip(starts, np.split(order, starts[1:]), strict=True)
    }


def _openings(packets: Packets, rows: Ints, back_rows: Ints) -> list[int]:
    """Where connections after the first one begin: SYNs with another sequence number than the
    last.
    """
    both = np.sort(np.concatenate([rows, back_rows]))
    syns = both[(packets["flags"][both] & (SYN | ACK)) == SYN]
    if not len(syns):
        return []
    numbers = packets["seq"][syns]
    known = [int(row) for row in syns[1:][numbers[1:] != numbers[:-1]]]
    return known if syns[0] == both[0] else [int(syns[0]), *known]


def flow_row(flow: Flow, mtu: int) -> Row:
    """The figures of a flow that one capture tells."""
    packets = flow.packets
    sent = _sent(packets)
    more = extra_packets(packets, mtu)
    payload = packets["payload"].astype(np.int64)
    duration = int(packets["time_ns"][-1] - packets["time_ns"][0])
    size = int(payload.sum())
    return {
        "records": len(packets),
        "packets": len(packets) + int(more.sum()),
        "payload_bytes": size,
        "wire_bytes": int(
            (packets["wire_bytes"] + more * (ETHER_HEADER + packets["headers"])).sum()
        ),
        "retransmissions": int(sent.again.sum()),
        "retransmitted_bytes": int(payload[sent.again].sum()),
        "out_of_order": int(sent.reordered.sum()),
        "unseen_bytes": sent.holes,
        "first_ns": int(packets["time_ns"][0]),
        "last_ns": int(packets["time_ns"][-1]),
        "throughput_bps": size * 8e9 / duration if duration else None,
        **_round_trips(flow, sent),
        **_in_flight(flow, sent, mtu),
    }


def _unwrapped(numbers: NDArray[np.uint32], origin: int) -> Ints:
    """32-bit sequence numbers, which wrap, as bytes from `origin`. Neighbours differ by less than
    2^31.
    """
    if not len(numbers):
        return np.empty(0, np.int64)
    steps = np.diff(numbers, prepend=np.uint32(origin)).view(np.int32)
    return np.cumsum(steps, dtype=np.int64)


def _origin(flow: Flow) -> int:
    return int(flow.packets["seq"][0])


def _sent(packets: Packets) -> Sent:
    flags = packets["flags"]
    marks = (flags & SYN > 0).astype(np.int64) + (flags & FIN > 0)
    length = np.where(flags & RST > 0, 0, packets["payload"].astype(np.int64) + marks)
    begin = _unwrapped(packets["seq"], int(packets["seq"][0]))
    end = begin + length
    full = length > 0
    top = np.maximum.accumulate(np.where(full, end, begin[0]))
    before = np.r_[begin[0], top[:-1]]
    keepalive = (length == 1) & (marks == 0) & (begin == before - 1)
    below = full & (begin < before) & ~keepalive
    again, reordered, holes = _classified(
        packets, begin, end, before, below, full & (begin > before)
    )
    return Sent(begin, end, top, again, reordered, holes)


def _classified(
    packets: Packets, begin: Ints, end: Ints, before: Ints, below: Bools, ahead: Bools
) -> tuple[Bools, Bools, int]:
    """Which packets of those `below` the highest byte are retransmissions and which came late;
    bytes never seen.

    What was seen before is sent again. What fills a hole came late if its IP identification lies
    between those of the packets on both sides of the hole, and is sent again (the first was lost
    before the capture) if not.
    """
    again, reordered = np.zeros(len(begin), bool), np.zeros(len(begin), bool)
    holes: list[_Hole] = []  # ascending
    growing = np.flatnonzero(~below & (end > before))
    for row in np.flatnonzero(below | ahead):
        if ahead[row]:
            previous = growing[max(int(np.searchsorted(growing, row)) - 1, 0)]
            ids = int(packets["ip_id"][previous]), int(packets["ip_id"][row])
            holes.append(
                _Hole(int(before[row]), int(begin[row]), ids, int(packets["time_ns"][row]))
            )
            continue
        a, b = int(begin[row]), int(end[row])
        first = bisect_right(holes, a, key=lambda hole: hole.end)
        last = bisect_left(holes, b, key=lambda hole: hole.begin)
        hit = holes[first:last]
        late = (
            len(hit) == 1
            and hit[0].begin <= a
            and b <= hit[0].end
            and hit[0].explains(packets[row])
        )
        (reordered if late else again)[row] = True
        edges = [(hole, hole.begin, min(a, hole.end)) for hole in hit] + [
            (h, max(b, h.begin), h.end) for h in hit
        ]
        holes[first:last] = [_Hole(c, d, hole.ids, hole.time_ns) for hole, c, d in edges if c < d]
    return again, reordered, sum(hole.end - hole.begin for hole in holes)


@dataclass(frozen=True)
class _Hole:
    """Bytes that were not seen: the IP identifications of the packets before and after, and when it
    appeared.
    """

    begin: int
    end: int
    ids: tuple[int, int]
    time_ns: int

    def explains(self, packet: Any) -> bool:
        """Whether `packet` was sent where the hole is, and was overtaken."""
        before, after = self.ids
        if before == after:
            return int(packet["time_ns"]) - self.time_ns < REORDERED_NS
        return 0 < (int(packet["ip_id"]) - before) % 2**16 < (after - before) % 2**16


def _acknowledged(flow: Flow) -> tuple[Bools, Ints, Ints]:
    """Which packets of the other direction have an acknowledgement, its byte, and the highest until
    then.
    """
    valid = flow.back["flags"] & ACK > 0
    byte = _unwrapped(flow.back["ack"][valid], _origin(flow))
    return valid, byte, np.maximum.accumulate(byte) if len(byte) else byte


def _round_trips(flow: Flow, sent: Sent) -> Row:
    """From a packet to the acknowledgement that ends where the packet ends.

    An acknowledgement counts if it is the first for its byte and covers nothing that was sent
    twice, for then it is not known which copy it answers (Karn's rule), nor whether it waited for a
    copy.
    """
    valid, byte, top = _acknowledged(flow)
    before = np.r_[0, top[:-1]] if len(top) else top
    fresh = np.flatnonzero((sent.end > np.r_[0, sent.top[:-1]]) & ~sent.again & ~sent.reordered)
    if not len(fresh) or not len(byte):
        return dict.fromkeys(("rtt_min_ns", "rtt_median_ns", "rtt_p95_ns"), None) | {
            "rtt_samples": 0
        }
    place = np.minimum(np.searchsorted(sent.end[fresh], byte), len(fresh) - 1)
    usable = (byte > before) & (sent.end[fresh[place]] == byte) & ~_touched(sent, before, byte)
    rtt = flow.back["time_ns"][valid][usable] - flow.packets["time_ns"][fresh[place[usable]]]
    return {"rtt_samples": len(rtt), **spread("rtt", rtt)}


def _touched(sent: Sent, begin: Ints, end: Ints) -> Bools:
    """Which of the stretches from `begin` to `end` hold a byte that was sent twice."""
    twice = np.flatnonzero(sent.again)
    order = np.argsort(sent.begin[twice])
    starts, ends = sent.begin[twice][order], np.maximum.accumulate(sent.end[twice][order])
    place = np.searchsorted(ends, begin, side="right")
    touched: Bools = (place < len(twice)) & (np.r_[starts, np.iinfo(np.int64).max][place] < end)
    return touched


def spread(name: str, values: Ints) -> Row:
    """``<name>_min_ns``, ``_median_ns`` and ``_p95_ns`` of `values`, in whole ns; None without
    any.
    """
    quantiles = np.quantile(values, [0, 0.5, 0.95]) if len(values) else [None] * 3
    keys = (f"{name}_{which}_ns" for which in ("min", "median", "p95"))
    return {
        key: None if value is None else round(value)
        for key, value in zip(keys, quantiles, strict=True)
    }


def _in_flight(flow: Flow, sent: Sent, mtu: int) -> Row:
    """Bytes in flight, the receiver's window, and what the flow waited for, over its time."""
    valid, _byte, acked = _acknowledged(flow)
    none = dict.fromkeys(
        (
            "in_flight_max_bytes",
            "in_flight_mean_bytes",
            "window_min_bytes",
            "window_max_bytes",
            "duration_ns",
            "idle_share",
            "window_limited_share",
            "network_limited_share",
        )
    )
    if not valid.any():
        return none
    order = np.argsort(np.concatenate([flow.rows, flow.back_rows[valid]]), kind="stable")
    time_ns = np.concatenate([flow.packets["time_ns"], flow.back["time_ns"][valid]])[order]
    top = _latest(sent.top, order, 0)
    answered = _latest(acked, order - len(flow.rows), 0)
    flight = np.maximum(top - answered, 0)
    step = np.diff(time_ns)
    duration = int(step.sum())
    if not duration:
        return none
    share = {"idle_share": float(step[flight[:-1] == 0].sum() / duration)}
    window = _windows(flow, valid)
    row = {
        "in_flight_max_bytes": int(flight.max()),
        "in_flight_mean_bytes": float((flight[:-1] * step).sum() / duration),
        "duration_ns": duration,
    }
    if window is None:
        return none | row | share
    segment = min(
        int(flow.packets["payload"].max()) or 1, mtu - int(np.median(flow.packets["headers"]))
    )
    full = (flight > 0) & (
        flight + segment > _latest(window, order - len(flow.rows), int(window[0]))
    )
    share["window_limited_share"] = float(step[full[:-1]].sum() / duration)
    share["network_limited_share"] = max(1 - sum(share.values()), 0.0)
    open_windows = window[flow.back["flags"][valid] & (SYN | RST) == 0]
    bounds = (
        (int(open_windows.min()), int(open_windows.max())) if len(open_windows) else (None, None)
    )
    return (
        none
        | row
        | share
        | dict(zip(("window_min_bytes", "window_max_bytes"), bounds, strict=True))
    )


def _latest(values: Ints, places: Ints, first: int) -> Ints:
    """`values[place]` for each place that is one, and elsewhere the latest before it (`first` until
    there is one).
    """
    mine = (places >= 0) & (places < len(values))
    latest = np.maximum.accumulate(np.where(mine, np.arange(len(places)), -1))
    return np.where(latest < 0, first, values[places[np.maximum(latest, 0)] % len(values)])


def _windows(flow: Flow, valid: Bools) -> Ints | None:
    """The window of each acknowledgement in bytes; None if the capture lacks the handshake, which
    tells the scale.
    """
    scales = [part["scale"][part["flags"] & SYN > 0] for part in (flow.back, flow.packets)]
    if not all(len(scale) and scale[0] != UNKNOWN for scale in scales):
        return None
    shift = 0 if any(scale[0] == NO_SCALE for scale in scales) else int(scales[0][0])
    syn = flow.back["flags"][valid] & SYN > 0
    return flow.back["window"][valid].astype(np.int64) << np.where(syn, 0, shift)
