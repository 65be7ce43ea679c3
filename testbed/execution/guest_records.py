"""Bring together what several guests have written about one run.

Each guest writes into a folder of its own, laid out like a run folder. While the run goes on, new
records move into the files of the run folder; at the end, the other files do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.plan.model import GuestSite, Plan
from testbed.runfolder.files import FollowedFile, read_plain, replace_text
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    EVENT,
    FirstOperation,
    OperationsTotal,
    Record,
    RecordsRefused,
    RunEnded,
    SeparateWorld,
    ValueDecided,
    append,
    read,
)

# What guest 0 tells about all guests, which go through the stages together.
OF_RANKS = (FirstOperation, OperationsTotal, RecordsRefused, SeparateWorld, ValueDecided)
LINES_AT_A_TIME = 2**22  # bytes


def new_guest_folder(run: RunDir, plan: Plan, site: GuestSite) -> RunDir:
    """Make the folder of a guest below a run folder, with the guest's plan.

    Raises:
        OSError: the folder cannot be written.
    """
    owner = run.path.stat()
    guest = RunDir(run.guests / str(site.number))
    for folder in (guest.path, guest.raw, guest.logs, guest.captures):
        folder.mkdir(parents=True)
    guest.write_plan(plan.for_site(site))
    shutil.chown(guest.path, owner.st_uid, owner.st_gid)
    return guest


class GuestRecords:
    """The folders of the guests of a run, and the run folder."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        """Make a folder for each guest, with the guest's plan.

        Args:
            run: the run folder.
            plan: the plan, with the sites of the guests.

        Raises:
            OSError: a folder cannot be written.
        """
        self._run = run
        self.guests: list[RunDir] = []
        self._followed: dict[Path, FollowedFile] = {}
        self._sizes: dict[str, int] = {}  # bytes of the files when they were last read
        for site in plan.sites:
            self.guests.append(new_guest_folder(run, plan, site))

    def collect(self) -> None:
        """Move the records that guests have written since the last call into the run folder.

        Raises:
            OSError: a file cannot be written.
        """
        self._forward_wish()
        for number, guest in enumerate(self.guests):
            for path in self._grown(guest.raw):
                self._collect(number, path)

    def end(self) -> None:
        """Move the last records, and write the end of the run as the last event.

        Raises:
            OSError: a file cannot be written.
        """
        self.collect()
        ended = self._end()
        if ended is not None:
            append(self._run.events, ended)

    def finish(self) -> None:
        """Move what is left, and remove the guests' folders.

        Raises:
            OSError: a file cannot be written.
        """
        self.collect()
        self._join(self._run.fidelity.name, _joined_lists)
        self._join(self._run.memory_shortage.name, _joined_shortages)
        self._join_containers()
        for number, guest in enumerate(self.guests):
            _move_files(guest.logs, self._run.logs, number)
            _move_files(guest.captures, self._run.captures, number)
            _move_files(guest.work(None), self._run.work(None), number)
            guest.stacks_wanted.unlink(missing_ok=True)
        # What cannot be removed is made harmless with the rest of the run folder.
        shutil.rmtree(self._run.guests, ignore_errors=True)

    def _grown(self, raw: Path) -> list[Path]:
        """Return the files of records that have grown since the last call, in order.

        With hundreds of ranks this looks at hundreds of files, many times in a second.
        """
        grown: list[str] = []
        with os.scandir(raw) as entries:
            for entry in entries:
                if not entry.name.endswith(".jsonl"):
                    continue
                size = entry.stat(follow_symlinks=False).st_size
                if self._sizes.get(entry.path) != size:
                    self._sizes[entry.path] = size
                    grown.append(entry.path)
        return [Path(path) for path in sorted(grown)]

    def _forward_wish(self) -> None:
        """Let every guest write the stacks of its ranks, if they are wanted."""
        if self._run.stacks_wanted.exists():
            self._run.stacks_wanted.unlink()
            for guest in self.guests:
                guest.stacks_wanted.touch()

    def _collect(self, number: int, path: Path) -> None:
        if number > 0 and path.name == self._run.changes.name:
            return  # every guest makes every change, of what it has built

        followed = self._followed.setdefault(path, FollowedFile(path, most_bytes=LINES_AT_A_TIME))
        while data := followed.new():
            if path.name == self._run.events.name:
                data = _events_to_keep(data, is_first=number == 0)
            with (self._run.raw / path.name).open("ab") as file:
                file.write(data)

    def _end(self) -> RunEnded | None:
        """Return the end of the run: the first failure, or of guest 0; None if a guest was lost."""
        ends: list[RunEnded] = []
        for guest in self.guests:
            events: list[Record]
            events, _problems = read(guest.events, EVENT)
            ends += [event for event in events if isinstance(event, RunEnded)]
        failures = [end for end in ends if end.state == "failed"]
        if failures:
            return min(failures, key=lambda end: end.time_ns)
        return ends[0] if len(ends) == len(self.guests) else None

    def _join(self, name: str, join: Callable[[Sequence[Any]], Any]) -> None:
        """Write the file called `name` of raw/ with what the guests' files of that name hold."""
        parts: list[Any] = []
        for guest in self.guests:
            with suppress(OSError, ValueError):
                parts.append(json.loads(read_plain(guest.raw / name)))
        if parts:
            replace_text(self._run.raw / name, json.dumps(join(parts)) + "\n")

    def _join_containers(self) -> None:
        described: dict[str, Any] = {}
        for guest in self.guests:
            with suppress(OSError, ValueError):
                described |= json.loads(read_plain(guest.containers))
                guest.containers.unlink()
        if described:
            replace_text(self._run.containers, json.dumps(described, indent=1) + "\n")


def _events_to_keep(data: bytes, *, is_first: bool) -> bytes:
    """Return the lines of events that describe the run rather than one guest of it."""
    kept: list[bytes] = []
    for line in data.splitlines(keepends=True):
        try:
            event = EVENT.validate_json(line)
        except ValueError:
            continue
        is_of_run = is_first and not isinstance(event, RunEnded)
        if is_of_run or isinstance(event, OF_RANKS):
            kept.append(line)
    return b"".join(kept)


def _joined_lists(parts: Sequence[Any]) -> list[Any]:
    joined: list[Any] = []
    for part in parts:
        joined += part if isinstance(part, list) else []
    return joined


def _joined_shortages(parts: Sequence[Any]) -> dict[str, Any]:
    hosts: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("hosts"), dict):
            hosts |= part["hosts"]
    return {"hosts": hosts}


def _move_files(source: Path, target: Path, number: int) -> None:
    """Move the entries of a guest's folder; a name that exists gets the guest's number."""
    if not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if place.exists() or place.is_symlink():
            place = target / f"{entry.stem}-{number}{entry.suffix}"
        entry.rename(place)
