"""A sweep or a search as it happens: its points by state, and the stage of each point in flight."""

from __future__ import annotations

import json

from pydantic import BaseModel

from testbed.core.errors import InputError
from testbed.runfolder.folder import RunDir
from testbed.spec.experiment import value_text
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint
from testbed.sweep.point_record import read_point_record
from testbed.ui.entries import LONGEST_TEXT, is_run, read_run, read_sweep
from testbed.ui.feed import Parts
from testbed.ui.stage import StageWatch

MOST_POINTS = 2000  # that are listed


class PointEntry(BaseModel):
    """A point in the list; `at` is the path of its run folder, empty without one."""

    name: str
    state: str
    at: str = ""
    values: str = ""
    reason: str = ""


class LiveSweep:
    """Follows one sweep; `look` returns what is known of it by now."""

    def __init__(self, folder: SweepDir, at: str) -> None:
        self._folder = folder
        self._at = at
        self._watches: dict[str, StageWatch] = {}
        self._settled: dict[str, PointEntry] = {}

    def look(self) -> Parts:
        """Return the parts of the page by name."""
        entry = read_sweep(self._folder, self._at)
        parts = {"entry": entry.model_dump_json()}
        try:
            index = self._folder.read_index()
        except InputError:
            return parts
        parts["index"] = json.dumps(
            {
                "description": index.description[:LONGEST_TEXT],
                "answers": [answer[:LONGEST_TEXT] for answer in index.answers],
            }
        )
        points = index.planned[:MOST_POINTS]
        for number, point in enumerate(points):
            shown = self._point(point)
            parts[f"point-{number:04}"] = shown.model_dump_json()
        for point in points:
            stage = self._stage(point)
            if stage is not None:
                parts[f"stage-{point.folder}"] = stage
        return parts

    def _point(self, point: IndexedPoint) -> PointEntry:
        """Return a point; one that has settled is not read again while its folder is there."""
        known = self._settled.get(point.folder)
        if known is not None and (self._folder.path / known.at).is_dir():
            return known.model_copy(update={"at": f"{self._at}/{known.at}"})

        shown = PointEntry(name=point.name, state="waiting", values=_values(point))
        for parent in (self._folder.points, self._folder.failed):
            record = read_point_record(parent / point.folder)
            if record is None:
                continue
            shown.state = record.state
            shown.reason = record.reason[:LONGEST_TEXT]
            if record.misleads:
                shown.state = "not faithful"
                shown.reason = ", ".join(record.doubts)[:LONGEST_TEXT]
            shown.at = f"{parent.name}/{point.folder}"
            self._settled[point.folder] = shown
            return shown.model_copy(update={"at": f"{self._at}/{shown.at}"})
        if is_run(self._folder.running / point.folder):
            shown.state = "running"
            shown.at = f"{self._at}/running/{point.folder}"
        return shown

    def _stage(self, point: IndexedPoint) -> str | None:
        """Return the entry of a point in flight, with its stage; None for other points."""
        path = self._folder.running / point.folder
        if not is_run(path):
            self._watches.pop(point.folder, None)
            return None
        run = RunDir(path)
        watch = self._watches.setdefault(point.folder, StageWatch(run))
        entry = read_run(run, f"{self._at}/running/{point.folder}")
        entry.stage = watch.look()
        return entry.model_dump_json()


def _values(point: IndexedPoint) -> str:
    """Return the values of a point as one line."""
    texts: list[str] = []
    for name, value in point.values.items():
        texts.append(f"{name}={value_text(value)}")
    if point.repeat:
        texts.append(f"repeat={point.repeat}")
    return ", ".join(texts)[:LONGEST_TEXT]
