"""The state of a process that takes the place of a new interpreter."""

import os
import re
import signal
from pathlib import Path

from testbed.workloads.script.new_interpreter import renew_process

from testbed.workers import stacks


def _caught_after(handle: bool) -> list[int]:
    """The signals that a child catches after it was renewed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        if handle:
            signal.signal(signal.SIGTERM, lambda *about: None)
            stacks.answer_requests()
        renew_process()
        os.write(2, Path("/proc/self/status").read_bytes())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as file:
        (mask,) = re.findall(r"^SigCgt:\s(\w+)$", file.read(), re.MULTILINE)
    # the C library has signals for itself, which programs cannot use
    return [number for number in signal.valid_signals() if int(mask, 16) >> (number - 1) & 1]


def test_only_requests_for_stacks_are_caught() -> None:
    assert _caught_after(False) == []
    assert _caught_after(True) == [stacks.SIGNAL]
