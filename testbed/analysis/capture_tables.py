"""The tables that a run's packet captures give: flows, their throughput over time, and which
operations they carried.

docs/captures.md defines every column. Captures are read once each into a temporary file; then one
interface after another is looked at, with about 300 bytes of memory for each record of its capture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from testbed.analysis.packets import Packets, Totals, Trace, mac_number, read_trace, totals
from testbed.analysis.tcp_flows import Flow, Ints, endpoints, flow_row, flows, identities, spread
from testbed.measure.capture import counted, finish
from testbed.plan.captures import CapturePoint, capture_points
from testbed.plan.model import Network, Plan
from testbed.runfolder import schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.summary import CaptureRow

BIN_NS = 10_000_000  # of throughput.parquet
NEVER = np.iinfo(np.int64).min

Row = dict[str, Any]

OPERATION = ["op", "bytes", "group_size", "iteration", "phase", "group"]


@dataclass
class Captured:
    """What the captures of a run say.

    `points`: {"capture", "records", "removed_records", "dropped", "truncated"} of each. `sent`:
    totals of what the router of a datacenter sent into a WAN link, by link and datacenter; without
    its own capture, of what arrived.
    """

    flows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=schemas.FLOWS))
    throughput: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema=schemas.THROUGHPUT)
    )
    operations: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=schemas.FLOW_OPS))
    points: list[CaptureRow] = field(default_factory=list)
    sent: dict[tuple[str, str], Totals] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_captures(run: RunDir, plan: Plan, ops: pl.DataFrame, scratch: Path) -> Captured:
    """The tables of a run's captures; `ops` has the columns of ops.parquet, `scratch` is a folder
    for a while.
    """
    rows: list[Row] = []
    bins: list[pl.DataFrame] = []
    parts: list[pl.DataFrame] = []
    captured = Captured()
    hosts = {int(host.address.ip): host.name for host in plan.network.hosts}
    traces = _traces(run, plan, scratch, captured)
    operations = _Operations(ops)
    for view in _views(plan, traces):
        captured.sent |= _sent(view, plan.network.mtu)
        if view.near is None:
            continue
        seen = _Seen.of(view, view.near)
        for flow in flows(view.near, view.mac):
            number = len(rows)
            place = _place(flow, view, hosts, plan)
            rows.append(
                {"flow": number, **place, **flow_row(flow, plan.network.mtu), **seen.row(flow)}
            )
            bins.append(_bins(flow, number))
            pair = (place["src_host"], place["dst_host"])
            parts.append(operations.carried(pair, flow, seen, number))
    if rows:
        captured.flows = pl.DataFrame(
            [{key: row[key] for key in schemas.FLOWS} for row in rows], schema=schemas.FLOWS
        )
        captured.throughput = pl.concat(bins)
        captured.operations = pl.concat(parts)
    return captured


def _traces(
    run: RunDir, plan: Plan, scratch: Path, captured: Captured
) -> dict[CapturePoint, Trace]:
    """Every capture that can be read, kept below `scratch`; what is wrong with each becomes a point
    and a problem.
    """
    traces = {}
    for number, point in enumerate(capture_points(plan.network, plan.capture)):
        path = run.capture(point.what, point.at)
        try:
            finish(path, point.mac, plan.capturing)
            traces[point] = trace = read_trace(path, scratch / str(number))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            captured.problems.append(_problem(path, f"cannot be read: {reason}"))
            continue
        written, dropped = counted(path) or (0, 0)
        removed = 0 if trace.truncated else max(written - len(trace.packets), 0)
        row = CaptureRow(
            capture=path.name,
            records=len(trace.packets),
            removed_records=removed,
            dropped=dropped,
            truncated=trace.truncated,
        )
        captured.points.append(row)
        captured.problems += [_problem(path, gap) for gap in _gaps(row)]
    return traces


def _problem(capture: Path, text: str) -> Problem:
    return Problem(code=ProblemCode.CAPTURE, message=f"captures/{capture.name} {text}")


def _gaps(row: CaptureRow) -> Iterator[str]:
    if row.truncated:
        yield "is cut short: its figures are those of the readable part"
    if row.removed_records:
        removed = f"{row.removed_records} packets went beyond its limit"
        yield f"was cut: {removed} (raise --capture-limit)"
    if row.dropped:
        yield f"lacks {row.dropped} packets, for which the kernel's buffer had no room"


@dataclass(frozen=True)
class _View:
    """An interface whose flows are looked at, and the captures before and behind it on the way."""

    point: CapturePoint
    link: str
    from_dc: str
    to_dc: str | None  # None: that of the receiver
    mac: str
    near: Trace | None
    entries: tuple[
        Packets, ...
    ]  # what came into the router, to be sent by this interface or another
    arrivals: tuple[Packets, ...]  # what came out at the other end
    whole: bool  # nothing is missing in any of these


def _views(plan: Plan, traces: dict[CapturePoint, Trace]) -> Iterator[_View]:
    points = {(point.what, point.at): point for point in capture_points(plan.network, plan.capture)}
    for point in points.values():
        if point.kind == "wan":
            yield _wan_view(plan.network, point, points, traces)
    nics = [point for point in points.values() if point.kind == "nic"]
    received = [traces[point].others(point.mac) for point in nics if point in traces]
    arrivals = (np.concatenate(received),) if received else ()
    whole = len(received) == len(nics) and not any(traces[nic].truncated for nic in nics)
    for point in nics:
        dc = plan.network.host(point.at).dc
        yield _View(point, "nic", dc, None, point.mac, traces.get(point), (), arrivals, whole)


def _wan_view(
    network: Network,
    point: CapturePoint,
    points: dict[tuple[str, str], CapturePoint],
    traces: dict[CapturePoint, Trace],
) -> _View:
    link = next(link for link in network.wan if link.key == point.what)
    way, other = link.directions if link.forward.source == point.at else link.directions[::-1]
    far = points[link.key, way.target]
    feeders = [
        p
        for p in points.values()
        if p.at == point.at and (p.kind == "lan" or (p.kind == "wan" and p != point))
    ]
    if not _carries_transit(network, point.at):
        feeders = [feeder for feeder in feeders if feeder.kind == "lan"]
    used = [point, far, *feeders]
    whole = all(p in traces and not traces[p].truncated for p in used)
    arrivals = (traces[far].others(other.mac),) if far in traces else ()
    entries = tuple(traces[p].others(p.mac) for p in feeders if p in traces)
    return _View(
        point,
        link.key,
        way.source,
        way.target,
        way.mac,
        traces.get(point),
        entries,
        arrivals,
        whole,
    )


def _carries_transit(network: Network, dc: str) -> bool:
    """Whether packets between other datacenters cross the router of `dc`."""
    names = [center.name for center in network.datacenters]
    states = network.extremes(rate=min, delay=min)  # all the routes that there ever are
    ways = (
        path
        for state in states
        for a in names
        for b in names
        if a != b
        for path in state.paths(a, b)
    )
    return any(step.source == dc for path in ways for step in path[1:])


def _sent(view: _View, mtu: int) -> dict[tuple[str, str], Totals]:
    if view.point.kind != "wan":
        return {}
    if view.near is not None:
        return {(view.link, view.from_dc): totals(view.near.sent_by(view.mac), mtu)}
    if not view.arrivals:
        return {}
    (arrived,) = view.arrivals
    return {(view.link, view.from_dc): totals(arrived, mtu)}


@dataclass(frozen=True)
class _Seen:
    """When each packet of a capture was seen before and behind it (`NEVER`), in ns."""

    view: _View
    entered: Ints
    arrived: Ints
    unsent: dict[int, Ints]  # by endpoints: when packets came in that never left

    @classmethod
    def of(cls, view: _View, near: Trace) -> _Seen:
        """Match the captures of `view`."""
        sent = np.flatnonzero(
            (near.packets["mac"] == mac_number(view.mac)) & (near.packets["headers"] > 0)
        )
        mine = near.packets[sent]
        entered, arrived = np.full(len(near.packets), NEVER), np.full(len(near.packets), NEVER)
        unsent: dict[int, list[Ints]] = {}
        for packets in view.entries:
            tcp = packets[packets["headers"] > 0]
            left = _earlier(mine, tcp)
            entered[sent] = np.maximum(entered[sent], np.where(left >= 0, _times(tcp, left), NEVER))
            stayed = np.ones(len(tcp), bool)
            stayed[left[left >= 0]] = False
            for key, time_ns in zip(endpoints(tcp[stayed]), tcp["time_ns"][stayed], strict=True):
                unsent.setdefault(int(key), []).append(time_ns)
        for packets in view.arrivals:
            tcp = packets[packets["headers"] > 0]
            origin = _earlier(tcp, mine)
            known = np.flatnonzero(origin >= 0)[::-1]  # the first copy is written last
            arrived[sent[origin[known]]] = tcp["time_ns"][known]
        return cls(view, entered, arrived, {key: np.array(times) for key, times in unsent.items()})

    def row(self, flow: Flow) -> Row:
        """Delays and losses of a flow."""
        arrived, entered = self.arrived[flow.rows], self.entered[flow.rows]
        start = entered if self.view.entries else flow.packets["time_ns"]
        there, back = arrived != NEVER, start != NEVER
        delay = (arrived - start)[there & back]
        waited = (flow.packets["time_ns"] - entered)[entered != NEVER]
        found = spread("delay", delay) | spread("bottleneck", waited)
        found |= spread("queueing", delay - delay.min() if len(delay) else delay)
        stayed = self.unsent.get(int(endpoints(flow.packets[:1])[0]), np.empty(0, np.int64))
        first, last = flow.packets["time_ns"][0], flow.packets["time_ns"][-1]
        first = first if entered[0] == NEVER else entered[0]
        counts = {
            "dropped": int(((stayed >= first) & (stayed <= last)).sum()),
            "lost": int((~there).sum()),
        }
        return found | (counts if self.view.whole else dict.fromkeys(counts))


def _times(packets: Packets, rows: Ints) -> Ints:
    return packets["time_ns"][np.maximum(rows, 0)] if len(packets) else np.full(len(rows), NEVER)


def _earlier(packets: Packets, others: Packets) -> Ints:
    """For each of `packets`, the position of the same packet in `others`: the last that is not
    later; -1 if none.
    """
    columns = [
        {"time": p["time_ns"], "key": identities(p), "row": np.arange(len(p))}
        for p in (packets, others)
    ]
    left, right = (pl.DataFrame(column).sort("time", maintain_order=True) for column in columns)
    met = left.join_asof(
        right.rename({"row": "other"}),
        on="time",
        by="key",
        strategy="backward",
        check_sortedness=False,
    ).sort("row")
    return met["other"].fill_null(-1).to_numpy().astype(np.int64)


def _place(flow: Flow, view: _View, hosts: dict[int, str], plan: Plan) -> Row:
    first = flow.packets[0]
    row: Row = {"link": view.link, "from_dc": view.from_dc}
    names = {"src": hosts.get(int(first["source"])), "dst": hosts.get(int(first["target"]))}
    for end, name, address, port in (
        ("src", names["src"], first["source"], first["source_port"]),
        ("dst", names["dst"], first["target"], first["target_port"]),
    ):
        ranks = [rank.rank for rank in plan.workers.ranks if rank.host == name]
        row |= {
            f"{end}_host": name,
            f"{end}_rank": ranks[0] if len(ranks) == 1 else None,
            f"{end}_address": str(IPv4Address(int(address))),
            f"{end}_port": int(port),
        }
    to = names["dst"]
    row["to_dc"] = view.to_dc or (plan.network.host(to).dc if to else None)
    return row


def _bins(flow: Flow, number: int) -> pl.DataFrame:
    """Rows of throughput.parquet."""
    packets = flow.packets
    table = pl.DataFrame(
        {
            "time_ns": packets["time_ns"] // BIN_NS * BIN_NS,
            "payload_bytes": packets["payload"].astype(np.int64),
            "wire_bytes": packets["wire_bytes"].astype(np.int64),
        }
    )
    grouped = table.group_by("time_ns", maintain_order=True).agg(
        pl.col("*").sum(), packets=pl.len()
    )
    return grouped.select(
        flow=pl.lit(number),
        time_ns="time_ns",
        bin_ns=pl.lit(BIN_NS),
        packets="packets",
        payload_bytes="payload_bytes",
        wire_bytes="wire_bytes",
    ).cast(pl.Schema(schemas.THROUGHPUT))


class _Operations:
    """Which operation a packet belongs to.

    It is the first operation to end at the receiving host after the packet has arrived there, among
    those that the sending host had begun when it was sent. Sends and receives of a script are not
    told apart.
    """

    def __init__(self, ops: pl.DataFrame) -> None:
        collective = ops.filter(~pl.col("op").is_in(["send", "recv"]))
        self._ops = collective.with_columns(
            repeat=pl.int_range(pl.len()).over([*OPERATION, "dtype", "rank"])
        )
        self._of_pair: dict[tuple[str | None, str | None], pl.DataFrame] = {}

    def _between(self, pair: tuple[str | None, str | None]) -> pl.DataFrame:
        """The operations that both hosts take part in, by their end at the second."""
        if pair not in self._of_pair:
            key = [*OPERATION, "dtype", "repeat"]
            begun = (
                self._ops.filter(pl.col("host").eq_missing(pl.lit(pair[0])))
                .group_by(key)
                .agg(begin=pl.col("start_ns").min())
            )
            ended = (
                self._ops.filter(pl.col("host").eq_missing(pl.lit(pair[1])))
                .group_by(key)
                .agg(end=pl.col("end_ns").max())
            )
            self._of_pair[pair] = begun.join(ended, on=key).sort("end", "begin")
        return self._of_pair[pair]

    def carried(
        self, pair: tuple[str | None, str | None], flow: Flow, seen: _Seen, number: int
    ) -> pl.DataFrame:
        """Rows of flow_ops.parquet; an `op` of null stands for what belongs to none."""
        data = flow.packets["payload"] > 0
        sent = flow.packets["time_ns"][data]
        arrived = np.maximum(seen.arrived[flow.rows][data], sent)
        ops = self._between(pair)
        table = pl.DataFrame(
            {"row": _covering(ops, sent, arrived), "payload": flow.packets["payload"][data]}
        )
        carried = table.group_by("row").agg(
            records=pl.len(), payload_bytes=pl.col("payload").cast(pl.Int64).sum()
        )
        named = carried.join(
            ops.with_row_index("row").cast({"row": pl.Int64}), on="row", how="left"
        ).sort("row")
        columns = [pl.lit(number).alias("flow"), *list(schemas.FLOW_OPS)[1:]]
        return named.select(columns).cast(pl.Schema(schemas.FLOW_OPS))


def _covering(ops: pl.DataFrame, sent: Ints, arrived: Ints) -> NDArray[np.int64]:
    """For each packet the position of its operation; -1 if there is none."""
    begin, end = ops["begin"].to_numpy(), ops["end"].to_numpy()
    later = np.r_[
        np.minimum.accumulate(begin[::-1])[::-1], np.iinfo(np.int64).max
    ]  # the first to begin from here on
    place = np.searchsorted(end, arrived)
    place[later[place] > sent] = len(end)
    waiting = np.flatnonzero(place < len(end))
    while len(waiting):  # each finds its operation, for there is one
        waiting = waiting[begin[place[waiting]] > sent[waiting]]
        place[waiting] += 1
    return np.where(place < len(end), place, -1)
