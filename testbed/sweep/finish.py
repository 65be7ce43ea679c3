"""The end of a sweep, or of a part of it: tables and page, made anew of what is complete.

They take polars, plotly and so half a second of imports, which a sweep on this machine leaves to
the process from which its points are forked: it needs them, too, and has them when the last point
ends.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from testbed.core.errors import MachineError
from testbed.sweep.folder import SweepDir
from testbed.sweep.local_executor import prepare_process


class Table(NamedTuple):
    """What sweep.parquet holds."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def conclude(folder: SweepDir) -> Table:
    """Write the tables and the page.

    Raises:
        OSError: they cannot be written.
    """
    from testbed.sweep.page import write_page  # noqa: PLC0415 (see above)
    from testbed.sweep.results import gather  # noqa: PLC0415

    points, collectives = gather(folder)
    write_page(folder, points, collectives)
    return Table(points.columns, points.rows())


def conclude_apart(folder: SweepDir) -> Table:
    """`conclude` in a process of its own, within `testbed.sweep.local_executor.fork_server`.

    Raises:
        OSError: they cannot be written.
        MachineError: the process was killed.
    """
    context = multiprocessing.get_context("forkserver")
    try:
        with ProcessPoolExecutor(1, context, initializer=prepare_process) as pool:
            return pool.submit(conclude, folder).result()
    except BrokenProcessPool as error:
        raise MachineError(
            "the process that makes the sweep's tables was killed; this machine's memory may have run out\n"
            f"  every point that is complete is kept; make them with: testbed sweep report {folder.path}"
        ) from error
