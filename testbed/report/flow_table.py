"""The table of TCP connections that crossed WAN links (flows.parquet)."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from testbed.report.grid import NONE, Grid, GridColumn

MOST_ROWS = 500
COLUMNS = [
    GridColumn("from", number=False),
    GridColumn("to", number=False),
    GridColumn("WAN link", number=False),
    GridColumn("payload\n(MiB)"),
    GridColumn("packets"),
    GridColumn("sent\nagain"),
    GridColumn("round trip\nmin (ms)"),
    GridColumn("median\n(ms)"),
    GridColumn("95 %\n(ms)"),
    GridColumn("delay\nmedian (ms)"),
    GridColumn("95 %\n(ms)"),
    GridColumn("rate\n(Mbit/s)"),
    GridColumn("idle\n(%)"),
    GridColumn("window\n(%)"),
    GridColumn("network\n(%)"),
]
NOTE = (
    "A row per TCP connection, direction and WAN link, from the packet captures. payload: bytes of "
    "data, without headers. sent again: packets that TCP retransmitted because it assumed that "
    "they were lost. "
    "round trip: from a packet to its acknowledgement, as seen where the link begins; delay: from "
    "one end of the link to the other, with the wait in its queue. rate: payload over the time in "
    "which the connection was active. idle, window, network: shares of the time in which the "
    "connection had no data to send, waited for acknowledgements because its window was full, or "
    "was limited by the network."
)


class FlowRow(NamedTuple):
    """The columns of flows.parquet that the table shows; None where unknown."""

    from_dc: str
    to_dc: str
    src_host: str
    dst_host: str
    src_rank: int | None
    dst_rank: int | None
    src_port: int | None
    dst_port: int | None
    payload_bytes: int | None
    packets: int | None
    retransmissions: int | None
    rtt_min_ns: int | None
    rtt_median_ns: int | None
    rtt_p95_ns: int | None
    delay_median_ns: int | None
    delay_p95_ns: int | None
    throughput_bps: float | None
    idle_share: float | None
    window_limited_share: float | None
    network_limited_share: float | None
    job: str | None


def flows_grid(flows: pl.DataFrame) -> Grid:
    """Return the table of TCP connections, largest payload first, at most `MOST_ROWS` rows.

    Args:
        flows: flows.parquet, with the columns `load.FLOWS_COLUMNS` and any of the other fields of
            `FlowRow`; types as in `testbed.runfolder.schemas.FLOWS`.
    """
    largest = flows.sort("payload_bytes", descending=True, nulls_last=True).head(MOST_ROWS)
    rows = [_cells(_flow_row(values)) for values in largest.iter_rows(named=True)]

    note = NOTE
    if flows.height > MOST_ROWS:
        note += f" These are the {MOST_ROWS} largest of {flows.height}; flows.parquet has all."

    return Grid("Connections across the WAN", COLUMNS, rows, note)


def _flow_row(values: dict[str, Any]) -> FlowRow:
    """Return a row with the values of columns, some of which may be missing."""
    return FlowRow._make(values.get(name) for name in FlowRow._fields)


def _cells(row: FlowRow) -> list[str]:
    return [
        _end(row.src_host, row.src_rank, row.src_port, row.job),
        _end(row.dst_host, row.dst_rank, row.dst_port, row.job),
        f"{row.from_dc} → {row.to_dc}",
        _quotient(row.payload_bytes, 2**20, 3),
        _count(row.packets),
        _count(row.retransmissions),
        _milliseconds(row.rtt_min_ns),
        _milliseconds(row.rtt_median_ns),
        _milliseconds(row.rtt_p95_ns),
        _milliseconds(row.delay_median_ns),
        _milliseconds(row.delay_p95_ns),
        _quotient(row.throughput_bps, 1e6, 2),
        _percent(row.idle_share),
        _percent(row.window_limited_share),
        _percent(row.network_limited_share),
    ]


def _end(host: str, rank: int | None, port: int | None, job: str | None) -> str:
    """Return host, rank, job and port of one end as text, without unknown parts."""
    text = host
    if rank is not None:
        of_job = f" of {job}" if job else ""
        text += f" (rank {rank}{of_job})"

    if port is not None:
        text += f":{port}"
    return text


def _count(value: int | None) -> str:
    if value is None:
        return NONE
    return str(value)


def _milliseconds(value_ns: int | None) -> str:
    if value_ns is None:
        return NONE
    return f"{value_ns / 1e6:.3f}"


def _percent(share: float | None) -> str:
    if share is None:
        return NONE
    return f"{100 * share:.1f}"


def _quotient(value: float | None, unit: float, digits: int) -> str:
    if value is None:
        return NONE
    return f"{value / unit:.{digits}f}"
