"""Run some guests of a run on this machine, with a bridge to the machines of the other guests.

usage: python -m testbed.execution.machine_part DESCRIPTOR

The process that started this one asks over the connection DESCRIPTOR (see `RunPart.ask`). When the
connection ends, however that happens, the guests end and their folder is removed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from testbed.core.errors import MachineError, TestbedError
from testbed.core.leftovers import temporary_folder
from testbed.core.paths import cache_dir
from testbed.execution.cleanup import reap
from testbed.execution.guest_code import Code, code_for_guests, plan_folders
from testbed.execution.guest_records import new_guest_folder
from testbed.execution.machines import Address, GuestNews, News, PartOrder
from testbed.execution.progress import SilentProgress
from testbed.execution.sites_backend import SitesBackend, links_of
from testbed.execution.versions import version_mismatch, versions
from testbed.guest.boot import Guest, start_guest
from testbed.guest.bridge.bridge import BridgeEnd, MachineBridge
from testbed.guest.bridge.connection import BridgeConnection, accept, connect, listen
from testbed.guest.bridge.library import bridge_library
from testbed.guest.bridge.link import BridgeLink
from testbed.guest.bridge.memory import BridgedMemory
from testbed.guest.sites import SharedClock, shared_clock
from testbed.plan.model import Plan
from testbed.runfolder.files import open_plain
from testbed.runfolder.folder import RunDir

MOST_BYTES = 2**22  # of files, in one answer
LAST_S = 15.0  # to end guests and to remove their folder
MEETING_S = 60.0  # for all machines to connect


class MachinePart:
    """The guests of one machine, and the bridge to the other machines."""

    def __init__(self, stack: ExitStack) -> None:
        """Prepare a part whose folder is removed at the end of `stack`."""
        self._stack = stack
        self._running = stack.enter_context(ExitStack())  # ends the guests
        self._backend = SitesBackend()
        self._guests: dict[int, Guest] = {}
        self._folders: dict[int, RunDir] = {}
        self._cpu_s: dict[int, float] = {}  # of guests: processes that have ended vanish
        self._sent: dict[Path, int] = {}  # bytes of each file
        self._archive: Path | None = None
        self._listener: socket.socket | None = None
        self._bridge: MachineBridge | None = None
        self._plan: Plan
        self._order: PartOrder
        self._run: RunDir
        self._code: Code
        self._clock: SharedClock

    def prepare(self, order: PartOrder) -> Address | None:
        """Check that this machine can run its guests.

        Args:
            order: the run.

        Returns:
            The address at which the hub listens; None for other parts.

        Raises:
            MachineError: this machine lacks something.
        """
        reap()
        plan = Plan.model_validate_json(order.plan)
        self._order, self._plan = order, plan
        self._backend.check(plan)
        self._backend.prepare(SilentProgress())
        self._backend.require_shared_clock()
        mismatch = version_mismatch(plan.versions, versions(self._backend.kernel_version()))
        if mismatch:
            raise MachineError(mismatch)
        for folder in sorted(plan_folders(plan)):
            if not folder.exists():
                raise MachineError(
                    f"the node {socket.gethostname()} has no {folder}, which the run needs\n"
                    "  copy it there, under the same path"
                )
        bridge_library()
        self._code = code_for_guests()
        if order.place > 0:
            return None
        self._listener = self._stack.enter_context(listen(order.address))
        host, port = self._listener.getsockname()[:2]
        return host, port

    def start(self, hub: Address) -> None:
        """Connect to the other machines, and start the guests.

        Args:
            hub: the address at which part 0 listens.

        Raises:
            MachineError: the machines cannot reach each other, or a guest cannot be started.
        """
        order, plan = self._order, self._plan
        own = order.groups[order.place]
        connections = self._connect(hub)
        beyond = list(connections)
        clock = shared_clock(len(plan.sites), links_of(plan), beyond)
        self._clock = self._stack.enter_context(clock)
        memory = BridgedMemory(self._clock.descriptor, bridge_library())

        parent = cache_dir() / "parts"
        parent.mkdir(exist_ok=True)
        folder = self._stack.enter_context(temporary_folder("run-", parent))
        self._run = RunDir.create(folder)
        for number in own:
            site = plan.sites[number]
            guest_folder = new_guest_folder(self._run, plan, site)
            self._folders[number] = guest_folder
            spec = self._backend.spec_for_site(
                plan, self._run, self._code, site, guest_folder, self._clock
            )
            self._guests[number] = self._running.enter_context(start_guest(spec))
        ends = [BridgeEnd(BridgeLink(memory, group), connections[group]) for group in beyond]
        self._bridge = MachineBridge(memory, ends)

    def look(self, wishes: Sequence[int]) -> News:
        """Return what is new.

        Args:
            wishes: numbers of the guests whose ranks shall write their stacks.
        """
        for number in wishes:
            self._folders[number].stacks_wanted.touch()
        failure = self._bridge.failure if self._bridge is not None else ""
        statuses = {number: guest.status() for number, guest in self._guests.items()}
        files = self._new_bytes()
        is_complete = sum(map(len, files.values())) < MOST_BYTES
        guests: dict[int, GuestNews] = {}
        for number, guest in self._guests.items():
            status = statuses[number]
            self._cpu_s[number] = max(self._cpu_s.get(number, 0.0), guest.cpu_seconds())
            guests[number] = GuestNews(
                status=status if is_complete else None,
                reading=guest.clock(),
                cpu_s=self._cpu_s[number],
                work=self._clock.work(number),
            )
        return News(guests, files, failure)

    def finish(self) -> None:
        """End the guests, and collect the files that `look` does not return."""
        if not self._guests:
            return
        self._running.close()
        archive = self._run.path / "rest.tar"
        with tarfile.open(archive, "w") as tar:
            for folder in self._folders.values():
                folder.settle()
                for path in sorted(folder.path.rglob("*")):
                    if path not in self._sent and not path.is_dir():
                        tar.add(path, path.relative_to(self._run.path), recursive=False)
        self._archive = archive

    def rest(self, offset: int) -> bytes:
        """Return the next bytes of the archive that `finish` has made; empty at its end."""
        if self._archive is None:
            return b""
        with self._archive.open("rb") as file:
            file.seek(offset)
            return file.read(MOST_BYTES)

    def _connect(self, hub: Address) -> dict[tuple[int, ...], BridgeConnection]:
        """Return the connections, by the guests that are beyond."""
        order = self._order
        own = order.groups[order.place]
        connections: dict[tuple[int, ...], BridgeConnection] = {}
        if self._listener is None:
            others = tuple(site.number for site in self._plan.sites if site.number not in own)
            connections[others] = connect(hub, order.token, order.place, MEETING_S)
            return connections
        while len(connections) < len(order.groups) - 1:
            try:
                place, connection = accept(self._listener, order.token, MEETING_S)
            except TimeoutError:
                raise MachineError(
                    f"only {len(connections)} of {len(order.groups) - 1} machines have connected "
                    f"to {hub[0]} within {MEETING_S:.0f} s"
                ) from None
            connections[order.groups[place]] = connection
        return connections

    def _new_bytes(self) -> dict[str, bytes]:
        """Return the new bytes of records and logs, by their path in the run folder."""
        paths = sorted(self._run.logs.glob("*.log")) if self._guests else []
        for folder in self._folders.values():
            paths += sorted(folder.raw.glob("*.jsonl"))
            paths += sorted(folder.logs.iterdir())
        new: dict[str, bytes] = {}
        room = MOST_BYTES
        for path in paths:
            offset = self._sent.get(path, 0)
            with suppress(OSError), open_plain(path) as file:
                file.seek(offset)
                data = file.read(room)
                if data or path not in self._sent:
                    new[str(path.relative_to(self._run.path))] = data
                    room -= len(data)
                self._sent[path] = offset + len(data)
        return new


def serve(connection: Connection) -> None:
    """Answer what the other end asks until it closes the connection."""
    with ExitStack() as stack:
        part = MachinePart(stack)
        while True:
            try:
                method, arguments = connection.recv()
            except (EOFError, OSError):
                return
            answer: tuple[str, Any]
            try:
                answer = ("done", getattr(part, method)(*arguments))
            except TestbedError as error:
                answer = ("failed", str(error))
            except Exception as error:
                answer = ("failed", f"{type(error).__name__}: {error}")
            with suppress(OSError):
                connection.send(answer)


def _end_after(descriptor: int) -> None:
    """End this process soon after the other end has closed the connection, even amid some work."""
    closing = select.poll()
    closing.register(descriptor, select.POLLRDHUP)
    closing.poll()
    time.sleep(LAST_S)
    os._exit(1)


def main(descriptor: int) -> None:
    """Serve the process at the other end of a connection."""
    threading.Thread(target=_end_after, args=[descriptor], daemon=True).start()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the connection's end says when to end
    serve(Connection(descriptor))


if __name__ == "__main__":
    main(int(sys.argv[1]))
