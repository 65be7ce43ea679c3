"""testbed vm: the testbed in a virtual machine of its own, by Vagrant (docs/vm.md).

Works on macOS, too: neither this module nor what the command line imports needs Linux.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Annotated, TextIO

import typer
from typer.core import TyperCommand

import testbed
from testbed.core.errors import InputError, MachineError, Place, RunError

PROJECT = Path(testbed.__file__).parent.parent
WORDS = "testbed.vm.words"  # in typer's context

app = typer.Typer(help="The testbed in a virtual machine, by Vagrant.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The testbed in a virtual machine, by Vagrant: for macOS, Windows, and classes."""


@app.command()
def up(
    provider: Annotated[
        str | None,
        typer.Option(
            envvar="VAGRANT_DEFAULT_PROVIDER",
            help="libvirt, qemu, virtualbox or parallels \\[default: Vagrant's]",
        ),
    ] = None,
) -> None:
    """Make and start the VM, and set the testbed up in it (the first time takes minutes)."""
    raise typer.Exit(_vagrant("up", *([f"--provider={provider}"] if provider else [])))


@app.command()
def ssh() -> None:
    """A shell in the VM, where testbed works as on any machine."""
    raise typer.Exit(_vagrant("ssh"))


@app.command()
def destroy(
    force: Annotated[
        bool, typer.Option("--force", "-f", help="without asking, as where there is no terminal")
    ] = False,
) -> None:
    """Remove the VM. Results that came back stay."""
    raise typer.Exit(_vagrant("destroy", *(["--force"] if force or not sys.stdin.isatty() else [])))


class RunInVm(TyperCommand):
    """``testbed vm run``: all words are for ``testbed run``, but ``--out``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Keep the words as they are in ``ctx.meta``."""
        own = list(takewhile(lambda word: word != "--", args))
        ctx.meta[WORDS] = args
        return super().parse_args(
            ctx, ["--help"] if not args or {"-h", "--help"} & set(own) else []
        )

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """As for ``testbed run``."""
        return ["TOPOLOGY [WORKLOAD] [OPTIONS] [-- SCRIPT [ARGUMENT]...]"]


@app.command(cls=RunInVm)
def run(context: typer.Context) -> None:
    """testbed run in the VM, which is started if it does not run; the run folder comes back.

    The words are those of testbed run. Paths are those of the project's folder, which is what the
    VM has.
    """
    words, out = without_out(context.meta[WORDS])
    if out is not None and out.exists():
        raise InputError(
            f"{out} exists already",
            place=Place(key="--out"),
            remedy="a run never overwrites another",
        )
    # Standard output is for what the run prints.
    if status := _vagrant("rsync" if _is_running() else "up", output=sys.stderr):
        raise typer.Exit(status)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{_name(words)}"
    terminal = [] if sys.stdin.isatty() and sys.stdout.isatty() else ["--no-tty"]
    status = _vagrant("ssh", *terminal, "-c", remote_command(words, name))
    _bring_back(PROJECT / "results" / name, out, expected=status == 0 and "--dry-run" not in words)
    raise typer.Exit(status)


def without_out(words: list[str]) -> tuple[list[str], Path | None]:
    """The words without ``--out DIR`` or ``--out=DIR`` before ``--``, and DIR.

    Raises:
        InputError: nothing follows ``--out``.
    """
    rest, out, own = [], None, True
    following = iter(words)
    for word in following:
        own = own and word != "--"
        if own and (word == "--out" or word.startswith("--out=")):
            given = word.partition("=")[2] or next(following, "")
            if not given:
                raise InputError("a folder must follow", place=Place(key="--out"))
            out = Path(given)
        else:
            rest.append(word)
    return rest, out


def remote_command(words: list[str], name: str) -> str:
    """What the VM's shell is told: each word reaches ``testbed run`` as it is."""
    own = list(takewhile(lambda word: word != "--", words))
    folder = [] if "--dry-run" in own else ["--out", str(PurePosixPath("results", name))]
    return shlex.join(["testbed", "run", *own, *folder, *words[len(own) :]])


def _name(words: list[str]) -> str:
    """What the run folder is called after: topology and workload, or topology and ``script``."""
    named = [
        PurePosixPath(word).stem for word in takewhile(lambda word: not word.startswith("-"), words)
    ]
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(named)) or "run"


def _bring_back(folder: Path, out: Path | None, *, expected: bool) -> None:
    """The run folder is in the synced folder; if it was asked for elsewhere, it is copied there."""
    if not folder.is_dir():
        if expected:
            raise RunError(
                f"the results did not come back; in the VM they are in /vagrant/results/{folder.name}"
            )
        return
    if out is not None:
        shutil.copytree(folder, out)
    shown = out or (folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    print(f"on this machine: {shown}", file=sys.stderr)


def _is_running() -> bool:
    done = subprocess.run(
        [_program(), "status", "--machine-readable"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return any(line.split(",")[2:4] == ["state", "running"] for line in done.stdout.splitlines())


def _vagrant(*words: str, output: TextIO | None = None) -> int:
    """Run Vagrant in the project's folder with this terminal; its exit status. Ctrl-C is Vagrant's
    to handle.
    """
    with subprocess.Popen([_program(), *words], cwd=PROJECT, stdout=output) as process:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGINT, previous)
    return status if status >= 0 else 128 - status


def _program() -> str:
    """Where Vagrant is.

    Raises:
        MachineError: it is not installed, or there is no Vagrantfile.
    """
    if not (PROJECT / "Vagrantfile").is_file():
        raise MachineError(
            f"there is no Vagrantfile in {PROJECT}\n  testbed vm works from a clone of the project"
        )
    program = shutil.which("vagrant")
    if program is None:
        raise MachineError(
            "vagrant is not installed, nor maybe a hypervisor that it starts VMs with\n"
            "  Debian: apt-get install vagrant vagrant-libvirt libvirt-daemon-system\n"
            "  macOS:  brew install --cask vagrant, and VirtualBox, Parallels, or qemu with `vagrant plugin install "
            "vagrant-qemu`\n"
            "  else:   https://developer.hashicorp.com/vagrant/install, and VirtualBox; see docs/vm.md"
        )
    return program
