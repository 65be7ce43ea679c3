"""Write the tables and the page of a sweep from the completed points.

The tables need polars and the page needs plotly, which take half a second to import. A sweep on
this machine leaves both to its fork server, which has imported them before the last point ends.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from testbed.core.errors import MachineError, reading
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import CONTEXT, main_module_hidden, prepare_process


class PointRows(NamedTuple):
    """Contents of sweep.parquet: column names, and rows with one value per column."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def write_outputs(folder: SweepDir) -> PointRows:
    """Write the tables and the page, and return the rows of the points.

    Raises:
        OSError: A table or the page cannot be written.
    """
    from testbed.report.html import write_plotly  # noqa: PLC0415
    from testbed.sweep.page import write_page  # noqa: PLC0415 (takes half a second, see above)
    from testbed.sweep.results import gather  # noqa: PLC0415

    write_plotly(folder.plotly)
    tables = gather(folder)
    with reading(folder.index):
        write_page(folder, tables.points, tables.collectives)
    return PointRows(tables.points.columns, tables.points.rows())


def write_outputs_in_fork(folder: SweepDir) -> PointRows:
    """Run `write_outputs` in a process forked from the sweep's fork server.

    Raises:
        OSError: A table or the page cannot be written.
        MachineError: The process was killed.
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
