"""testbed run: one run of a workload, or of the user's own script, on a topology."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from testbed.api import PreparedRun, prepare, script_workload
from testbed.cli.advise import ADVISE_FLAG, advise
from testbed.cli.options import (
    RUN_TARGETS,
    Format,
    FormatOption,
    Given,
    TopologyArgument,
    run_options_of,
    set_option,
    takes_run_options,
)
from testbed.cli.output import print_files, print_tables
from testbed.cli.plain_help import PlainCommand
from testbed.cli.progress import display, show_nothing
from testbed.core.errors import InputError, MachineError, Place, StorageError
from testbed.spec.options import run_options
from testbed.spec.overrides import Override, parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload, load_workload

STANDARD_INPUT = "-"  # first word of a script that standard input holds
SCRIPT = "testbed.script"  # key of typer's context: the words after --
REPLAY = "replay"  # first word of a trace to replay, in place of a script

OutOption = Annotated[
    Path | None,
    typer.Option(
        envvar="TESTBED_OUT",
        metavar="FOLDER",
        help="run folder to create \\[default: results/<time>-<names>]",
    ),
]
ScaleOption = Annotated[
    int | None,
    typer.Option(
        envvar="TESTBED_SCALE",
        min=1,
        metavar="N",
        help="train: divide parameters and rates by N; script with --gpu: divide bytes on the wire "
        "and rates by N; times stay the same",
    ),
]
RanksOption = Annotated[
    int | None,
    typer.Option(
        envvar="TESTBED_NPROC_PER_HOST",
        min=1,
        metavar="N",
        help="script: ranks on each host \\[default: 1]",
    ),
]
SharedFolderOption = Annotated[
    bool,
    typer.Option(
        "--shared-folder", help="script: share one working folder between all hosts, as with NFS"
    ),
]
EventsFromOption = Annotated[
    Literal["operation", "start"] | None,
    typer.Option(
        envvar="TESTBED_EVENTS_FROM",
        help="script: count event times from rank 0's first torch.distributed operation, "
        "or from its start \\[default: operation]",
    ),
]
GpuOption = Annotated[
    str | None,
    typer.Option(
        envvar="TESTBED_GPU",
        metavar="NAME|FILE",
        help="script: model GPUs of this kind on each host, for scripts that use CUDA and NCCL "
        "(H100, A100, ..., or a YAML file; docs/gpus.md)",
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option(
        envvar="TESTBED_GPUS_PER_HOST",
        min=1,
        metavar="N",
        help="script: modelled GPUs of each host, each with a rank \\[default: 1]",
    ),
]
CommOption = Annotated[
    Literal["nccl", "gloo"] | None,
    typer.Option(
        envvar="TESTBED_COMM_LIBRARY",
        help="script with --gpu: library whose algorithms carry out operations \\[default: nccl]",
    ),
]
AdviseOption = Annotated[
    bool,
    typer.Option(
        ADVISE_FLAG,
        help="measure the changes that the main cause of the run's time suggests, each in a "
        "further run, and print a table; with --format json, an entry advice; with csv, only this "
        "table",
    ),
]
FailUnfaithfulOption = Annotated[
    bool,
    typer.Option("--fail-unfaithful", help="exit with status 5 if the run is not faithful"),
]
SCRIPT_FLAGS = {
    "ranks_per_host": "--nproc-per-host",
    "shared_folder": "--shared-folder",
    "events_from": "--events-from",
    "gpu": "--gpu",
    "gpus_per_host": "--gpus-per-host",
    "comm": "--comm",
}


def split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before and after the first ``--`` of a command line."""
    if "--" not in words:
        return words, []
    position = words.index("--")
    return words[:position], words[position + 1 :]


class RunCommand(PlainCommand):
    """The command ``testbed run``, with a script and its arguments after ``--``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Store the words of the script in ``ctx.meta``, and parse the other words.

        Raises:
            InputError: A script is given without ``--``, or ``--`` without a script.
        """
        own, script = split_at_dashes(args)
        ctx.meta[SCRIPT] = script
        if "--" in args and not script:
            remedy = "write the script and its arguments after --"
            raise InputError("nothing follows --", remedy=remedy)

        for position, word in enumerate(own):
            if not word.endswith(".py") or word.startswith("-"):
                continue
            options = " ".join(own[:position])
            command = " ".join([*own[position:], *script])
            remedy = f"use: testbed run {options} -- {command}"
            raise InputError(f"{word}: write scripts after --", remedy=remedy)
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the usage line with the script at its end."""
        pieces = super().collect_usage_pieces(ctx)
        return [*pieces, "[-- SCRIPT [ARGUMENT]... | -- replay TRACE]"]


@takes_run_options(run_options())
def run(
    context: typer.Context,
    topology: TopologyArgument,
    workload: Annotated[
        str | None,
        typer.Argument(metavar="WORKLOAD", help="preset or workload file \\[default: collectives]"),
    ] = None,
    sets: Annotated[list[str], set_option(RUN_TARGETS)] = [],  # noqa: B006 (typer copies it)
    scale: ScaleOption = None,
    *,
    given: Given,
    out: OutOption = None,
    output: FormatOption = Format.TABLE,
    nproc_per_host: RanksOption = None,
    shared_folder: SharedFolderOption = False,
    events_from: EventsFromOption = None,
    gpu: GpuOption = None,
    gpus_per_host: GpusOption = None,
    comm: CommOption = None,
    fail_unfaithful: FailUnfaithfulOption = False,
    advising: AdviseOption = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="script: do not show rank 0's output and progress while it runs"
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan as JSON and exit")
    ] = False,
) -> None:
    """Run a workload on a topology: build the network, start the workers, measure, report.

    To run your own script instead of a workload, write the script and its arguments after --:
    testbed run two-sites -- train.py --lr 3e-4. testbed starts the script on every host as torchrun
    would. To replay the communication of recorded traces (Chakra, or PyTorch's profiler), write
    replay and their folder after --: testbed run two-sites -- replay traces.
    """
    if advising and dry_run:
        raise InputError(
            "measures further runs, and --dry-run starts none",
            place=Place(key=ADVISE_FLAG),
            remedy="remove one of the two",
        )

    options = run_options_of(given)
    script_settings: dict[str, object] = {
        "ranks_per_host": nproc_per_host,
        "shared_folder": shared_folder or None,
        "events_from": events_from,
        "gpu": gpu,
        "gpus_per_host": gpus_per_host,
        "comm": comm,
        "scale": scale if context.meta[SCRIPT] else None,
    }
    script_settings = {key: value for key, value in script_settings.items() if value is not None}
    script = context.meta[SCRIPT]
    if script and script[0] == REPLAY:
        sets, workload, script = [*sets, _trace_setting(script)], _replay(workload), []
    if scale is not None and not script:
        sets = [*sets, f"workload.scale={scale}"]
    if script:
        in_image = options.image is not None
        work = _script_work(script, workload, script_settings, in_image=in_image)
    else:
        _refuse_script_settings(script_settings)
        work = partial(load_workload, workload or "collectives")

    def prepared_with(changes: Sequence[str]) -> PreparedRun:
        overrides = parse_overrides([*sets, *changes], RUN_TARGETS)
        spec = Topology.load(topology, overrides["topology"])
        return prepare(spec, work(overrides["workload"]), options)

    prepared = prepared_with([])
    if dry_run:
        typer.echo(prepared.plan.model_dump_json(indent=2))
        return

    folder = prepared.new_folder(out)
    show_results = partial(print_tables, folder, output, in_short=True)
    shows_at_end = advising and output is not Format.TABLE  # a single document or table
    try:
        with display(show_nothing if shows_at_end else show_results, quiet=quiet) as progress:
            completed = prepared.start(folder, progress)
    except MachineError as error:
        if isinstance(error, StorageError) and folder.plan.is_file():
            print_files(folder, output)
        raise  # of another requirement: nothing was started, so there are no results
    except BaseException:
        if shows_at_end:
            show_results()
        print_files(folder, output)
        raise
    print_files(folder, output)
    if advising:
        advise(completed, prepared_with, output, quiet=quiet)
    if fail_unfaithful:
        completed.check_faithful()


def _trace_setting(words: Sequence[str]) -> str:
    """Return the setting of the workload for ``replay TRACE``.

    Raises:
        InputError: There is no trace, or more than one word.
    """
    if len(words) == 1:
        raise InputError(
            "no trace to replay",
            place=Place(key="-- replay"),
            remedy="name a folder, a pattern such as 'traces/*.et', or one file",
        )
    if len(words) > 2:
        raise InputError(
            f"cannot replay {len(words) - 1} names",
            place=Place(key="-- replay"),
            remedy="name a folder, a pattern in quotes such as 'traces/*.et', or one file; write "
            "settings before --, as in --set workload.computation=0.5",
        )
    return f"workload.trace={json.dumps(words[1])}"


def _replay(workload: str | None) -> str:
    """Return the workload of a replay.

    Raises:
        InputError: Another workload is given.
    """
    if workload not in (None, REPLAY):
        raise InputError(
            f"cannot run both a workload ({workload}) and a replay",
            remedy=f"remove {workload}, or -- and everything after it",
        )
    return REPLAY


def _script_work(
    script: list[str], workload: str | None, settings: Mapping[str, object], *, in_image: bool
) -> Callable[[list[Override]], Workload]:
    """Return a function from the workload's overrides, of which a script has none, to the script.

    Raises:
        InputError: A workload is given too, or standard input is not a script.
    """
    if workload is not None:
        raise InputError(
            f"cannot run both a workload ({workload}) and a script ({script[0]})",
            remedy=f"remove {workload}, or -- and everything after it",
        )
    if script[0] == STANDARD_INPUT:
        settings = {**settings, "source": _read_standard_input()}

    def work(overrides: list[Override]) -> Workload:
        if overrides:
            raise InputError(
                "workload settings do not apply to scripts",
                place=Place(key="--set"),
                remedy="write the script's own options after the script",
            )
        return script_workload(script, settings, in_image=in_image, place=Place(key="--"))

    return work


def _refuse_script_settings(script_settings: Mapping[str, object]) -> None:
    """Raise InputError if an option is given that applies only to scripts."""
    for key, value in script_settings.items():
        remedy = ""
        if key == "ranks_per_host":
            remedy = f"for a workload, use --set workload.{key}={value}"
        raise InputError(
            "applies only to scripts",
            place=Place(key=SCRIPT_FLAGS[key]),
            remedy=remedy,
        )


def _read_standard_input() -> str:
    """Return the script on standard input.

    Raises:
        InputError: Standard input is a terminal, or is not text.
    """
    from testbed.workloads.script.python_code import decoded_source  # noqa: PLC0415 (only scripts)

    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            "standard input is not a script",
            place=Place(key="-- -"),
            remedy="pass a script, as in: testbed run two-sites -- - < train.py",
        )
    try:
        text: str = decoded_source(sys.stdin.buffer.read())
    except ValueError as error:
        raise InputError(f"cannot read the script: {error}", place=Place(key="-- -")) from error
    return text
