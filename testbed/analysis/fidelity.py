"""Whether a run on the real clock was what its plan says: limits for what was watched, and what
beyond them means.

The limits, also in docs/machines.md. Each is on what happened while the workload ran.

- the CPU: computing, or wanted, for at most 70 % of the time (pressure stall information);
- steal, the time that a virtual machine's host kept for others: at most 2 %;
- timers: 99 % of them at most 1 ms late;
- a host's CPU limit: held back for at most 2 % of the time;
- packets without room in the kernel's backlog: none;
- fibres without loss: no drop;
- a WAN direction whose queue never ran empty: sent at its rate within 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from testbed.analysis.network_history import History
from testbed.core.units import format_rate
from testbed.plan.model import Direction
from testbed.runfolder.folder import RunDir, read_json

if TYPE_CHECKING:
    import polars as pl

BUSY = 0.7
STEAL = 0.02
LATE_US = 1000.0
HELD_BACK = 0.02
RATE_PART = 0.05
LEAST_FULL_S = 0.1  # of samples with a full queue, to say something about a rate
LONGEST_SAMPLE_S = 0.1  # in a longer one the queue may have run empty unseen
LEAST_BACKLOG = 0.1  # part of the queue that counts as never empty
ADVICE = "use --clock virtual"


def doubts(run: RunDir, *, busy: float, steal: float) -> Iterator[str]:
    """Why a run on the real clock is not faithful; nothing if it is.

    Args:
        busy: part of the time for which the CPU was used or wanted.
        steal: part of the CPU's time that the machine's own host took.
    """
    if busy > BUSY:
        yield (
            f"the CPU was the limit: it was used or wanted for {busy:.0%} of the time of the operations "
            f"(more than {BUSY:.0%} distorts them); {ADVICE}"
        )
    if steal > STEAL:
        yield f"this virtual machine did not get its CPUs for {steal:.1%} of the time (steal); {ADVICE}"
    strain = read_json(run.strain, [])
    if not strain:
        return
    late = strain["late_us"]["p99"]
    if late > LATE_US:
        yield f"one timer in a hundred was {late / 1000:.1f} ms late or more (limit {LATE_US / 1000:.0f} ms); {ADVICE}"
    worst = max(strain["throttled_s"].values(), default=0.0) / max(strain["seconds"], 1e-9)
    if worst > HELD_BACK:
        yield f"a host was held back by its CPU limit for {worst:.0%} of the time; raise it with --cpus, or {ADVICE}"
    if strain["backlog_drops"]:
        yield f"{strain['backlog_drops']} packets found no room in the kernel's backlog; {ADVICE}"
    for node, drops in strain.get("fibre_drops", {}).items():
        yield f"the fibre {node}, which loses nothing, dropped {drops} packets; {ADVICE}"


def rates(history: History, links: pl.DataFrame) -> list[dict[str, Any]]:
    """Of each WAN direction whose queue was not empty for a while: the rate at which it sent then,
    and the planned.

    After a change, what was in the queue still leaves at the rate before: as long as that takes is
    left out.
    """
    import polars as pl  # noqa: PLC0415 (0.2 s, and every command imports this file)

    network, found = history.states[0], []
    for key, way in ((link.key, way) for link in network.wan for way in link.directions):
        samples = links.filter(
            (pl.col("source") == way.source) & (pl.col("target") == way.target)
        ).sort("time_ns")
        settled_ns = 0
        for begin, end, now in history.pieces(key, way.source):
            mine = samples.filter(
                pl.col("time_ns").is_between(begin + settled_ns, end, closed="left")
            )
            seconds, sent = _while_full(mine, now, network.mtu)
            settled_ns = (
                now.bottleneck.queue_packets * network.mtu * 8 * 10**9 // now.bottleneck.rate_bps
            )
            if seconds >= LEAST_FULL_S:
                rate, planned = sent * 8 / seconds, now.bottleneck.rate_bps
                row = {
                    "from": way.source,
                    "to": way.target,
                    "seconds": round(seconds, 3),
                    "rate_bps": round(rate),
                }
                found.append(
                    {**row, "planned_bps": planned, "ok": abs(rate / planned - 1) <= RATE_PART}
                )
    return found


def _while_full(samples: pl.DataFrame, way: Direction, mtu: int) -> tuple[float, int]:
    """Seconds between neighbouring samples that both have a backlog, and bytes sent in them."""
    import polars as pl  # noqa: PLC0415

    least = max(2 * mtu, int(LEAST_BACKLOG * way.bottleneck.queue_packets * mtu))
    steps = samples.select(
        seconds=pl.col("time_ns").diff() / 1e9,
        bytes=pl.col("bytes").diff(),
        full=(pl.col("backlog_bytes") >= least) & (pl.col("backlog_bytes").shift(1) >= least),
    ).filter(pl.col("full") & (pl.col("seconds") <= LONGEST_SAMPLE_S))
    return float(steps["seconds"].sum()), int(steps["bytes"].sum())


def rate_doubts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Why `rates` are not those of the plan."""
    for row in rows:
        if not row["ok"]:
            rate, planned = format_rate(row["rate_bps"], 3), format_rate(row["planned_bps"], 3)
            way = f"{row['from']} sent to {row['to']}"
            yield f"{way} at {rate} while its queue was not empty, planned are {planned}; {ADVICE}"
