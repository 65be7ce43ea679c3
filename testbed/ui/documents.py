"""Reports inside the dashboard: made from a folder's data, never taken from its files.

A folder of a stranger may hold any report.html. The page is therefore made again by this version,
which escapes all texts. It is shown in a frame without an origin, in which only the page's own
scripts run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from threading import Lock

from testbed.core.errors import InputError
from testbed.report.compare_page import Side, compare_page
from testbed.report.html import policy
from testbed.report.load import load
from testbed.report.page import page_html
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_object
from testbed.sweep.page import page_html as sweep_page_html
from testbed.sweep.results import make_tables
from testbed.ui.entries import ResultsFolder
from testbed.ui.stage import modified_s

MOST_COMPARED = 12
MOST_KEPT = 8  # documents
RUN_PAGE = "report.html"
SWEEP_PAGE = "sweep.html"
Version = tuple[float, ...]


class Documents:
    """The pages of runs and sweeps; the newest are kept until their data change."""

    def __init__(self, results: ResultsFolder) -> None:
        self._results = results
        self._kept: dict[str, tuple[Version, bytes]] = {}
        self._lock = Lock()  # one page is made at a time, which leaves the CPUs to runs

    def page(self, path: str) -> bytes:
        """Return the page that a folder has at this path: report.html or sweep.html.

        Raises:
            InputError: There is no such run or sweep, or its data cannot be read.
        """
        place = PurePosixPath(path)
        at = place.parent.as_posix()
        if place.name == RUN_PAGE:
            run = self._results.run(at)
            version = tuple(map(modified_s, (run.status, run.summary, run.ops, run.links)))
        elif place.name == SWEEP_PAGE:
            sweep = self._results.sweep(at)
            parts = (sweep.index, sweep.points, sweep.failed)
            version = tuple(map(modified_s, parts))
        else:
            raise InputError(f"no page at {path}")

        with self._lock:
            kept = self._kept.pop(path, None)
            if kept is None or kept[0] != version:
                html = self._run(at) if place.name == RUN_PAGE else self._sweep(at)
                kept = (version, html)
            self._kept[path] = kept
            for oldest in list(self._kept)[:-MOST_KEPT]:
                del self._kept[oldest]
        return kept[1]

    def _run(self, at: str) -> bytes:
        return page_html(load(self._results.run(at)))

    def _sweep(self, at: str) -> bytes:
        sweep = self._results.sweep(at)
        return sweep_page_html(sweep, *make_tables(sweep))

    def comparison(self, places: Sequence[str]) -> bytes:
        """Return the page that compares runs.

        Raises:
            InputError: There are fewer than two runs, too many, or one of them is no run.
        """
        if not 2 <= len(places) <= MOST_COMPARED:
            raise InputError(f"choose 2 to {MOST_COMPARED} runs to compare")
        sides: list[Side] = []
        for at in places:
            run = self._results.run(at)
            plan, _problems = read_object(run.plan)
            status, _problems = read_status(run.status)
            sides.append(Side(at, load(run, status), plan))
        with self._lock:
            return compare_page(sides)


def frame_policy() -> str:
    """Return the content security policy of a report: no origin, and only our scripts."""
    return f"{policy()}; frame-ancestors 'self'; sandbox allow-scripts allow-downloads"
