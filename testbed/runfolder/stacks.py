"""logs/stacks.txt: what each rank was doing when a run stood still, as Python's faulthandler says.

The file has one part per request for stacks, each with one entry per rank: a line
``rank R on HOST: STATE``, then the threads of each Python process, newest thread first, the
innermost call of a thread first. The line ``end of the stacks`` ends a part.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HEADING = re.compile(r"^rank (\d+) on (\S+): (.*)$", re.MULTILINE)
FRAME = re.compile(r'^ +File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)
THREAD = re.compile(r"^(?:Current thread|Thread) 0x.*\(most recent call first\):$", re.MULTILINE)
END = "end of the stacks\n"  # last line of a part
# The packages of testbed. A clone may have the name testbed as well, and contain a user's script.
PACKAGES = (
    "analysis",
    "api",
    "cli",
    "core",
    "deployments",
    "doctor",
    "execution",
    "guest",
    "measure",
    "network",
    "plan",
    "report",
    "runfolder",
    "spec",
    "sweep",
    "ui",
    "workers",
)
OWN = (*(f"/testbed/{package}/" for package in PACKAGES), "/testbed/__main__.py")
# Parts of the paths of files that a user did not write.
FOREIGN = (*OWN, "<frozen", "/torch/", "/workloads/script/", "/python3.", "/runpy.py")
# Calls of these files mean that a rank is in an operation of torch.distributed.
# A backward pass may wait for the operations of DistributedDataParallel.
OPERATION_FILES = ("/torch/distributed/", "/testbed/workers/dispatcher.py", "/torch/autograd/")
DECORATORS = "/c10d_logger.py"  # calls in it are named `wrapper`
ENDS_OF_PROGRAMS = ("Fatal Python error", "Timeout (")  # stacks below these are a program's own
NO_FRAME = "  <no Python frame>"
NOT_RANKS = ("_end_as",)  # of a process that waits for a rank in a container


@dataclass(frozen=True)
class Frame:
    """A call in a stack."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.name}"


@dataclass(frozen=True)
class RankStacks:
    """The stacks of one rank.

    Attributes:
        rank: number of the rank.
        host: the rank's host.
        state: state of the rank's processes, for people.
        threads: calls of each thread, innermost first; the main thread is last.
    """

    rank: int
    host: str
    state: str
    threads: tuple[tuple[Frame, ...], ...]

    @property
    def operation(self) -> str | None:
        """The torch.distributed call that the rank is in; None outside of such calls."""
        for thread in self.threads:
            outermost = None
            for frame in thread:
                is_operation = any(part in frame.file for part in OPERATION_FILES)
                if is_operation and not frame.file.endswith(DECORATORS):
                    outermost = frame.name
            if outermost is not None:
                return outermost
        return None

    @property
    def place(self) -> Frame | None:
        """The innermost call of the main thread in a file of the user, else in any file."""
        if not self.threads or not self.threads[-1]:
            return None
        main = self.threads[-1]
        for frame in main:
            if not any(part in frame.file for part in FOREIGN):
                return frame
        return main[0]

    @property
    def may_wait(self) -> bool:
        """Whether the source line of the place calls a method `wait`."""
        place = self.place
        return place is not None and ".wait(" in linecache.getline(place.file, place.line)

    def __str__(self) -> str:
        text = f"rank {self.rank} on {self.host}: {self.state}"
        if self.place is not None:
            text += f", at {self.place}"
        if self.operation is not None:
            text += f", in torch.distributed ({self.operation})"
        return text


class AnsweredStacks:
    """Lines of a rank's log that answer a request for stacks, among the lines of the program."""

    def __init__(self) -> None:
        self._are_threads_of_program = False
        self._is_in_thread = False

    def has(self, line: str) -> bool:
        """Whether the next line belongs to stacks that the testbed has asked for."""
        if THREAD.match(line):
            self._is_in_thread = not self._are_threads_of_program
            return self._is_in_thread

        is_frame = FRAME.match(line) is not None or line == NO_FRAME
        if is_frame:
            return self._is_in_thread

        self._is_in_thread = False
        self._are_threads_of_program = line.startswith(ENDS_OF_PROGRAMS)
        return False


def parse_stacks(text: str) -> list[RankStacks]:
    """Read the entries of stacks.txt, or of one part of it."""
    headings = list(HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]]
    ends.append(len(text))

    ranks: list[RankStacks] = []
    for heading, end in zip(headings, ends, strict=False):
        rank, host, state = heading.groups()
        below = text[heading.end() : end]
        threads = tuple(_threads(below))
        ranks.append(RankStacks(int(rank), host, state, threads))
    return ranks


def _threads(text: str) -> Iterator[tuple[Frame, ...]]:
    for part in THREAD.split(text)[1:]:
        frames = [
            Frame(frame["file"], int(frame["line"]), frame["name"])
            for frame in FRAME.finditer(part)
        ]
        if frames and frames[0].name in NOT_RANKS:
            continue
        yield tuple(frames)


def describe(stacks: Sequence[RankStacks]) -> str:
    """Return one indented line per rank."""
    return "\n".join(f"    {entry}" for entry in stacks)
