"""Help texts and error messages as the program prints them, in a form that can be stored."""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import typer
from typer import rich_utils
from typer.testing import CliRunner

from testbed.cli import main as program
from tests.support.shared import PROJECT

STORED = PROJECT / "tests" / "unit" / "cli"
HELP = STORED / "help"
ERRORS = STORED / "errors.txt"
WIDTH = 100
# A terminal without colours, whatever terminal runs the tests.
TERMINAL = {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": ""}
MACHINE_MEMORY = 16 * 2**30


def commands() -> list[tuple[str, ...]]:
    """List the words of every group and every command; no words are the program itself."""
    return list(_below(typer.main.get_command(program.app), ()))


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from _below(subcommand, (*words, name))


def file_of_help(words: tuple[str, ...]) -> Path:
    """Name the file that stores the help of a command."""
    return HELP / f"{'-'.join(('testbed', *words))}.txt"


def help_text(words: tuple[str, ...]) -> str:
    """Return what ``testbed WORDS --help`` prints at 100 columns, without blanks at line ends."""
    # typer reads the environment when it is imported.
    with patch.multiple(rich_utils, FORCE_TERMINAL=None, MAX_WIDTH=None):
        shown = CliRunner().invoke(
            program.app,
            [*words, "--help"],
            prog_name="testbed",
            env=TERMINAL,
            catch_exceptions=False,
        )
    assert shown.exit_code == 0
    lines = [line.rstrip() for line in shown.stdout.strip("\n").split("\n")]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class ErrorCase:
    """A command that is refused.

    Attributes:
        arguments: The command line after ``testbed``, as a reader sees it.
        files: Files of the working folder, by name.
        words: The arguments, if blanks do not separate them.
    """

    arguments: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def topology(**changes: str) -> dict[str, str]:
    """Return mine.yaml, a topology of two datacenters and a link.

    Args:
        changes: Lines to use for ``datacenters``, ``wan`` and ``more``.
    """
    datacenters = changes.get("datacenters", "{iowa: {hosts: 2}, ohio: {hosts: 2}}")
    link = changes.get("link", "{between: [iowa, ohio], rate: 10 Gbit/s, delay: 8 ms}")
    more = changes.get("more", "")
    text = f"datacenters: {datacenters}\nwan:\n  - {link}\n{more}"
    return {"mine.yaml": text}


def experiment(sweep: str) -> dict[str, str]:
    """Return mine.yaml, an experiment on two-sites.

    Args:
        sweep: The text of its sweep.
    """
    return {"mine.yaml": f"topology: two-sites\nworkload: collectives\nsweep: {sweep}\n"}


def error_cases() -> list[ErrorCase]:
    """List commands that are refused, each for another reason."""
    return [
        *_topology_cases(),
        *_option_cases(),
        *_script_cases(),
        *_sweep_cases(),
        *_find_cases(),
        *_folder_cases(),
        *_deployment_cases(),
    ]


def _topology_cases() -> list[ErrorCase]:
    validate = "topo validate mine.yaml"
    return [
        ErrorCase("run two-site"),
        ErrorCase("run nowhere/mine.yaml"),
        ErrorCase("topo validate ."),
        ErrorCase("topo validate latin.yaml", {"latin.yaml": b"name: \xff"}),
        ErrorCase("topo validate list.yaml", {"list.yaml": "[iowa, ohio]"}),
        ErrorCase("topo validate open.yaml", {"open.yaml": "wan: ["}),
        ErrorCase(validate, topology(link="{between: [iowa, ohio], rate: 10, dealy: 8 km}")),
        ErrorCase(validate, topology(link="{between: [iowa, ohio], rate: 0 Gbit/s, delay: 8 km}")),
        ErrorCase(validate, topology(link="{between: [iowa, ohoi], rate: 1 Gbit/s, delay: 1 ms}")),
        ErrorCase(validate, topology(datacenters="{iowa: {}, ohio: {}, texas: {}}")),
        ErrorCase(validate, topology(datacenters="{iowa: {}, ohio: {}, iowa: {}}")),
        ErrorCase(validate, topology(datacenters="{iowa: {hosts: 0}, Ohio_1: {}}")),
        ErrorCase(validate, topology(more="events: [{at: 1 s, links: iowa-oiho, down: true}]\n")),
        ErrorCase(
            validate, topology(more="events: [{at: 1 s, duration: 0, links: all, down: true}]\n")
        ),
        ErrorCase(
            "topo show two-sites --set wan.iowa-oiho.delay=20 ms",
            words=("topo", "show", "two-sites", "--set", "wan.iowa-oiho.delay=20 ms"),
        ),
        ErrorCase("topo show two-sites --set mtu"),
        ErrorCase("topo graph two-sites -o map.gif"),
        ErrorCase("topo graph two-sites --dot --mermaid"),
        ErrorCase("topo import rtts.csv", {"rtts.csv": "a\nb\n"}),
        ErrorCase("topo import rtts.csv", {"rtts.csv": ",a,b\na,,1 km\nb,,\n"}),
        ErrorCase("topo import net.graphml", {"net.graphml": "this is text"}),
        ErrorCase("topo import net.json", {"net.json": "{}"}),
        ErrorCase("topo import missing.csv"),
        ErrorCase("topo validate", topology()),
        ErrorCase(
            validate, {"mine.yaml": "datacenters: {iowa: {}, ohio: {}, texas: {}}\nmtu: 1500\n"}
        ),
        ErrorCase(validate, topology(link="{between: [iowa, ohio], bandwidth: 1 Gbit/s, rtt: 0}")),
        ErrorCase(validate, topology(link="{between: [iowa], rate: 1 Gbit/s, packet_loss: 1 %}")),
        ErrorCase(validate, topology(link="{mesh: iowa, rate: 1 Gbit/s, delay: 1 ms, loss: 0.01}")),
        ErrorCase(validate, topology(datacenters="{iowa: {nodes: 2, nic: 1 Gbit/s}, ohio: {}}")),
        ErrorCase(validate, topology(more="tcp: {cc: bbr}\n")),
        ErrorCase(validate, topology(more="tcp: {congestion_control: BBR}\n")),
        ErrorCase(validate, topology(more="mtu: 100\n")),
    ]


def _option_cases() -> list[ErrorCase]:
    return [
        ErrorCase("run"),
        ErrorCase("run two-sites --isolaton process"),
        ErrorCase("run two-sites --clock fast"),
        ErrorCase("run two-sites --where here --clock virtual"),
        ErrorCase("run two-sites --memory 2"),
        ErrorCase("run two-sites --env LEVEL"),
        ErrorCase("run two-sites --set mtu=1400"),
        ErrorCase("run two-sites --set wan.iowa-ohio.rate=1Gbit/s"),
        ErrorCase("run two-sites --set latency=5ms"),
        ErrorCase("run two-sites --set congestion=bbr"),
        ErrorCase("run two-sites --set isolation=process"),
        ErrorCase("run two-sites --set run.seed=1"),
        ErrorCase("run two-sites --isolation proces"),
        ErrorCase("run two-sites --cpus 0"),
        ErrorCase("run two-sites --cpus many"),
        ErrorCase("run two-sites --seed -1"),
        ErrorCase("run two-sites --out"),
        ErrorCase("run two-sites collectives more"),
        ErrorCase("--isolation process"),
        ErrorCase("rnu two-sites"),
        ErrorCase("run two-sites --capture-filter icmp"),
        ErrorCase("run two-sites --readable /tmp"),
        ErrorCase("run two-sites --image missing.tar"),
        ErrorCase("run two-sites colectives"),
        ErrorCase("run two-sites --set workload.iteration=3"),
        ErrorCase("run two-sites --set workload.sizes=[]"),
        ErrorCase("run two-sites --set workload.sizes=4KiB,1MiB"),
        ErrorCase("run two-sites --set workload.ops=allreduce"),
        ErrorCase("run two-sites --set workload.ops=[all-reduce]"),
        ErrorCase("run two-sites --set workload.op=[all_reduce]"),
        ErrorCase("run two-sites train --set workload.method=sgd"),
        ErrorCase("run two-sites train --set workload.method=streaming_diloco"),
        ErrorCase("run two-sites train --set workload.learning_rate=1"),
        ErrorCase("run two-sites train --set workload.lr=0"),
        ErrorCase("run two-sites train --set workload.outer_momentum=1"),
        ErrorCase("run two-sites train --set workload.lr=fast"),
        ErrorCase("run two-sites train --set workload.gpu=H100-SXM"),
        ErrorCase(
            "run two-sites train --set workload.gpu=H100 --set workload.step_time=9ms",
        ),
        ErrorCase(
            "run two-sites train --set workload.gpu=A100 --set workload.gpu_dtype=float8",
        ),
        ErrorCase("run two-sites train --set workload.parameters=7B"),
        ErrorCase("run mine.yaml", topology(datacenters="{iowa: {hosts: 99}, ohio: {hosts: 99}}")),
    ]


def _script_cases() -> list[ErrorCase]:
    script = {"train.py": "print('hello')\n"}
    return [
        ErrorCase("run two-sites train.py --lr 1", script),
        ErrorCase("run two-sites --"),
        ErrorCase("run two-sites -- trian.py", script),
        ErrorCase("run two-sites -- torchrunn"),
        ErrorCase("run two-sites collectives -- train.py", script),
        ErrorCase("run two-sites --shared-folder"),
        ErrorCase("run two-sites --nproc-per-host 2"),
        ErrorCase("run two-sites --set workload.scale=2 -- train.py", script),
    ]


def _sweep_cases() -> list[ErrorCase]:
    run = "sweep mine.yaml --dry-run"
    key = "topology.wan.iowa-ohio.delay"
    return [
        ErrorCase("sweep dely --dry-run"),
        ErrorCase(run, experiment("{}")),
        ErrorCase(run, experiment("{grid: {delay: [1 ms]}}")),
        ErrorCase(run, experiment(f"{{grid: {{{key}: {{from: 2 ms, to: 1 ms, points: 3}}}}}}")),
        ErrorCase(run, experiment(f"{{grid: {{{key}: {{from: 1 ms, to: 2 ms}}}}}}")),
        ErrorCase(run, experiment(f"{{grid: {{{key}: [1 ms]}}, where: delay}}")),
        ErrorCase(run, experiment(f"{{grid: {{{key}: [1 ms]}}, where: dealy > 1 ms}}")),
        ErrorCase(run, experiment(f"{{grid: {{{key}: [1 ms]}}, list: [{{{key}: 2 ms}}]}}")),
        ErrorCase(run, experiment("{grid: {wan.iowa-ohio.delay: [1 ms]}}")),
        ErrorCase("sweep run"),
        ErrorCase("sweep training-rtt --jobs many --dry-run"),
        ErrorCase("sweep table nowhere"),
    ]


def _find_cases() -> list[ErrorCase]:
    asked = "least wan.iowa-ohio.rate"
    limit = "time <= 1 s"
    ends = ("--between", "1 Mbit/s", "1 Gbit/s")

    def case(*words: str) -> ErrorCase:
        return ErrorCase(f"find {shlex.join(words)}", words=("find", *words))

    return [
        ErrorCase("find"),
        ErrorCase("find training-rtt --dry-run"),
        case(asked),
        case(asked, "two-sites"),
        case(asked, "two-sites", "--such-that", limit),
        case(asked, "two-sites", "--such-that", "time <= 1", *ends),
        case(asked, "two-sites", "--such-that", "tme <= 1 s", *ends),
        case("least wan.iowa-ohio.rte", "two-sites", "--such-that", limit, *ends, "--dry-run"),
        case(asked, "two-sites", "--such-that", limit, "--between", "1 ms", "1 s", "--dry-run"),
        case(asked, "two-sites", "--such-that", limit, *ends, "--for", "method"),
        case("least", "two-sites", "--such-that", limit, *ends),
    ]


def _folder_cases() -> list[ErrorCase]:
    damaged = {"plan.json": "{", "summary.json": "{}"}
    return [
        ErrorCase("report"),
        ErrorCase("export"),
        ErrorCase("export nowhere --to csv"),
        ErrorCase("export nowhere --to cvs"),
        ErrorCase("report nowhere"),
        ErrorCase("report .", damaged),
        ErrorCase("compare ."),
        ErrorCase("compare . .", damaged),
        ErrorCase("compare . .", {"plan.json": "{}"}),
    ]


def _deployment_cases() -> list[ErrorCase]:
    return [
        ErrorCase("topo shell"),
        ErrorCase("topo exec -t mine iowa-h0 -- ip address"),
        ErrorCase("topo destroy"),
        ErrorCase("topo verify --set mtu=1400"),
        ErrorCase("guest shell"),
    ]


def error_text(case: ErrorCase) -> str:
    """Return what a refused command prints, with the working folder written as FOLDER."""
    printed = io.StringIO()
    words = case.words or tuple(case.arguments.split(" "))
    with TemporaryDirectory() as folder, chdir(folder):
        for name, content in case.files.items():
            data = content if isinstance(content, bytes) else content.encode()
            Path(name).write_bytes(data)
        cache = Path(folder, "cache")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TESTBED_")
        }
        environment.update(TERMINAL)
        environment["TESTBED_CACHE"] = str(cache)
        with (
            patch.dict(os.environ, environment, clear=True),
            patch("testbed.cli.main.signal.signal"),
            patch.object(program, "reap"),
            patch("testbed.plan.resolve.machine_memory", return_value=MACHINE_MEMORY),
            patch("sys.argv", ["testbed", *words]),
            patch("sys.stdin", io.StringIO()),
            redirect_stdout(io.StringIO()),
            redirect_stderr(printed),
        ):
            status = _status_of_main()
        text = printed.getvalue()
        for written in (os.path.realpath(folder), folder):
            text = text.replace(written, "FOLDER")
    assert status != 0, case.arguments
    return re.sub(r" +\n", "\n", text)


def _status_of_main() -> object:
    try:
        program.main()
    except SystemExit as stop:
        return stop.code
    return 0


def page_of_errors() -> str:
    """Return every refused command with what it prints."""
    blocks = [f"$ testbed {case.arguments}\n{error_text(case)}" for case in error_cases()]
    return "\n".join(blocks)
