"""Read a completed run from its folder, with typed tables and figures."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from testbed.core.errors import InputError, Place, Unfaithful, reading
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.status import Status, read_status
from testbed.runfolder.summary import Summary, read_summary

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl


class Run:
    """A run folder, read on demand.

    Notebooks display a run as its verdict, its table of collectives and the path of its report.

    Example:
        ```python
        run = testbed.open_run("results/20260101-120000-two-sites-collectives")
        print(run.status.state, run.summary.collectives[0].time_us.median)
        ```

    Attributes:
        path: The run folder.
    """

    def __init__(self, folder: RunDir) -> None:
        """Read the run from its folder."""
        self._folder = folder
        self.path = folder.path

    def __repr__(self) -> str:
        path = repr(str(self.path))
        status, _problems = read_status(self._folder.status)
        if status is None or status.faithful is not False:
            return f"Run({path})"
        doubts = ", ".join(status.doubts)
        return f"Run({path}, NOT FAITHFUL: {doubts})"

    def _repr_html_(self) -> str:
        from testbed.report.notebook import run_html  # noqa: PLC0415 (only notebooks)

        return run_html(self._folder)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the run, in base units (plan.json)."""
        return self._folder.read_plan()

    @cached_property
    def summary(self) -> Summary:
        """The measurements (summary.json); `problems` also lists damaged parts of the file.

        Raises:
            InputError: Summary.json does not exist.
        """
        summary, damage = read_summary(self._folder.summary)
        codes = [problem.code for problem in damage]
        if ProblemCode.FILE_MISSING in codes:
            remedy = f"run `testbed report {self.path}` to create it"
            raise InputError("no summary.json", place=Place(self.path), remedy=remedy)

        problems = [*summary.problems, *damage]
        return summary.model_copy(update={"problems": problems})

    @cached_property
    def status(self) -> Status:
        """The outcome of the run, and whether its timing is faithful (status.json).

        Raises:
            InputError: Status.json is missing or damaged.
        """
        status, problems = read_status(self._folder.status)
        if status is None:
            reason = "; ".join(str(problem) for problem in problems)
            raise InputError(reason or "status.json is damaged", place=Place(self.path))
        return status

    @property
    def faithful(self) -> bool | None:
        """Whether the figures are those of the plan; None: the run was not judged.

        ``status.warnings`` says why a run is not faithful.
        """
        return self.status.faithful

    def check_faithful(self) -> None:
        """Check that the run is not known to be unfaithful.

        Raises:
            Unfaithful: The run is not faithful; the message says why.
        """
        if self.faithful is False:
            reasons = "\n".join(f"  {warning}" for warning in self.status.warnings)
            raise Unfaithful(f"the run {self.path} is not faithful\n{reasons}")

    @cached_property
    def collectives(self) -> pl.DataFrame:
        """One row per operation and size (columns: `testbed.runfolder.tables.COLLECTIVES`).

        `time_us` is the median over the iterations, `bound_us` the least time that the topology
        allows; both in microseconds.
        """
        from testbed.runfolder.tables import collectives_table  # noqa: PLC0415 (polars: 0.3 s)

        return collectives_table(self.summary)

    @cached_property
    def operations(self) -> pl.DataFrame:
        """One row per operation and rank (columns: `testbed.runfolder.schemas.OPS`)."""
        return self._table(self._folder.ops, "the run recorded no operations")

    @cached_property
    def links(self) -> pl.DataFrame:
        """Samples of each direction of a WAN link (columns: `testbed.runfolder.schemas.LINKS`)."""
        return self._table(self._folder.links, "the run recorded no samples of links")

    @cached_property
    def steps(self) -> pl.DataFrame:
        """One row per training step and rank (columns: `testbed.runfolder.schemas.TRAIN`)."""
        return self._table(self._folder.train, "only the workload train has steps")

    @cached_property
    def gpu_steps(self) -> pl.DataFrame:
        """One row per training step and rank on modelled GPUs (columns: `schemas.GPU`).

        The totals are in `summary.gpu`: MFU, tokens per second, waits for operations, memory.
        """
        return self._table(self._folder.gpu, "only runs with modelled GPUs have these steps")

    @cached_property
    def jobs(self) -> dict[str, Run]:
        """Of a run with several jobs: each job by its name, as a run with its own figures.

        The times of each job, beside the others and alone, are in ``summary.jobs``.
        """
        return {job.name: Run(self._folder.job(job.name)) for job in self.plan.jobs}

    @cached_property
    def flows(self) -> pl.DataFrame:
        """One row per TCP connection, direction and WAN link (columns: docs/captures.md)."""
        return self._table(self._folder.flows, "only runs with captures have flows")

    def report(self) -> Path:
        """Return the path of report.html, and regenerate the report if the file is missing.

        Returns:
            Path of report.html, a page that works offline.

        Raises:
            InputError: The report is missing, and the run's plan cannot be read.

        Example:
            ```python
            webbrowser.open(run.report().as_uri())
            ```
        """
        if not self._folder.report.is_file():
            from testbed.report.make import make_again, open_readable  # noqa: PLC0415 (plotly)

            make_again(open_readable(self.path))
        return self._folder.report

    def plot(self, figure: str | None = None) -> go.Figure:
        """Return a figure of the run, which notebooks show.

        Args:
            figure: Name of the figure: latency, matrix, loss, utilisation, queue, ranks or steps;
                None: the first one that has data.

        Raises:
            InputError: There is no such figure, or it has no data.

        Example:
            ```python
            run.plot("ranks").write_html("ranks.html")
            ```
        """
        from testbed.report.figures.white import on_white  # noqa: PLC0415 (plotly)
        from testbed.report.load import load  # noqa: PLC0415
        from testbed.report.paper.choice import choose_figures  # noqa: PLC0415
        from testbed.report.paper.run_figures import draw_run  # noqa: PLC0415

        with reading(self.path):
            drawn = choose_figures(draw_run(load(self._folder)), figure, ".pdf")
        return on_white(next(iter(drawn.values())))

    def export(
        self,
        to: Literal["csv", "tensorboard", "chakra", "wandb", "mlflow"],
        out: str | Path | None = None,
    ) -> list[Path]:
        """Write the measurements for other tools.

        Args:
            to: csv: a file for each table. tensorboard: an event file. chakra: an execution trace
                of each rank. wandb: offline files. mlflow: a store. All but csv need the extra of
                their name.
            out: Folder for the files; None: a folder in the run folder, named by the format.

        Returns:
            Paths of the files.

        Raises:
            InputError: The format is unknown, or the run has no tables.
            MachineError: The library of the format is not installed.

        Example:
            ```python
            run.export("tensorboard", "logs/first")
            ```
        """
        from testbed.report.export.choice import export_run  # noqa: PLC0415 (polars)

        return export_run(self._folder, to, None if out is None else Path(out))

    def _table(self, path: Path, why_missing: str) -> pl.DataFrame:
        """Read a Parquet file of the run folder.

        Raises:
            InputError: The file does not exist or is damaged.

        Args:
            path: Path of the Parquet file.
            why_missing: Explanation for the error if the file does not exist.
        """
        # polars takes 0.3 s to import, which starting a run need not wait for
        from testbed.runfolder.tables import read_table  # noqa: PLC0415

        if not path.is_file():
            raise InputError(f"no {path.name}", place=Place(path), remedy=why_missing)
        try:
            return read_table(path)
        except OSError as error:
            remedy = f"run `testbed report {self.path}` to regenerate it"
            raise InputError(f"cannot read {path}: {error}", remedy=remedy) from error


def open_run(path: str | Path) -> Run:
    """Open the run folder of an earlier run.

    Args:
        path: The run folder.

    Returns:
        The run; each file is read on first access.

    Raises:
        InputError: `path` is not a run folder.

    Example:
        ```python
        run = testbed.open_run("results/20260101-120000-two-sites-collectives")
        ```
    """
    return Run(RunDir.open(Path(path)))
