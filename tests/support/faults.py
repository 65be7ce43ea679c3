"""Runs and reports in which every write fails once, each in a process of its own.

usage: python -m tests.support.faults FOLDER CASES    CASES: JSON, a list of lists of arguments of
`Case`; prints a line of JSON for each case: `Outcome`
"""

import errno
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.execution.cleanup import reap
from testbed.report.page import warm_up
from testbed.runfolder.status import ROOM
from tests.support.commands import be_command
from tests.support.recorded import use_recorded_backend
from tests.support.synthetic import make_plan, two_dcs

WRITING = os.O_WRONLY | os.O_RDWR
NO_FAULT = -1
TOPOLOGY = """
name: pair
datacenters:
  west: {hosts: 1}
  east: {hosts: 1}
wan:
  - {between: [west, east], rate: 1 Gbit/s, delay: 10 ms}
"""


@dataclass(frozen=True)
class Case:
    """A command and its fault.

    Attributes:
        command: run or report, or a command of `tests.support.deployment_faults`.
        fault: a signal (SIGKILL) or an error (EIO) at a write of the host's side; or RLIMIT_FSIZE.
        number: at which write, from 0; or the limit in bytes.
    """

    command: str
    fault: str
    number: int


@dataclass(frozen=True)
class Outcome:
    """What a case has left.

    Attributes:
        exit_status: of the command; negative: the signal that ended it.
        text: what it printed.
        status: status.json.
        has_page: whether report.html is whole.
        has_summary: whether summary.json is whole.
        leftovers: files that should not be there.
        writes: how many writes the command came to, if it ended by itself.
    """

    exit_status: int
    text: str
    status: dict[str, Any]
    has_page: bool
    has_summary: bool
    leftovers: list[str]
    writes: int


class Writes:
    """An audit hook that counts files opened for writing and renamed in a run folder.

    The records in raw/ do not count: the guest writes them.
    """

    def __init__(self, folder: Path, strike: Callable[[str], None], at: int) -> None:
        self._folder = str(folder)
        self._strike = strike
        self._at = at
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_write = event == "os.rename" or (event == "open" and arguments[2] & WRITING)
        if not is_write:
            return

        path = str(arguments[0])
        if not path.startswith(self._folder) or "/raw/" in path:
            return
        self.count += 1
        if self.count - 1 == self._at:
            self._strike(path)


def strike_with(fault: str) -> Callable[[str], None]:
    def strike(path: str) -> None:
        if fault.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, fault))
        else:
            code = getattr(errno, fault)
            raise OSError(code, os.strerror(code), path)

    return strike


def carry_out(case: Case, folder: Path, topology: Path, log: Path) -> Outcome:
    """Carry out a case in a child."""
    count = log.with_suffix(".count")
    output, end = os.pipe()  # a file would be cut short by a limit of file sizes
    pid = os.fork()
    if pid == 0:
        try:
            in_child(case, folder, topology, end, count)
        finally:
            os._exit(70)
    os.close(end)
    with os.fdopen(output, "rb") as pipe:
        log.write_bytes(pipe.read())
    _pid, wait_status = os.waitpid(pid, 0)
    exit_status = os.waitstatus_to_exitcode(wait_status)
    if exit_status == -signal.SIGKILL:
        reap()
    return look(folder, exit_status, log, count)


def in_child(case: Case, folder: Path, topology: Path, output: int, count: Path) -> None:
    """Run the command of a case, with its fault, and end this process."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    words = ["report", str(folder)]
    if case.command == "run":
        words = ["run", str(topology), "collectives", "--out", str(folder)]
    writes = Writes(folder, strike_with(case.fault), case.number)
    if case.fault == "RLIMIT_FSIZE":
        writes = Writes(folder, strike_with("EIO"), NO_FAULT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.number, case.number))
    sys.addaudithook(writes)
    status = be_command(words)
    count.write_text(str(writes.count))
    os._exit(status)


def look(folder: Path, exit_status: int, log: Path, count: Path) -> Outcome:
    """Look at what a case has left."""

    def document(name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            return {}
        return found

    leftovers = [path.name for path in folder.glob("*.new")] if folder.is_dir() else []
    if (folder / ROOM).exists():
        leftovers.append(ROOM)
    page = folder / "report.html"
    return Outcome(
        exit_status=exit_status,
        text=log.read_text(errors="replace"),
        status=document("status.json"),
        has_page=page.is_file() and page.read_bytes().rstrip().endswith(b"</html>"),
        has_summary=bool(document("summary.json")),
        leftovers=leftovers,
        writes=int(count.read_text()) if count.exists() else 0,
    )


def main(folder: Path, cases: list[list[Any]]) -> None:
    use_recorded_backend()
    warm_up(make_plan(two_dcs()))
    topology = folder / "pair.yaml"
    topology.write_text(TOPOLOGY)
    whole = folder / "whole"
    for position, arguments in enumerate([["run", "EIO", NO_FAULT], *cases]):
        case = Case(*arguments)
        run_folder = folder / f"run-{position}"
        if case.command == "report":
            shutil.copytree(whole, run_folder)
        log = folder / f"{position}.log"
        outcome = carry_out(case, run_folder, topology, log)
        if position == 0:
            assert outcome.exit_status == 0, outcome
            run_folder.rename(whole)
            continue
        print(json.dumps(asdict(outcome)), flush=True)
        shutil.rmtree(run_folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
