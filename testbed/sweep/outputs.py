"""Write the tables and the page of a sweep from the points that are complete.

Both need polars and plotly, which take half a second to import. A sweep on this machine leaves that
to its fork server, which has imported them by the time the last point ends.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from testbed.core.errors import MachineError
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import CONTEXT, main_module_hidden, prepare_process


class PointRows(NamedTuple):
    """What sweep.parquet holds: names of columns, and rows with a value for each."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def write_outputs(folder: SweepDir) -> PointRows:
    """Write the tables and the page.

    Raises:
        OSError: they cannot be written.
    """
    from testbed.sweep.page import write_page  # noqa: PLC0415 (takes half a second, see above)
    from testbed.sweep.results import gather  # noqa: PLC0415

    tables = gather(folder)
    write_page(folder, tables.points, tables.collectives)
    return PointRows(tables.points.columns, tables.points.rows())


def write_outputs_in_fork(folder: SweepDir) -> PointRows:
    """Do `write_outputs` in a process that is forked from the sweep's fork server.

    Raises:
        OSError: they cannot be written.
        MachineError: the process was killed.
    """
    try:
        with ProcessPoolExecutor(1, CONTEXT, initializer=prepare_process) as pool:
            with main_module_hidden():  # `submit` starts the process
                future = pool.submit(write_outputs, folder)
            return future.result()
    except BrokenProcessPool as error:
        raise MachineError(
            "the process that makes the sweep's tables was killed; this machine may have run out "
            "of memory\n"
            f"  complete points were kept; make the tables with: testbed sweep report {folder.path}"
        ) from error
