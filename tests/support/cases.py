"""Runs that end in several ways, with a census before and after each.

usage: python cases.py FOLDER SEED INTERRUPTS KILLS    in a separate world (see world.py); writes
FOLDER/result.json
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.census import census, differences
from tests.support.runs import all_reduce

# of wall time for helpers (multiprocessing's resource tracker) to notice that a command has ended,
# and for a killed guest to end: less than 1 s, but more if many programs want the CPU
END_S = 10
# kinds that processes hold until their end; a process that is ending has no words any more
ENDING = {"processes", "namespaces"}
START_S = 30  # of wall time until a command catches signals; it takes 0.1 to 0.6 s
# of wall time for any run or sweep: on two idle cores they take 3 to 60 s, next to 15 other
# programs more than 300 s
LONGEST_S = 900
TESTBED = [sys.executable, "-m", "testbed"]
PAIR = """
name: pair
datacenters:
  west: {hosts: 1, nic: {delay: 0 ms}}
  east: {hosts: 1, nic: {delay: 0 ms}}
wan:
  - {between: [west, east], rate: 1 Gbit/s, delay: 10 ms}
"""


def sizes(text: str, iterations: int) -> list[str]:
    """Options of all-reduces."""
    return all_reduce(text, iterations)


def itself(pid: int) -> int:
    return pid


def await_handlers(process: subprocess.Popen[Any]) -> None:
    """Until the command catches SIGTERM, which it does last: before, signals are Python's and end
    it in its own way.
    """
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = next(
            (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")),
            0,
        )
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)


def try_run(
    words: Sequence[str],
    environment: dict[str, str],
    log: Path,
    *,
    end: str = "",
    after_s: float = 0,
    whom: Callable[[int], int] = itself,
) -> Any:
    """Start a command, and unless `end` is empty send that signal after so long; what became of it.

    Args:
        whom: the process that gets the signal, by the number of the command's.
    """
    found: dict[str, Any] = {
        "words": list(words),
        "end": end,
        "after_s": round(after_s, 3),
        "before": census(),
    }
    begin = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            ["env", "--default-signal=INT", *words],
            env=environment,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
        try:
            process.wait(after_s if end else LONGEST_S)
        except subprocess.TimeoutExpired:
            if end != "SIGKILL":
                await_handlers(process)
            with contextlib.suppress(ProcessLookupError):
                os.kill(whom(process.pid), getattr(signal, end or "SIGKILL"))
        try:
            found["status"] = process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            found["status"] = f"hung, and was killed (then {process.wait()})"
    if end == "SIGKILL":
        subprocess.run(
            [*TESTBED, "topo", "list"], env=environment, check=True, stdout=subprocess.DEVNULL
        )
    seconds = round(time.monotonic() - begin, 2)
    while (
        not ENDING.isdisjoint(differences(found["before"], after := census()))
        and time.monotonic() < begin + seconds + END_S
    ):
        time.sleep(0.05)
    return {**found, "seconds": seconds, "after": after}


def main(folder: Path, seed: int, interrupts: int, kills: int) -> int:
    (pair := folder / "pair.yaml").write_text(PAIR)
    environment = {**os.environ, "TESTBED_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    (folder / "cache").mkdir()
    drawn = random.Random(seed)
    found: dict[str, Any] = {}

    def run(name: str, *words: str, **how: Any) -> None:
        options = ["--isolation", "process", "--out", str(folder / name)]
        found[name] = try_run(
            [*TESTBED, "run", str(pair), "collectives", *words, *options],
            environment,
            folder / f"{name}.log",
            **how,
        )
        (folder / "result.json").write_text(json.dumps(found, indent=1))

    run("success", *sizes("4 KiB", 3))
    run("wrong input", *sizes("4 KiBB", 3))
    run("host without memory", *sizes("4 KiB, 256 MB", 3), "--memory", "160 MiB")
    whole = found["success"]["seconds"]
    for number in range(interrupts):
        run(
            f"interrupt {number}",
            *sizes("4 KiB", 1_000_000),
            end="SIGINT",
            after_s=drawn.uniform(0.3, 1.2 * whole),
        )
    for number in range(kills):
        run(
            f"kill {number}",
            *sizes("4 KiB", 1_000_000),
            end="SIGKILL",
            after_s=drawn.uniform(0.3, 1.2 * whole),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
