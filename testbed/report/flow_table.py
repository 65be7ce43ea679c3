"""The TCP connections that crossed WAN links (flows.parquet) as a table."""

from __future__ import annotations

from typing import Any

import polars as pl

from testbed.report.tables import NONE, Column, Grid

MOST_ROWS = 500
NOTE = (
    "A row per TCP connection, direction and WAN link, from the packet captures. payload: bytes of data, without "
    "headers. sent again: packets that TCP repeated because it took them for lost. round trip: from a packet to its "
    "acknowledgement, as seen where the link begins; delay: from one end of the link to the other, with the wait in "
    "its queue. rate: payload over the time in which the connection was active. idle: part of the time in which it "
    "had nothing to send; window: in which it waited for acknowledgements because its window was full; network: in "
    "which the network held it up."
)


def flows_grid(flows: pl.DataFrame) -> Grid:
    """The connections with the largest payload first."""
    columns = [
        Column("from", number=False),
        Column("to", number=False),
        Column("WAN link", number=False),
        Column("payload\n(MiB)"),
        Column("packets"),
        Column("sent\nagain"),
        Column("round trip\nmin (ms)"),
        Column("median\n(ms)"),
        Column("95 %\n(ms)"),
        Column("delay\nmedian (ms)"),
        Column("95 %\n(ms)"),
        Column("rate\n(Mbit/s)"),
        Column("idle\n(%)"),
        Column("window\n(%)"),
        Column("network\n(%)"),
    ]
    largest = flows.sort("payload_bytes", descending=True, nulls_last=True).head(MOST_ROWS)
    note = NOTE
    if flows.height > MOST_ROWS:
        note += f" These are the {MOST_ROWS} largest of {flows.height}; flows.parquet has all."
    return Grid(
        "Connections across the WAN",
        columns,
        [_flow(row) for row in largest.iter_rows(named=True)],
        note,
    )


def _flow(row: dict[str, Any]) -> list[str]:
    def milliseconds(key: str) -> str:
        return _text(row.get(key), lambda value: f"{value / 1e6:.3f}")

    def percent(key: str) -> str:
        return _text(row.get(key), lambda value: f"{100 * value:.1f}")

    return [
        _end(row, "src"),
        _end(row, "dst"),
        f"{row['from_dc']} → {row['to_dc']}",
        _text(row["payload_bytes"], lambda value: f"{value / 2**20:.3f}"),
        _text(row.get("packets"), str),
        _text(row.get("retransmissions"), str),
        *(milliseconds(f"rtt_{name}_ns") for name in ("min", "median", "p95")),
        *(milliseconds(f"delay_{name}_ns") for name in ("median", "p95")),
        _text(row.get("throughput_bps"), lambda value: f"{value / 1e6:.2f}"),
        *(percent(f"{name}_share") for name in ("idle", "window_limited", "network_limited")),
    ]


def _end(row: dict[str, Any], side: str) -> str:
    """Host and rank, as far as known, and port."""
    rank, port = row.get(f"{side}_rank"), row.get(f"{side}_port")
    return f"{row[f'{side}_host']}{'' if rank is None else f' (rank {rank})'}{'' if port is None else f':{port}'}"


def _text(value: Any, form: Any) -> str:
    return NONE if value is None else str(form(value))
