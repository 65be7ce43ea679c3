"""The loop of a script: which sequence repeats, how long a step takes, and its communication."""

import polars as pl
import pytest

from testbed.analysis.loop import Loop, find_loop, summarize_loop
from testbed.analysis.verdict import loop_text
from testbed.runfolder import schemas

MS = 10**6


@pytest.mark.parametrize(
    ("kinds", "loop"),
    [
        ("a" * 6, Loop(0, 1, 6)),
        ("ab" * 5, Loop(0, 2, 5)),
        ("xyz" + "aab" * 7, Loop(3, 3, 7)),
        ("b" + "aaaaaaaab" * 4 + "z", Loop(0, 9, 4)),  # not the eight equal ones within a step
        ("abc" * 5 + "eval" + "abc" * 12, Loop(19, 3, 12)),
        ("aaaaabbbbbccccc", None),
        ("abcdefgh", None),
        ("abab", None),  # two repetitions are no loop
        ("a", None),
        ("", None),
    ],
)
def test_sequences(kinds: str, loop: Loop | None) -> None:
    assert find_loop(kinds) == loop


def operations(rows: list[tuple[str, float, float]]) -> pl.DataFrame:
    """Operations of one rank: kind, start and end in ms."""
    full = []
    for number, (op, start, end) in enumerate(rows):
        full.append(
            {
                "op": op,
                "bytes": 8,
                "group_size": 2,
                "iteration": number,
                "phase": "script",
                "rank": 0,
                "host": "west-h0",
                "dc": "west",
                "dtype": "float32",
                "start_ns": round(start * MS),
                "end_ns": round(end * MS),
                "wrong": -1,
                "group": "",
                "algorithm": "gloo",
            }
        )

    return pl.DataFrame(full, schema=dict(schemas.OPS))


def test_step_and_share() -> None:
    """Steps of 100 ms: two operations that overlap, 10 to 40 and 30 to 50 ms, so 40 % of a step."""
    rows = [("broadcast", 0.0, 5.0)]
    for step in range(6):
        begin = 100.0 * step
        rows += [("all_reduce", begin + 10, begin + 40), ("reduce", begin + 30, begin + 50)]

    summary = summarize_loop(operations(rows))
    assert summary is not None
    assert (summary.rank, summary.steps, summary.operations) == (0, 5, 2)
    assert summary.step_ms.median == summary.step_ms.max == 100.0
    assert summary.communication == pytest.approx(0.4)
    assert loop_text(summary) == (
        "A step of 2 operations takes 100 ms (median of 5 steps of rank 0), of which 40.0 % is "
        "communication."
    )


def test_no_loop() -> None:
    assert summarize_loop(operations([("barrier", 0, 1), ("all_reduce", 2, 3)])) is None
