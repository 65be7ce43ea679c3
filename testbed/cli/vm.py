"""testbed vm: run testbed in a virtual machine with Vagrant (docs/vm.md).

Also works on macOS: neither this module nor the imports of the command line need Linux.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from typing import Annotated, TextIO

import typer

import testbed
from testbed.cli.plain_help import PlainCommand
from testbed.cli.run import split_at_dashes
from testbed.core.errors import InputError, MachineError, Place, RunError

PROJECT = Path(testbed.__file__).parent.parent
WORDS = "testbed.vm.words"  # key of typer's context: the words for testbed run
SIGNALLED = 128  # shells report a program ended by signal N as 128 + N
NO_VAGRANT = """vagrant is not installed; it also needs a hypervisor
  Debian: apt-get install vagrant vagrant-libvirt libvirt-daemon-system
  macOS:  brew install --cask vagrant, and VirtualBox, Parallels, or qemu with \
`vagrant plugin install vagrant-qemu`
  else:   https://developer.hashicorp.com/vagrant/install, and VirtualBox; see docs/vm.md"""

app = typer.Typer(help="Run testbed in a virtual machine with Vagrant.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Run testbed in a virtual machine with Vagrant: for macOS, Windows, and classes."""


@app.command()
def up(
    provider: Annotated[
        str | None,
        typer.Option(
            envvar="VAGRANT_DEFAULT_PROVIDER",
            metavar="PROVIDER",
            help="libvirt, qemu, virtualbox or parallels \\[default: chosen by Vagrant]",
        ),
    ] = None,
) -> None:
    """Create and start the VM, and set up testbed in it (takes minutes the first time)."""
    options = [] if not provider else [f"--provider={provider}"]
    raise typer.Exit(_vagrant("up", *options))


@app.command()
def ssh() -> None:
    """Open a shell in the VM."""
    raise typer.Exit(_vagrant("ssh"))


@app.command()
def destroy(
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", help="do not ask for confirmation (implied without a terminal)"
        ),
    ] = False,
) -> None:
    """Remove the VM; keep the results that were copied to this machine."""
    is_silent = force or not sys.stdin.isatty()
    options = ["--force"] if is_silent else []
    raise typer.Exit(_vagrant("destroy", *options))


class RunInVm(PlainCommand):
    """The command ``testbed vm run``, which passes all words but ``--out`` to ``testbed run``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Store the words unparsed in ``ctx.meta``."""
        ctx.meta[WORDS] = args
        own, _script = split_at_dashes(args)
        wants_help = not args or "-h" in own or "--help" in own
        if wants_help:
            return super().parse_args(ctx, ["--help"])
        return super().parse_args(ctx, [])

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the usage of ``testbed run``."""
        return ["TOPOLOGY [WORKLOAD] [OPTIONS] [-- SCRIPT [ARGUMENT]...]"]


@app.command(cls=RunInVm)
def run(context: typer.Context) -> None:
    """Run `testbed run` in the VM, and copy the run folder to this machine.

    Takes the arguments of `testbed run`, and starts the VM if necessary. Paths are relative to the
    folder of the project, the only one that the VM shares.
    """
    words, out = without_out(context.meta[WORDS])
    if out is not None and out.exists():
        remedy = "runs never overwrite each other"
        raise InputError(f"{out} already exists", place=Place(key="--out"), remedy=remedy)

    # Standard output is reserved for the output of the run.
    preparation = "rsync" if _is_running() else "up"
    status = _vagrant(preparation, output=sys.stderr)
    if status != 0:
        raise typer.Exit(status)

    now = time.strftime("%Y%m%d-%H%M%S")
    folder_name = f"{now}-{_job_name(words)}"
    command = remote_command(words, folder_name)
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    ssh_options = [] if has_terminal else ["--no-tty"]
    status = _vagrant("ssh", *ssh_options, "-c", command)

    expected = status == 0 and "--dry-run" not in words
    _bring_back(PROJECT / "results" / folder_name, out, expected=expected)
    raise typer.Exit(status)


def without_out(words: list[str]) -> tuple[list[str], Path | None]:
    """Remove ``--out DIR`` or ``--out=DIR`` from the words before ``--``.

    Returns:
        The other words, and DIR or None.

    Raises:
        InputError: ``--out`` has no value.
    """
    own, script = split_at_dashes(words)
    kept: list[str] = []
    out: Path | None = None
    following = iter(own)
    for word in following:
        option, _, folder = word.partition("=")
        if option != "--out":
            kept.append(word)
            continue
        folder = folder or next(following, "")
        if not folder:
            raise InputError("expected a folder after --out", place=Place(key="--out"))
        out = Path(folder)

    if "--" in words:
        kept += ["--", *script]
    return kept, out


def remote_command(words: list[str], folder_name: str) -> str:
    """Return the command for the VM's shell, with every word quoted for ``testbed run``."""
    own, script = split_at_dashes(words)
    command = ["testbed", "run", *own]
    if "--dry-run" not in own:
        folder = PurePosixPath("results", folder_name)
        command += ["--out", str(folder)]
    if "--" in words:
        command += ["--", *script]
    return shlex.join(command)


def _job_name(words: list[str]) -> str:
    """Return topology and workload, for the name of the run folder."""
    names: list[str] = []
    for word in words:
        if word.startswith("-"):
            break
        names.append(PurePosixPath(word).stem)
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(names)) or "run"


def _bring_back(folder: Path, out: Path | None, *, expected: bool) -> None:
    """Copy the run folder to the user's output folder, and print its path.

    Args:
        folder: The run folder, below the project folder that is shared with the VM.
        out: Destination of the copy; None: no copy.
        expected: Whether a missing run folder is an error.
    """
    if not folder.is_dir():
        if expected:
            in_vm = f"/vagrant/results/{folder.name}"
            raise RunError(f"cannot copy the results from the VM; they are in {in_vm} there")
        return
    if out is not None:
        shutil.copytree(folder, out)
        shown = out
    elif folder.is_relative_to(Path.cwd()):
        shown = folder.relative_to(Path.cwd())
    else:
        shown = folder
    print(f"copied to this machine: {shown}", file=sys.stderr)


def _is_running() -> bool:
    command = [_program(), "status", "--machine-readable"]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        fields = line.split(",")
        if fields[2:4] == ["state", "running"]:
            return True
    return False


def _vagrant(*words: str, output: TextIO | None = None) -> int:
    """Run Vagrant in the project folder with this terminal; Vagrant handles Ctrl-C.

    Returns:
        The exit status, in the convention of shells.
    """
    command = [_program(), *words]
    with subprocess.Popen(command, cwd=PROJECT, stdout=output) as process:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGINT, previous)
    return status if status >= 0 else SIGNALLED - status


def _program() -> str:
    """Return the path of Vagrant.

    Raises:
        MachineError: Vagrant is not installed, or the Vagrantfile is missing.
    """
    if not (PROJECT / "Vagrantfile").is_file():
        raise MachineError(
            f"no Vagrantfile in {PROJECT}\n  run `testbed vm` from a clone of the project"
        )
    program = shutil.which("vagrant")
    if program is None:
        raise MachineError(NO_VAGRANT)
    return program
