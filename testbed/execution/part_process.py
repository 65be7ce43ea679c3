"""Run parts of a run in processes of this machine, and ask them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import testbed
from testbed.core.errors import MachineError
from testbed.execution.cleanup import reap
from testbed.execution.machines import PartLost, RunPart
from testbed.execution.supervise import Progress
from testbed.guest.kernel import Kernel
from testbed.plan.model import Plan

ENDING_S = 20.0  # for a part to end its guests and to remove their folder
LOOPBACK = "127.0.0.1"


class PartProcess:
    """A part of a run in a process, which ends with this one."""

    def __init__(self, name: str, guests: Sequence[int], environment: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            name: name of the machine, for messages.
            guests: numbers of the guests of the part.
            environment: variables that the process gets in addition.
        """
        self.name = name
        self.guests = tuple(guests)
        self.address = LOOPBACK
        ours, theirs = Pipe()
        descriptor = theirs.fileno()
        python = [sys.executable, "-m", "testbed.execution.machine_part", str(descriptor)]
        project = Path(testbed.__file__).resolve().parent.parent
        # The process is nobody's child: what kills this process and its children leaves it the
        # time to end its guests and to remove their folder.
        subprocess.run(
            ["setsid", "--fork", *python],
            env={**os.environ, "PYTHONPATH": str(project), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            check=True,
        )
        theirs.close()
        self._connection: Connection = ours

    def ask(self, method: str, *arguments: Any) -> None:
        """Ask for a method of `MachinePart`; see `RunPart.ask`.

        Raises:
            PartLost: the process has ended.
        """
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise PartLost("its process has ended") from error

    def answer(self, timeout_s: float | None) -> tuple[Any] | None:
        """Return the answer; see `RunPart.answer`.

        Raises:
            MachineError: the method has failed.
            PartLost: the process has ended.
        """
        try:
            if not self._connection.poll(timeout_s):
                return None
            outcome, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise PartLost("its process has ended") from error
        if outcome == "failed":
            raise MachineError(value)
        return (value,)

    def end(self) -> None:
        """Let the process end its guests and remove their folder, and wait for that."""
        try:
            connection = socket.socket(fileno=os.dup(self._connection.fileno()))
            with connection:
                connection.shutdown(socket.SHUT_WR)
            while self._connection.poll(ENDING_S):
                self._connection.recv()
        except (EOFError, OSError):
            pass
        finally:
            self._connection.close()


class ProcessMachines:
    """Several parts of a run on this machine, which are connected as those of machines are."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        """Prepare parts with the given guests."""
        self._groups = groups

    @contextmanager
    def place(self, plan: Plan, kernel: Kernel, progress: Progress) -> Iterator[list[RunPart]]:
        """Start a process for each part; see `Machines.place`."""
        del plan, progress
        environment = {"TESTBED_KERNEL": str(kernel.path)}
        with ExitStack() as stack:
            stack.callback(reap)  # a part that was killed leaves its folder
            parts: list[RunPart] = []
            for number, guests in enumerate(self._groups):
                part = PartProcess(f"process-{number}", guests, environment)
                stack.callback(part.end)
                parts.append(part)
            yield parts
