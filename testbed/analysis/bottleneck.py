"""What a run's time is spent on above all: latency, bandwidth, TCP's window, or compute.

A judgement by rules, for people to begin with; the figures that it rests on are told with it.

- compute: at least half of the time of training is modelled computation.
- bandwidth: while data are exchanged, the busiest WAN direction carries at least `FULL` of its
  rate; or an operation takes at most 1 / `FULL` of its lower bound, and its time grows with its
  size.
- window: at least half of the payload went over connections that were waiting for TCP's window most
  of the time (flows.parquet), or the time grows with the size although no link is full.
- latency: the smallest size already takes at least half as long as the main one; or the links are
  almost idle while data are exchanged.

None of them, where the figures do not tell. Of collectives the one counts on which most time was
spent.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from testbed.analysis.headline import main_operation
from testbed.analysis.link_samples import sent_bytes
from testbed.analysis.network_history import History
from testbed.core.units import format_size

FULL = 0.6  # part of a rate, or of the bound, from which a link counts as full
IDLE = 0.3  # below it, as almost idle
MOST = 0.5
Row = dict[str, Any]
Use = tuple[str, float]  # a WAN direction as text, and the share of its rate that it carried


def dominant(
    history: History | None,
    summary: dict[str, Any],
    ops: pl.DataFrame,
    steps: pl.DataFrame | None,
    links: pl.DataFrame,
    flows: pl.DataFrame | None,
) -> Row | None:
    """{"what": latency | bandwidth | window | compute, "why": a clause}; None where it cannot be
    told.

    `summary` has `training` and `collectives` as summary.json has them; the tables are those of the
    run folder.
    """
    if history is None:
        return None
    training, rows = summary.get("training"), summary.get("collectives") or []
    window = _window_share(flows)
    if training and steps is not None and training["compute_utilisation"] is not None:
        return _of_training(history, training, steps, links, window)
    rows = [row for row in rows if row["time_us"]["median"] > 0]
    if not rows:
        return None
    main = main_operation(rows)
    return _of_collective(history, main, _small_share(main, rows), ops, links, window)


def _of_training(
    history: History, training: Row, steps: pl.DataFrame, links: pl.DataFrame, window: float | None
) -> Row | None:
    computes = training["compute_utilisation"]
    text = f"a rank computes for {computes:.0%} of the time"
    if computes >= MOST:
        return _found("compute", text)
    begin, end = min(steps["start_ns"]), max(steps["end_ns"])
    use = busiest(history, links, begin, end, (end - begin) / 1e9 * (1 - computes))
    text += f" and waits for data or other ranks in the rest{_while_exchanging(use)}"
    return _by_links(use, None, window, text)


def _of_collective(
    history: History,
    row: Row,
    small: tuple[Row, float] | None,
    ops: pl.DataFrame,
    links: pl.DataFrame,
    window: float | None,
) -> Row | None:
    use = _use_during(history, row, ops, links)
    text, grows = "", None
    if small is not None:
        grows = small[1] < MOST
        text = f"{format_size(small[0]['bytes'], 3)} takes {small[1]:.0%} of the time of {format_size(row['bytes'], 3)}"
    text += _while_exchanging(use)
    if grows and (row.get("efficiency") or 0) >= FULL:
        return _found("bandwidth", text)
    return _by_links(use, grows, window, text.removeprefix(", and "))


def _by_links(use: Use | None, grows: bool | None, window: float | None, text: str) -> Row | None:
    """The verdict of the links' use, of whether the time grows with the size (None: not known), and
    of the windows.
    """
    if use is not None and use[1] >= FULL:
        return _found("bandwidth", text)
    if grows is False:
        return _found("latency", text)
    if window is not None and window >= MOST:
        return _found(
            "window", f"{text}; connections wait for TCP's window for {window:.0%} of the bytes"
        )
    if grows and use is not None:
        return _found("window", text)
    if grows is None and use is not None and use[1] < IDLE:
        return _found("latency", text)
    return None


def _found(what: str, why: str) -> Row:
    return {"what": what, "why": why.replace("%", "\N{NO-BREAK SPACE}%")}


def _while_exchanging(use: Use | None) -> str:
    return (
        ""
        if use is None
        else f", and the busiest WAN direction, {use[0]}, carries {use[1]:.0%} of its rate then"
    )


def _small_share(main: Row, rows: list[Row]) -> tuple[Row, float] | None:
    """The smallest size of the same operation, and its part of the main one's time; None if none is
    far smaller.
    """
    same = ("op", "ranks", "dtype", "algorithm", "groups")
    alike = [
        row
        for row in rows
        if all(row.get(key) == main.get(key) for key in same) and row["bytes"] > 0
    ]
    small = min(alike, key=lambda row: row["bytes"], default=None)
    if small is None or small["bytes"] * 16 > main["bytes"]:
        return None
    return small, small["time_us"]["median"] / main["time_us"]["median"]


def _use_during(history: History, row: Row, ops: pl.DataFrame, links: pl.DataFrame) -> Use | None:
    """Of the busiest WAN direction, over the time in which the measured iterations of `row` were
    under way.
    """
    key = {
        "op": row["op"],
        "bytes": row["bytes"],
        "group_size": row["ranks"],
        "dtype": row["dtype"],
    }
    mine = ops.filter(
        pl.col("phase") != "warmup", *(pl.col(name) == value for name, value in key.items())
    )
    if mine.is_empty():
        return None
    return busiest(
        history, links, min(mine["start_ns"]), max(mine["end_ns"]), _union_ns(mine) / 1e9
    )


def _union_ns(spans: pl.DataFrame) -> int:
    """For how long at least one of `spans` lasted."""
    spans = spans.sort("start_ns")
    covered = spans["end_ns"].cum_max().shift(1, fill_value=spans["start_ns"][0])
    new = spans["end_ns"] - pl.select(pl.max_horizontal(spans["start_ns"], covered)).to_series()
    return int(new.clip(0).sum())


def busiest(
    history: History, links: pl.DataFrame, begin_ns: int, end_ns: int, seconds: float
) -> Use | None:
    """The WAN direction with the largest share of its rate, if what it sent between two times took
    `seconds`.

    At most 1. None without samples.
    """
    found: list[Use] = []
    for link in history.states[0].wan:
        for way in link.directions:
            mine = links.filter(
                (pl.col("link") == link.key) & (pl.col("source") == way.source)
            ).sort("time_ns")
            if mine.is_empty() or seconds <= 0:
                continue
            sent = sent_bytes(mine, begin_ns, end_ns)
            share = (
                8 * sent / (history.mean_rate_bps(link.key, way.source, begin_ns, end_ns) * seconds)
            )
            found.append((f"{way.source} to {way.target}", min(1.0, share)))
    return max(found, key=lambda use: use[1], default=None)


def _window_share(flows: pl.DataFrame | None) -> float | None:
    """The part of the time, weighted by payload, in which connections waited for their window."""
    if flows is None or not {"window_limited_share", "payload_bytes"} <= set(flows.columns):
        return None
    known = flows.drop_nulls(["window_limited_share", "payload_bytes"])
    total = float(known["payload_bytes"].sum())
    return (
        float((known["window_limited_share"] * known["payload_bytes"]).sum()) / total
        if total
        else None
    )
