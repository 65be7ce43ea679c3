"""Tables of a run's packet captures: flows, their throughput, and the operations of their packets.

docs/captures.md defines every column. Each capture is read once into a temporary file; interfaces
are then processed one at a time, with about 300 bytes of memory per record of the interface's
capture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import polars as pl

from testbed.analysis.packets import Packets, Totals, Trace, mac_number, read_trace, totals
from testbed.analysis.tcp_flows import (
    Flow,
    Ints,
    Row,
    endpoints,
    flow_row,
    flows,
    identities,
    spread,
)
from testbed.measure.capture import PacketCount, counted, finish
from testbed.plan.captures import CapturePoint, capture_points
from testbed.plan.model import Direction, Network, Plan, WanLink
from testbed.runfolder import schemas
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.summary import CaptureRow

BIN_NS = 10_000_000  # width of a bin of throughput.parquet
NEVER = np.iinfo(np.int64).min
NO_TIMES = np.empty(0, np.int64)
OPERATION = ["op", "bytes", "group_size", "iteration", "phase", "group"]
CALL = [
    "op",
    "group_size",
    "iteration",
    "phase",
    "group",
    "dtype",
    "process_group",
    "call_bytes",
]

Pair = tuple[str | None, str | None]  # sender and receiver; None: a host outside the plan


@dataclass
class Captured:
    """The tables and problems of a run's captures.

    Attributes:
        flows: flows.parquet (`testbed.runfolder.schemas.FLOWS`).
        throughput: throughput.parquet (`testbed.runfolder.schemas.THROUGHPUT`).
        operations: flow_ops.parquet (`testbed.runfolder.schemas.FLOW_OPS`).
        points: a row per readable capture.
        sent: totals of the packets that a datacenter's router sent into a WAN link, by link and
            datacenter; without a capture there, totals of the packets that arrived at the far end.
        problems: what is missing from the captures.
    """

    flows: pl.DataFrame = field(default_factory=lambda: _empty(schemas.FLOWS))
    throughput: pl.DataFrame = field(default_factory=lambda: _empty(schemas.THROUGHPUT))
    operations: pl.DataFrame = field(default_factory=lambda: _empty(schemas.FLOW_OPS))
    points: list[CaptureRow] = field(default_factory=list)
    sent: dict[tuple[str, str], Totals] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def _empty(schema: schemas.Schema) -> pl.DataFrame:
    return pl.DataFrame(schema=dict(schema))


def read_captures(run: RunDir, plan: Plan, ops: pl.DataFrame, scratch: Path) -> Captured:
    """Build the tables of a run's captures.

    Args:
        run: the run folder.
        plan: the run's plan.
        ops: ops.parquet (`testbed.runfolder.schemas.OPS`).
        scratch: an existing folder for temporary files of packets.

    Returns:
        The tables, and a problem for each damaged or incomplete capture.

    Raises:
        OSError: `scratch` cannot be written.
        ValueError: the plan is damaged.
    """
    captured = Captured()
    traces = _read_traces(run, plan, scratch, captured)
    hosts = {int(host.address.ip): host.name for host in plan.network.hosts}
    tables = _FlowTables(plan, hosts, _Operations(ops))

    for view in _views(plan, traces):
        _add_sent(captured, view, plan.network.mtu)
        if view.near is None:
            continue

        sightings = _Sightings.of(view, view.near)
        for flow in flows(view.near, view.mac):
            tables.add(flow, view, sightings)

    tables.put_into(captured)
    return captured


class _FlowTables:
    """The rows of all flows."""

    def __init__(self, plan: Plan, hosts: Mapping[int, str], operations: _Operations) -> None:
        """Create tables without flows.

        Args:
            plan: the run's plan.
            hosts: names of hosts by address.
            operations: the run's operations.
        """
        self._plan = plan
        self._hosts = hosts
        self._operations = operations
        self._flows: list[Row] = []
        self._throughput: list[pl.DataFrame] = []
        self._flow_ops: list[pl.DataFrame] = []

    def add(self, flow: Flow, view: _View, sightings: _Sightings) -> None:
        """Add a flow captured in a view, with the packet times of the view's capture."""
        number = len(self._flows)
        ends = _FlowEnds.of(flow, view, self._hosts, self._plan)
        row: Row = {
            "flow": number,
            **ends.row(),
            **flow_row(flow, self._plan.network.mtu),
            **sightings.row(flow),
        }
        self._flows.append(row)
        self._throughput.append(_bins(flow, number))
        carried = self._operations.carried(ends.pair, flow, sightings, number)
        self._flow_ops.append(carried)

    def put_into(self, captured: Captured) -> None:
        """Set the tables of `captured`, if there are any flows."""
        if not self._flows:
            return
        rows: list[Row] = []
        for flow in self._flows:
            rows.append({column: flow[column] for column in schemas.FLOWS})
        captured.flows = pl.DataFrame(rows, schema=dict(schemas.FLOWS))
        captured.throughput = pl.concat(self._throughput)
        captured.operations = pl.concat(self._flow_ops)


def _read_traces(
    run: RunDir, plan: Plan, scratch: Path, captured: Captured
) -> dict[CapturePoint, Trace]:
    """Read every readable capture; add its row and its problems to `captured`."""
    traces: dict[CapturePoint, Trace] = {}
    for number, point in enumerate(capture_points(plan.network, plan.capture)):
        path = run.capture(point.what, point.at)
        try:
            host = point.at if point.kind == "nic" else ""
            finish(path, point.mac, plan.capturing, host)
            trace = read_trace(path, scratch / str(number))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            captured.problems.append(_problem(path, f"is not readable: {reason}"))
            continue

        traces[point] = trace
        row = _capture_row(path, trace)
        captured.points.append(row)
        for gap in _gaps(row):
            captured.problems.append(_problem(path, gap))

    return traces


def _capture_row(path: Path, trace: Trace) -> CaptureRow:
    """Compare the records read from a capture with tcpdump's count of written packets."""
    records = len(trace.packets)
    count = counted(path) or PacketCount(0, 0)
    removed = 0
    if not trace.truncated:
        removed = max(count.written - records, 0)

    return CaptureRow(
        capture=path.name,
        records=records,
        removed_records=removed,
        dropped=count.dropped,
        truncated=trace.truncated,
    )


def _problem(capture: Path, text: str) -> Problem:
    return Problem(code=ProblemCode.CAPTURE, message=f"captures/{capture.name} {text}")


def _gaps(row: CaptureRow) -> Iterator[str]:
    """Describe the gaps of a capture."""
    if row.truncated:
        yield "is truncated: its figures cover only the readable part"
    if row.removed_records:
        removed = f"{row.removed_records} packets exceeded its limit"
        yield f"was cut: {removed} (raise --capture-limit)"
    if row.dropped:
        yield f"lacks {row.dropped} packets, dropped because the kernel's buffer was full"


@dataclass(frozen=True)
class _View:
    """An interface whose flows are analysed, with the captures upstream and downstream.

    Attributes:
        point: the interface and its host or router.
        link: the WAN link, or "nic".
        from_dc: the datacenter that sends.
        to_dc: the datacenter that receives; None: that of the receiving host.
        mac: the interface's address.
        near: the interface's capture, or None if the capture cannot be read.
        entries: packets that came into the router, to be sent by this interface or another.
        arrivals: packets that arrived at the other end.
        whole: whether all of these captures are complete.
    """

    point: CapturePoint
    link: str
    from_dc: str
    to_dc: str | None
    mac: str
    near: Trace | None
    entries: tuple[Packets, ...]
    arrivals: tuple[Packets, ...]
    whole: bool


Traces = Mapping[CapturePoint, Trace]


def _views(plan: Plan, traces: Traces) -> Iterator[_View]:
    points = capture_points(plan.network, plan.capture)
    for point in points:
        if point.kind == "wan":
            yield _wan_view(plan.network, point, points, traces)
    yield from _nic_views(plan.network, points, traces)


def _nic_views(network: Network, points: list[CapturePoint], traces: Traces) -> Iterator[_View]:
    """Yield the views of the hosts' interfaces; packets arrive at any other host interface."""
    nics = [point for point in points if point.kind == "nic"]
    whole = _are_whole(nics, traces)
    received = [traces[nic].others(nic.mac) for nic in nics if nic in traces]
    arrivals: tuple[Packets, ...] = ()
    if received:
        arrivals = (np.concatenate(received),)

    for nic in nics:
        yield _View(
            point=nic,
            link="nic",
            from_dc=network.host(nic.at).dc,
            to_dc=None,
            mac=nic.mac,
            near=traces.get(nic),
            entries=(),
            arrivals=arrivals,
            whole=whole,
        )


def _wan_view(
    network: Network, point: CapturePoint, points: list[CapturePoint], traces: Traces
) -> _View:
    """Return the view of a border router's port into a WAN link."""
    link = next(link for link in network.wan if link.key == point.what)
    outward, back = _directions_from(link, point.at)

    far = _far_point(points, link.key, outward.target)
    arrivals: tuple[Packets, ...] = ()
    if far in traces:
        arrivals = (traces[far].others(back.mac),)

    feeders = _feeders(network, point, points)
    readable = [feeder for feeder in feeders if feeder in traces]
    entries = [traces[feeder].others(feeder.mac) for feeder in readable]

    return _View(
        point=point,
        link=link.key,
        from_dc=outward.source,
        to_dc=outward.target,
        mac=outward.mac,
        near=traces.get(point),
        entries=tuple(entries),
        arrivals=arrivals,
        whole=_are_whole([point, far, *feeders], traces),
    )


def _directions_from(link: WanLink, datacenter: str) -> tuple[Direction, Direction]:
    """Return the direction of a link that leaves a datacenter, then the opposite direction."""
    if link.forward.source == datacenter:
        return link.forward, link.backward
    return link.backward, link.forward


def _far_point(points: list[CapturePoint], link: str, datacenter: str) -> CapturePoint:
    for point in points:
        if (point.what, point.at) == (link, datacenter):
            return point
    raise KeyError(f"no capture of {link} at {datacenter}")


def _feeders(
    network: Network, point: CapturePoint, points: list[CapturePoint]
) -> list[CapturePoint]:
    """Return the captures of traffic into a router that may leave by the router's WAN port."""
    kinds = {"lan"}
    if _carries_transit(network, point.at):
        kinds.add("wan")

    feeders: list[CapturePoint] = []
    for other in points:
        is_at_router = other.at == point.at and other != point
        if is_at_router and other.kind in kinds:
            feeders.append(other)

    return feeders


def _are_whole(points: list[CapturePoint], traces: Traces) -> bool:
    return all(point in traces and not traces[point].truncated for point in points)


def _carries_transit(network: Network, datacenter: str) -> bool:
    """Return whether packets between other datacenters ever cross the router of `datacenter`."""
    for state in network.extremes(rate=min, delay=min):  # covers every route the run ever uses
        for route in state.routes:
            if route.destination == datacenter:
                continue
            for direction in state.next_directions(route.dc, route.destination):
                if direction.target == datacenter:
                    return True

    return False


def _add_sent(captured: Captured, view: _View, mtu: int) -> None:
    """Add the totals of the packets sent into the WAN link of a view."""
    if view.point.kind != "wan":
        return

    if view.near is not None:
        sent = view.near.sent_by(view.mac)
    elif view.arrivals:
        (sent,) = view.arrivals
    else:
        return

    captured.sent[view.link, view.from_dc] = totals(sent, mtu)


@dataclass(frozen=True)
class _Sightings:
    """Times at which each packet of a capture was seen upstream and downstream of the interface.

    Attributes:
        view: the interface's view, with the other captures.
        entered: time in ns at which the packet came into the router, `NEVER` if unseen; int64,
            shape (n,), with a value for each record of the capture.
        arrived: time in ns at which the packet arrived at the other end, in the same form.
        unsent: by the key `endpoints`, the times in ns at which packets came in that never left.
    """

    view: _View
    entered: Ints
    arrived: Ints
    unsent: Mapping[int, Ints]

    @classmethod
    def of(cls, view: _View, near: Trace) -> _Sightings:
        """Match the captures of a view; `near` is the capture of the view's interface."""
        packets = near.packets
        is_sent = packets["mac"] == mac_number(view.mac)
        is_tcp = packets["headers"] > 0
        rows = np.flatnonzero(is_sent & is_tcp)
        sent = packets[rows]

        entered = np.full(len(packets), NEVER)
        unsent: dict[int, list[Ints]] = {}
        for entry in view.entries:
            incoming = _tcp(entry)
            match = _find_earlier(sent, incoming)
            times_ns = _times(incoming, match)
            entered[rows] = np.maximum(entered[rows], times_ns)

            has_left = np.zeros(len(incoming), bool)
            matched = match[match >= 0]
            has_left[matched] = True
            _add_times(unsent, incoming[~has_left])

        arrived = np.full(len(packets), NEVER)
        for arrival in view.arrivals:
            outgoing = _tcp(arrival)
            origin = _find_earlier(outgoing, sent)
            known = np.flatnonzero(origin >= 0)
            backwards = known[::-1]  # the first copy is written last and wins
            sent_rows = origin[backwards]
            arrived_rows = rows[sent_rows]
            arrived[arrived_rows] = outgoing["time_ns"][backwards]

        unsent_ns: dict[int, Ints] = {}
        for key, times in unsent.items():
            unsent_ns[key] = np.array(times)
        return cls(view, entered, arrived, unsent_ns)

    def row(self, flow: Flow) -> Row:
        """Return the columns of flows.parquet about the delays and losses of a flow."""
        times_ns = flow.packets["time_ns"]
        arrived = self.arrived[flow.rows]
        entered = self.entered[flow.rows]
        has_arrived = arrived != NEVER
        has_entered = entered != NEVER

        start = times_ns
        has_both = has_arrived
        if self.view.entries:
            start = entered
            has_both = has_arrived & has_entered

        delay_ns = (arrived - start)[has_both]
        waited_ns = (times_ns - entered)[has_entered]
        queueing_ns = delay_ns
        if len(delay_ns):
            queueing_ns = delay_ns - delay_ns.min()

        dropped, lost = None, None
        if self.view.whole:
            dropped = self._dropped(flow, entered)
            lost = int((~has_arrived).sum())

        return {
            **spread("delay", delay_ns),
            **spread("bottleneck", waited_ns),
            **spread("queueing", queueing_ns),
            "dropped": dropped,
            "lost": lost,
        }

    def _dropped(self, flow: Flow, entered: Ints) -> int:
        """Count the packets of a flow that came into the router and never left.

        `entered` holds the time in ns at which each packet came in, shape (n,).
        """
        first_packet = flow.packets[:1]
        (key,) = endpoints(first_packet).tolist()
        unsent_ns = self.unsent.get(key, NO_TIMES)

        first_ns = flow.packets["time_ns"][0]
        if entered[0] != NEVER:
            first_ns = entered[0]

        last_ns = flow.packets["time_ns"][-1]
        is_within = (unsent_ns >= first_ns) & (unsent_ns <= last_ns)
        return int(is_within.sum())


def _tcp(packets: Packets) -> Packets:
    """Return the packets of TCP, of dtype `PACKET`."""
    tcp: Packets = packets[packets["headers"] > 0]
    return tcp


def _times(packets: Packets, rows: Ints) -> Ints:
    """Return the times in ns of the packets at `rows`; `NEVER` where the row is negative."""
    if not len(packets):
        return np.full(len(rows), NEVER)
    times: Ints = packets["time_ns"][np.maximum(rows, 0)]
    return np.where(rows >= 0, times, NEVER)


def _add_times(by_flow: dict[int, list[Ints]], packets: Packets) -> None:
    """Add the times in ns of packets (dtype `PACKET`, shape (n,)) to the lists of their flows."""
    for key, time_ns in zip(endpoints(packets).tolist(), packets["time_ns"], strict=True):
        by_flow.setdefault(key, []).append(time_ns)


def _find_earlier(packets: Packets, others: Packets) -> Ints:
    """Return each packet's latest record in another capture that is not later than the packet.

    Args:
        packets: dtype `PACKET`, shape (n,).
        others: packets of the other capture, dtype `PACKET`, shape (m,).

    Returns:
        Positions in `others`, int64, shape (n,); -1 where no packet matches.
    """
    left = _in_time_order(packets, "row")
    right = _in_time_order(others, "other")
    matched = left.join_asof(
        right, on="time", by="key", strategy="backward", check_sortedness=False
    )
    positions = matched.sort("row")["other"].fill_null(-1)
    return positions.to_numpy().astype(np.int64)


def _in_time_order(packets: Packets, position: str) -> pl.DataFrame:
    """Return the columns time (ns), key (UInt64) and `position` of packets, sorted by time."""
    columns = {
        "time": packets["time_ns"],
        "key": identities(packets),
        position: np.arange(len(packets)),
    }
    return pl.DataFrame(columns).sort("time", maintain_order=True)


@dataclass(frozen=True)
class _End:
    """One end of a flow: the host and its rank, if the plan has such a host."""

    host: str | None
    rank: int | None
    address: str
    port: int

    @classmethod
    def of(cls, address: int, port: int, hosts: Mapping[int, str], plan: Plan) -> _End:
        host = hosts.get(address)
        ranks: list[int] = []
        for rank in plan.workers.ranks:
            if rank.host == host:
                ranks.append(rank.rank)

        return cls(
            host=host,
            rank=ranks[0] if len(ranks) == 1 else None,
            address=str(IPv4Address(address)),
            port=port,
        )

    def row(self, end: str) -> Row:
        return {
            f"{end}_host": self.host,
            f"{end}_rank": self.rank,
            f"{end}_address": self.address,
            f"{end}_port": self.port,
        }


@dataclass(frozen=True)
class _FlowEnds:
    """The place where a flow was captured, and the ends of the flow."""

    link: str
    from_dc: str
    to_dc: str | None
    source: _End
    target: _End

    @classmethod
    def of(cls, flow: Flow, view: _View, hosts: Mapping[int, str], plan: Plan) -> _FlowEnds:
        """Return the ends of a flow; `hosts` has the names by address."""
        first = flow.packets[0]
        source = _End.of(int(first["source"]), int(first["source_port"]), hosts, plan)
        target = _End.of(int(first["target"]), int(first["target_port"]), hosts, plan)
        to_dc = view.to_dc
        if to_dc is None and target.host is not None:
            to_dc = plan.network.host(target.host).dc

        return cls(
            link=view.link,
            from_dc=view.from_dc,
            to_dc=to_dc,
            source=source,
            target=target,
        )

    @property
    def pair(self) -> Pair:
        return self.source.host, self.target.host

    def row(self) -> Row:
        """Return the columns of flows.parquet that name the flow."""
        return {
            "link": self.link,
            "from_dc": self.from_dc,
            "to_dc": self.to_dc,
            **self.source.row("src"),
            **self.target.row("dst"),
        }


def _bins(flow: Flow, number: int) -> pl.DataFrame:
    """Return the rows of throughput.parquet for a flow."""
    packets = flow.packets
    columns = {
        "time_ns": packets["time_ns"] // BIN_NS * BIN_NS,
        "payload_bytes": packets["payload"].astype(np.int64),
        "wire_bytes": packets["wire_bytes"].astype(np.int64),
    }
    by_bin = pl.DataFrame(columns).group_by("time_ns", maintain_order=True)
    sums = by_bin.agg(pl.col("*").sum(), packets=pl.len())

    schema = pl.Schema(schemas.THROUGHPUT)
    table = sums.with_columns(flow=pl.lit(number), bin_ns=pl.lit(BIN_NS))
    return table.select(list(schema)).cast(schema)


class _Operations:
    """The run's operations, which packets are matched to.

    A packet belongs to the first operation that ends at the receiving host after the packet has
    arrived there, among the operations that the sending host had begun when the packet was sent.
    Sends and receives of a script are not distinguished.
    """

    def __init__(self, ops: pl.DataFrame) -> None:
        """Number the repeats of operations in `ops` (`testbed.runfolder.schemas.OPS`)."""
        is_message = pl.col("op").is_in(["send", "recv"])
        is_grouped = pl.col("process_group") != ""
        call_bytes = pl.when(is_grouped).then(-1).otherwise("bytes")  # ranks' sizes may differ
        operations = ops.filter(~is_message).with_columns(call_bytes=call_bytes)
        repeat = pl.int_range(pl.len()).over([*CALL, "rank"])
        self._ops = operations.with_columns(repeat=repeat)
        self._of_pair: dict[Pair, pl.DataFrame] = {}

    def _between(self, pair: Pair) -> pl.DataFrame:
        """Return the operations that both hosts take part in, sorted by end time at the second.

        Returns:
            Columns `OPERATION`, begin (at the first host) and end (at the second), Int64, Unix ns.
        """
        if pair in self._of_pair:
            return self._of_pair[pair]

        sender, receiver = pair
        begun = self._at_host(sender).agg(pl.col("bytes").max(), begin=pl.col("start_ns").min())
        ended = self._at_host(receiver).agg(end=pl.col("end_ns").max())
        both = begun.join(ended, on=[*CALL, "repeat"])
        self._of_pair[pair] = both.sort("end", "begin")

        return self._of_pair[pair]

    def _at_host(self, host: str | None) -> pl.dataframe.group_by.GroupBy:
        is_here = pl.col("host").eq_missing(pl.lit(host))
        of_host = self._ops.filter(is_here)
        return of_host.group_by([*CALL, "repeat"])

    def carried(self, pair: Pair, flow: Flow, sightings: _Sightings, number: int) -> pl.DataFrame:
        """Return the rows of flow_ops.parquet for a flow.

        Args:
            pair: the hosts at the flow's ends.
            flow: the flow.
            sightings: the packet times of the flow's capture.
            number: the flow's number in flows.parquet.

        Returns:
            Columns `testbed.runfolder.schemas.FLOW_OPS`; `op` is null for packets of no operation.
        """
        has_data = flow.packets["payload"] > 0
        payload = flow.packets["payload"][has_data]
        sent_ns = flow.packets["time_ns"][has_data]
        seen_ns = sightings.arrived[flow.rows][has_data]
        arrived_ns = np.maximum(seen_ns, sent_ns)
        operations = self._between(pair)
        position = _covering(operations, sent_ns, arrived_ns)

        packets = pl.DataFrame({"row": position, "payload": payload})
        payload_bytes = pl.col("payload").cast(pl.Int64).sum()
        sums = packets.group_by("row").agg(records=pl.len(), payload_bytes=payload_bytes)

        numbered = operations.with_row_index("row").cast({"row": pl.Int64})
        named = sums.join(numbered, on="row", how="left").sort("row")
        schema = pl.Schema(schemas.FLOW_OPS)
        table = named.with_columns(flow=pl.lit(number))

        return table.select(list(schema)).cast(schema)


def _covering(operations: pl.DataFrame, sent_ns: Ints, arrived_ns: Ints) -> Ints:
    """Return each packet's operation: the first begun operation to end after the packet arrived.

    Args:
        operations: columns begin and end (Int64, ns), m rows sorted by end.
        sent_ns: time at which each packet was sent, shape (n,).
        arrived_ns: time at which each packet arrived, shape (n,).

    Returns:
        Positions in `operations`, shape (n,); -1 for packets of no operation.
    """
    begin = operations["begin"].to_numpy()
    end = operations["end"].to_numpy()
    count = len(end)

    # The earliest start from each position on; a packet sent before that time has no operation.
    earliest = np.minimum.accumulate(begin[::-1])
    earliest_from = np.r_[earliest[::-1], np.iinfo(np.int64).max]

    position = np.searchsorted(end, arrived_ns)
    has_none = earliest_from[position] > sent_ns
    position[has_none] = count

    waiting = np.flatnonzero(position < count)
    while len(waiting):  # every packet here has an operation
        not_begun = begin[position[waiting]] > sent_ns[waiting]
        waiting = waiting[not_begun]
        position[waiting] += 1

    return np.where(position < count, position, -1)
