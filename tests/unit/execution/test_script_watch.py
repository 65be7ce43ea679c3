"""What is shown of a script while it runs: its output, its operations and its steps."""

import time
from pathlib import Path

import pytest

from testbed.cli.progress import PlainDisplay
from testbed.execution.script_watch import (
    ScriptDisplay,
    ScriptProgress,
    ScriptWatch,
    visible,
)
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Operation


class Display:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress: list[ScriptProgress] = []

    def output(self, line: str) -> None:
        self.lines.append(line)

    def script(self, progress: ScriptProgress) -> None:
        self.progress.append(progress)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("step 1\tloss 0.5", "step 1\tloss 0.5"),
        ("\x1b[31mred\x1b[0m\a", "\\x1b[31mred\\x1b[0m\\x07"),
        ("title\x9d0;x\x9c", "title\\x9d0;x\\x9c"),
        ("abc\u202edef\u2028", "abc\\u202edef\\u2028"),
        ("naïve 5 µs ✓", "naïve 5 µs ✓"),
    ],
)
def test_control_characters_are_shown_not_sent(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_appear_once(tmp_path: Path) -> None:
    """Also a character that arrives in two parts, and progress bars that end in returns."""
    run = RunDir.create(tmp_path / "run")
    display = Display()
    watch = ScriptWatch(run, display)
    watch.look(None)
    assert display.lines == []
    run.rank_log(0).write_bytes(b"one\ntwo \xe2\x9c")
    watch.look(None)
    assert display.lines == ["one"]
    with run.rank_log(0).open("ab") as file:
        file.write(b"\x93\r\n 10 %\r 20 %\rbroken \xff\n\nlast")

    watch.look(None)
    new = ["two ✓", " 10 %", " 20 %", "broken \N{REPLACEMENT CHARACTER}"]
    assert display.lines == ["one", *new]
    watch.end()
    watch.end()
    assert display.lines == ["one", *new, "last"]


def line_of(op: str, number: int) -> str:
    """Return the record of an operation of a script."""
    operation = Operation(
        op=op,
        bytes=8,
        group_size=2,
        iteration=number,
        phase="script",
        dtype="float32",
        start_ns=0,
        end_ns=1,
    )
    return operation.to_line()


def test_progress_each_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path / "run")
    display = Display()
    now = [100.0]
    monkeypatch.setattr("testbed.execution.script_watch.time.monotonic", lambda: now[0])
    watch = ScriptWatch(run, display)
    for second in range(4):
        with run.rank_ops(0).open("a") as file:
            for number in range(8):  # two steps of four operations
                op = "barrier" if number % 4 == 3 else "all_reduce"
                file.write(line_of(op, number))

        run.rank_log(0).write_text("hello\nrest")
        for _ in range(3):
            watch.look(0.5 * second)

        now[0] += 1.0

    watch.look(2.0)
    watch.end()
    assert display.lines == ["hello", "rest"]
    assert [progress.operations for progress in display.progress] == [16, 24, 32, 32]
    assert [progress.steps for progress in display.progress] == [4, 6, 8, 8]
    assert display.progress[2].steps_per_s == pytest.approx(2.0)
    assert str(display.progress[2]) == "8 steps, 2 steps/s, 1.500 s on the run's clock"


def test_another_loop_has_no_rate_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathers of layers look like steps until the first step has ended."""
    run = RunDir.create(tmp_path / "run")
    display = Display()
    now = [100.0]
    monkeypatch.setattr("testbed.execution.script_watch.time.monotonic", lambda: now[0])
    watch = ScriptWatch(run, display)
    layers = ["all_gather"] * 20
    step = ["broadcast", "all_gather", "reduce_scatter", "all_reduce", "barrier"]
    for ops in (layers, layers, step * 20, step):
        with run.rank_ops(0).open("a") as file:
            for number, op in enumerate(ops):
                file.write(line_of(op, number))

        now[0] += 1.0
        watch.look(0.0)

    steps = [progress.steps or 0 for progress in display.progress]
    rates = [progress.steps_per_s for progress in display.progress]
    assert steps[2] < steps[1]
    assert rates == [None, 20.0, None, 1.0]


def test_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "12:00:00")
    display = PlainDisplay()
    assert isinstance(display, ScriptDisplay)
    display.output("loss 0.5")
    display.script(ScriptProgress(1.25, 7))
    PlainDisplay(quiet=True).output("nothing")
    PlainDisplay(quiet=True).script(ScriptProgress(1.25, 7))
    assert capsys.readouterr().err == (
        "rank 0: loss 0.5\n12:00:00 running: 7 operations, 1.250 s on the run's clock\n"
    )


STACKS = """\
Thread 0x00007f5b2ffff6c0 (most recent call first):
  <no Python frame>

Current thread 0x00007f5b4c0a1740 (most recent call first):
  File "/my/train.py", line 7 in step
  File "<frozen runpy>", line 88 in _run_code
"""


def _shown(run: RunDir, text: str) -> list[str]:
    display = Display()
    run.rank_log(0).write_text(text)
    ScriptWatch(run, display).end()
    return display.lines


def test_stacks_that_the_testbed_asks_for_are_not_output(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    assert _shown(run, f"step 1\n{STACKS}step 2\n") == ["step 1", "step 2"]
    traceback = 'Traceback (most recent call last):\n  File "/my/train.py", line 7, in step'
    assert _shown(run, f"{STACKS}{traceback}\n") == traceback.splitlines()


@pytest.mark.parametrize("cause", ["Fatal Python error: Segmentation fault", "Timeout (0:00:10)!"])
def test_stacks_of_a_program_are_output(tmp_path: Path, cause: str) -> None:
    run = RunDir.create(tmp_path / "run")
    shown = [line for line in f"{cause}\n{STACKS}".splitlines() if line]
    assert _shown(run, f"{cause}\n\n{STACKS}") == shown
