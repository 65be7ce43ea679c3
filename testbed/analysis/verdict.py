"""What a run says, in one sentence."""

from __future__ import annotations

from typing import Any

from testbed.analysis.headline import main_operation
from testbed.core.units import format_size, format_time

Json = dict[str, Any]
INCOMPLETE = (
    "the run did not complete"  # so begins the warning of a run whose outcome says that already
)
TITLES = {
    "latency": "Latency",
    "bandwidth": "Bandwidth",
    "window": "TCP's window",
    "compute": "Computation",
}
MEANINGS = {
    "latency": "Most of the time passes while data are on their way and everyone waits. Links with higher rates would "
    "not help; fewer round trips would: fewer or larger messages, or algorithms that cross the WAN less often.",
    "bandwidth": "Most of the time goes into pushing bytes through a link or network card that is full. Higher rates "
    "or fewer bytes would help.",
    "window": "Senders stop because TCP may only have so many bytes on their way until they are acknowledged: the "
    "window is still growing, was cut by losses, or is held by buffers. The links would carry more.",
    "compute": "Most of the time goes into the modelled computation; the network costs little.",
}


def meaning(status: Json, summary: Json) -> str | None:
    """What it means that this dominates, for a completed run of which it is known."""
    cause = summary.get("dominant")
    return MEANINGS.get(cause["what"]) if cause and status.get("state") == "completed" else None


def verdict(status: Json, summary: Json) -> str:
    """One sentence of plain text: the outcome, and for a completed run what its main collective
    shows.
    """
    state = status.get("state")
    reason = str(status.get("reason") or "no reason was recorded").rstrip(".")
    if state is None:
        return "The run left no status: it ended before it could say how."
    if state == "running":
        return "The run has not ended, or was ended without a word; this is what it left."
    if state != "completed":
        return f"The run {'was ' if state == 'interrupted' else ''}{state}: {reason}."
    return _completed(summary)


def _completed(summary: Json) -> str:
    rows = summary.get("collectives") or []
    wrong = sum(row.get("wrong") or 0 for row in rows)
    if wrong:
        return f"The run completed with {wrong} wrong values in the results of its collectives: do not use its figures."
    training = summary.get("training")
    if not rows and not training:
        return "The run completed; it holds no measured collective."
    cause = summary.get("dominant")
    what = _training(training, with_share=not cause) if training else _of_main(rows)
    if not cause:
        return f"{what[0].upper() if training else what[0]}{what[1:]}{_busiest(summary.get('wan') or [])}."
    return f"{TITLES.get(cause['what'], cause['what'])} dominates: {what}; {cause['why']}."


def _of_main(rows: list[Json]) -> str:
    row = main_operation(rows)
    time_us = row["time_us"]["median"]
    text = f"{row['op']} of {format_size(row['bytes'], 3)} among {row['ranks']} ranks takes {_time(time_us)}"
    if row.get("bound_us"):
        text += f", {time_us / row['bound_us']:.1f} times the least that the topology allows ({_time(row['bound_us'])})"
    return text


def _training(row: Json, with_share: bool) -> str:
    text = f"a step of {row['method']} takes {_time(1000 * row['step_ms']['median'])} among {row['ranks']} ranks"
    if with_share and row["compute_utilisation"] is not None:
        text += (
            f", of which {100 * row['compute_utilisation']:.0f}\N{NO-BREAK SPACE}% is computation"
        )
    if row["final_loss"] is not None:
        text += f"; the loss is {row['final_loss']:.3f} after {format_time(round(1e9 * row['seconds']), 3)}"
    return text


def _busiest(rows: list[Json]) -> str:
    known = [row for row in rows if row.get("mean_utilisation") is not None]
    if not known:
        return ""
    row = max(known, key=lambda row: row["mean_utilisation"])
    share = f"{100 * row['mean_utilisation']:.0f}\N{NO-BREAK SPACE}%"
    return f"; the busiest WAN direction, {row['from']} to {row['to']}, is {share} used on average over the run"


def _time(us: float) -> str:
    return format_time(round(1000 * us), 4)
