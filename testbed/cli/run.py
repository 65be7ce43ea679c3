"""testbed run: one run of a workload, or of the user's own script, on a topology."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typer.core import TyperCommand

from testbed.cli.options import (
    Capture,
    Clock,
    EventsFrom,
    Format,
    FormatOption,
    Isolation,
    Out,
    Set,
    Topology,
    Where,
    memory_size,
)
from testbed.cli.report import print_files, print_tables
from testbed.core.errors import InputError, MachineError, Place
from testbed.core.units import UnitError, format_size
from testbed.execution.launch import launch
from testbed.measure.capture import check_filter
from testbed.plan.model import Capturing
from testbed.plan.model import Clock as ClockName
from testbed.plan.resolve import resolve
from testbed.runfolder.folder import RunDir
from testbed.spec import topology as topology_spec
from testbed.spec.base import input_error
from testbed.spec.overrides import Override, parse_overrides
from testbed.spec.workload import Workload, load_workload
from testbed.workloads.script.settings import Script, shown

SCRIPT = "testbed.script"  # in typer's context

STAGES = {
    "modules": "collecting Python's modules",
    "boot": "starting",
    "workers": "starting workers",
    "network": "building the network",
    "verify": "measuring RTTs",
    "measurement": "starting captures",
    "import": "importing torch",
    "ops": "running",
    "report": "writing the report",
}


def _nothing() -> None:
    return None


class Display:
    """Live progress on standard error: one line per stage, then operations with an estimate."""

    def __init__(self, progress: Progress, show: Callable[[], None] = _nothing) -> None:
        """`show` is called as soon as there is something to show."""
        self._progress = progress
        self._show = show
        self._task: TaskID = progress.add_task("preparing", total=None)

    def building(self, what: str, part: float) -> None:
        """The guest kernel is built."""
        self._progress.update(
            self._task, description=f"guest kernel: {what}", total=1.0, completed=part
        )

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._progress.reset(self._task, description=STAGES.get(name, name), total=None)

    def advance(self, done: int, total: int, unit: str) -> None:
        """Operations or steps of rank 0."""
        self._progress.update(
            self._task,
            description=f"running, {unit} {done} of {total}",
            total=total or None,
            completed=done,
        )

    def measured(self) -> None:
        """The tables are there."""
        self._progress.stop()
        self._show()


class PlainDisplay:
    """Progress where standard error is no terminal: a line per stage."""

    def __init__(self, show: Callable[[], None] = _nothing) -> None:
        """`show` is called as soon as there is something to show."""
        self._last = ""
        self.measured = show

    def _say(self, text: str) -> None:
        if text != self._last:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
            self._last = text

    def building(self, what: str, part: float) -> None:
        """The guest kernel is built."""
        self._say(f"guest kernel: {what} {int(part * 10) * 10} %")

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._say(STAGES.get(name, name))

    def advance(self, done: int, total: int, unit: str) -> None:
        """Operations or steps of rank 0, every tenth part."""
        self._say(f"{unit}s: {int(10 * done / max(total, 1)) * 10} % of {total}")


class TimeLeft(TimeRemainingColumn):
    """The estimate, where there is one."""

    def render(self, task: Task) -> Text:
        """As ``0:00:42 left``."""
        return (
            Text() if task.time_remaining is None else Text.assemble(super().render(task), " left")
        )


@contextmanager
def display(show: Callable[[], None] = _nothing) -> Iterator[Display | PlainDisplay]:
    """The display that fits standard error; `show` is called as soon as there is something to
    show.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainDisplay(show)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeLeft())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Display(progress, show)


class RunCommand(TyperCommand):
    """``testbed run``: what follows ``--`` is not its own, but the script and the script's
    arguments.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Set the script apart, word by word, in ``ctx.meta``.

        Raises:
            InputError: a script without ``--``, or the reverse.
        """
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta[SCRIPT] = script = args[len(own) + 1 :]
        if len(own) < len(args) and not script:
            raise InputError(
                "nothing follows --", remedy="write the script and its arguments there"
            )
        for number, word in enumerate(own):
            if word.endswith(".py") and not word.startswith("-"):
                remedy = (
                    f"testbed run {' '.join(own[:number])} -- {' '.join([*own[number:], *script])}"
                )
                raise InputError(f"{word}: a script comes after --", remedy=f"write {remedy}")
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """With the script."""
        return [*super().collect_usage_pieces(ctx), "[-- SCRIPT [ARGUMENT]...]"]


def run(
    context: typer.Context,
    topology: Topology,
    workload: Annotated[
        str | None,
        typer.Argument(help="a preset or the path of a workload file \\[default: collectives]"),
    ] = None,
    sets: Set = [],  # noqa: B006 (typer copies it)
    scale: Annotated[
        int | None,
        typer.Option(
            envvar="TESTBED_SCALE", min=1, help="train: divide parameters and rates, keep times"
        ),
    ] = None,
    where: Annotated[
        Where,
        typer.Option(
            envvar="TESTBED_WHERE",
            help="in a guest kernel, or here in this machine's own (as root)",
        ),
    ] = Where.GUEST,
    clock: Annotated[
        Clock | None,
        typer.Option(
            envvar="TESTBED_CLOCK", help="the run's clock \\[default: virtual; here: real]"
        ),
    ] = None,
    isolation: Annotated[
        Isolation,
        typer.Option(
            envvar="TESTBED_ISOLATION", help="what a host is: a container, or processes (quicker)"
        ),
    ] = Isolation.CONTAINER,
    capture: Annotated[
        Capture,
        typer.Option(
            envvar="TESTBED_CAPTURE",
            help="packet captures: none, at both ends of every WAN link, and at hosts",
        ),
    ] = Capture.NONE,
    capture_filter: Annotated[
        str | None,
        typer.Option(
            envvar="TESTBED_CAPTURE_FILTER",
            help="what to capture, as for tcpdump: 'tcp port 29500'",
        ),
    ] = None,
    capture_snap: Annotated[
        str | None,
        typer.Option(
            envvar="TESTBED_CAPTURE_SNAP",
            help="how much of each packet to capture \\[default: 128 B]",
        ),
    ] = None,
    capture_limit: Annotated[
        str | None,
        typer.Option(
            envvar="TESTBED_CAPTURE_LIMIT",
            help="largest capture of an interface \\[default: 256 MB]",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(envvar="TESTBED_SEED", min=0, help="of everything that is drawn")
    ] = 0,
    image: Annotated[
        Path | None,
        typer.Option(
            envvar="TESTBED_IMAGE", help="tar of a container image with python3, torch and pydantic"
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(envvar="TESTBED_MEMORY", help="limit of a host's memory, e.g. 2 GiB"),
    ] = None,
    cpus: Annotated[
        float,
        typer.Option(
            envvar="TESTBED_CPUS", min=0.01, help="limit of a host's CPUs (real clock only)"
        ),
    ] = 1.0,
    guest_memory: Annotated[
        str | None,
        typer.Option(
            envvar="TESTBED_GUEST_MEMORY", help="memory of the guest \\[default: from the plan]"
        ),
    ] = None,
    stall_limit: Annotated[
        float,
        typer.Option(
            envvar="TESTBED_STALL_LIMIT",
            min=1,
            help="wall seconds that the virtual clock may stand still",
        ),
    ] = 300.0,
    out: Out = None,
    output: FormatOption = Format.TABLE,
    nproc_per_host: Annotated[
        int | None,
        typer.Option(
            envvar="TESTBED_NPROC_PER_HOST",
            min=1,
            help="ranks of a script on each host \\[default: 1]",
        ),
    ] = None,
    shared_folder: Annotated[
        bool,
        typer.Option(
            "--shared-folder", help="one working folder for a script on all hosts, as with NFS"
        ),
    ] = False,
    events_from: Annotated[
        EventsFrom | None,
        typer.Option(
            envvar="TESTBED_EVENTS_FROM",
            help="when the topology's events begin to count: at the first torch.distributed operation of a script's "
            "rank 0, or at its start \\[default: operation]",
        ),
    ] = None,
    env: Annotated[
        list[str],
        typer.Option("--env", metavar="NAME=VALUE", help="an environment variable of every rank"),
    ] = [],  # noqa: B006
    readable: Annotated[
        list[Path],
        typer.Option(
            help="a folder that hosts can read, besides the script's own",
            exists=True,
            file_okay=False,
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan as JSON and start nothing")
    ] = False,
) -> None:
    """Run a workload on a topology: build the network, start the workers, measure, report.

    After -- comes a script of your own instead, with its arguments: testbed run two-sites --
    train.py --lr 3e-4. It is started on every host as torchrun would start it.
    """
    if scale is not None:
        sets = [*sets, f"workload.scale={scale}"]
    overrides = parse_overrides(sets, ["topology", "workload"])
    network = topology_spec.Topology.load(topology, overrides["topology"])
    given = {
        "ranks_per_host": nproc_per_host,
        "shared_folder": shared_folder or None,
        "events_from": events_from and events_from.value,
    }
    of_script = {key: value for key, value in given.items() if value is not None}
    script = context.meta[SCRIPT]
    if script:
        work = _script(
            script, of_script, workload, overrides["workload"], in_image=image is not None
        )
    else:
        work = _workload(workload, of_script, overrides["workload"])
    plan = resolve(
        network,
        work,
        seed=seed,
        clock=_clock(clock, where),
        where=where.value,
        isolation=isolation.value,
        capture=capture.value,
        capturing=_capturing(capture, capture_filter, capture_snap, capture_limit),
        image=image,
        host_memory_bytes=memory_size(memory, "--memory") if memory else None,
        guest_memory_bytes=memory_size(guest_memory, "--guest-memory") if guest_memory else None,
        host_cpus=cpus,
        environment=_variables(env),
        readable=[_shown(folder) for folder in readable],
    )
    if dry_run:
        typer.echo(plan.model_dump_json(indent=2))
        return
    folder = RunDir.create(out or _default_folder(network.name, work.workload))
    spec = f"# topology\n{network.to_yaml()}---\n# workload\n{work.to_yaml()}"
    try:
        with display(lambda: print_tables(folder, output, in_short=True)) as progress:
            launch(
                plan,
                folder,
                spec=spec,
                command=sys.argv,
                stall_limit_s=stall_limit,
                progress=progress,
            )
    except MachineError:  # nothing was started, and so there is nothing to show
        raise
    except BaseException:
        print_files(folder, output)
        raise
    print_files(folder, output)


def _clock(given: Clock | None, where: Where) -> ClockName:
    if given is not None:
        return given.value
    return "real" if where is Where.HERE else "virtual"


def _workload(
    name: str | None, of_script: Mapping[str, object], overrides: list[Override]
) -> Workload:
    """The workload called `name`."""
    for key, value in of_script.items():
        option = {"ranks_per_host": "--nproc-per-host"}.get(key, f"--{key.replace('_', '-')}")
        remedy = (
            f"for a workload write --set workload.{key}={value}" if key == "ranks_per_host" else ""
        )
        raise InputError(
            "it is about a script, and there is none", place=Place(key=option), remedy=remedy
        )
    return load_workload(name or "collectives", overrides)


def _script(
    words: list[str],
    settings: Mapping[str, object],
    workload: str | None,
    overrides: list[Override],
    *,
    in_image: bool,
) -> Workload:
    """The user's script as a workload."""
    if workload is not None:
        remedy = f"leave out {workload}, or -- and what follows"
        raise InputError(
            f"a run has a workload ({workload}) or a script ({words[0]}), not both", remedy=remedy
        )
    if overrides:
        remedy = "write the script's options after the script"
        raise InputError(
            "a script has no settings of a workload", place=Place(key="--set"), remedy=remedy
        )
    try:
        work = Script.model_validate({"command": words, **settings})
        if not in_image:
            work.check_installed()
    except ValidationError as error:
        raise input_error(error, Script, lambda loc: Place(key="--")) from error
    except UnitError as error:
        raise InputError(error.what, place=Place(key="--"), remedy=error.remedy) from error
    return work


def _shown(folder: Path) -> Path:
    try:
        return shown(folder.resolve())
    except UnitError as error:
        raise InputError(error.what, place=Place(key="--readable"), remedy=error.remedy) from error


def _variables(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise InputError(
                f"{name!r} is not NAME=VALUE",
                place=Place(key="--env"),
                remedy="write for example --env LEVEL=debug",
            )
    return {name: value for name, _, value in pairs}


def _capturing(
    capture: Capture, expression: str | None, snap: str | None, limit: str | None
) -> Capturing:
    """What is kept of captured packets.

    Raises:
        InputError: nothing is captured, tcpdump does not know the filter, or a size is out of
            range.
        MachineError: there is no tcpdump.
    """
    given: dict[str, str | int | None] = {
        "filter": expression,
        "snap_bytes": snap and memory_size(snap, "--capture-snap"),
        "limit_bytes": limit and memory_size(limit, "--capture-limit"),
    }
    values = {name: value for name, value in given.items() if value is not None}
    if capture is Capture.NONE:
        for name in values:
            place = Place(key=f"--capture-{name.removesuffix('_bytes')}")
            raise InputError(
                "nothing is captured", place=place, remedy="add --capture wan or --capture all"
            )
        return Capturing()
    check_filter(expression or "")
    try:
        return Capturing.model_validate(values)
    except ValidationError as error:
        ((key,), bounds) = error.errors()[0]["loc"], error.errors()[0].get("ctx", {})
        option = f"--capture-{str(key).removesuffix('_bytes')}"
        remedy = " and ".join(
            f"at {'least' if sign == 'ge' else 'most'} {format_size(n)}"
            for sign, n in bounds.items()
        )
        raise InputError(
            f"{error.errors()[0]['input']} B is out of range",
            place=Place(key=option),
            remedy=remedy,
        ) from error


def _default_folder(topology: str, workload: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{topology}-{workload}")
    return Path("results", f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
