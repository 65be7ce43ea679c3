"""The user's own training script, unchanged: a Python file, a module, or any command, such as
torchrun.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from testbed.core.units import UnitError
from testbed.spec.base import Flag, suggest
from testbed.spec.options import visible_folder
from testbed.spec.workload import Workload

MIB = 2**20
PAUSE_NS = 150 * 10**9

Kind = Literal["file", "module", "command"]


class Program(NamedTuple):
    """What is started."""

    kind: Kind
    words: tuple[str, ...]  # the file or module and its arguments, or the command
    folder: Path | None  # where Python looks for modules first
    readable: tuple[Path, ...]  # what hosts have to see


class Script(Workload):
    """`command` on every host, as torchrun would start it.

    A word that ends in .py is a Python file, and ``-m`` names a module: each host starts them
    `ranks_per_host` times. Any other command is started once by each host, and starts the host's
    ranks itself. The working folder is one of the host's own, so paths among the arguments of a
    script should be absolute.
    """

    workload: Literal["script"] = "script"
    command: list[str] = Field(
        min_length=1, description="the script with its arguments, word by word"
    )
    shared_folder: Flag = Field(
        False, description="whether all hosts have the same working folder, as with NFS"
    )
    events_from: Literal["operation", "start"] = Field(
        "operation",
        description="from which on the topology's events count: rank 0's first operation, or its start",
    )

    def program(self) -> Program:
        """What is to be started, with absolute paths.

        Raises:
            UnitError: there is no such script, or it cannot be shown to hosts.
        """
        first, *rest = self.command
        if first == "-m":
            return _module(rest)
        if first.endswith(".py"):
            path = _file(Path(first))
            return Program("file", (str(path), *rest), path.parent, (visible_folder(path.parent),))
        if first.startswith("-"):
            raise UnitError(
                f"{first!r} is not a script", "write the script first, and its options after it"
            )
        return _command(self.command)

    def check_installed(self) -> None:
        """Whether this machine has the module or the command; an image of the user's may have
        others.

        Raises:
            UnitError: it has not.
        """
        kind, (name, *_), folder, _ = self.program()
        if kind == "module":
            _find_module(name, folder)
        if kind == "command" and shutil.which(name, path=command_path()) is None:
            raise UnitError(
                f"there is no command {name!r}",
                "a script's name ends in .py; a module is named with -m, a command by its name or path",
            )

    @property
    def starts_ranks_itself(self) -> bool:
        """Whether it is a command, of which a host needs only one."""
        return self.command[0] != "-m" and not self.command[0].endswith(".py")

    @property
    def longest_pause_ns(self) -> int:
        """How long a rank may compute between two exchanges: not known, so a guess that is seldom
        too short.
        """
        return PAUSE_NS

    def folders(self) -> list[Path]:
        """The script's own, and those of the files that a command names."""
        return list(self.program().readable)

    def settings(self, ranks: int) -> dict[str, Any]:
        """The program: kind, words, the folder of its modules."""
        kind, words, folder, _ = self.program()
        return {
            "kind": kind,
            "command": list(words),
            "folder": None if folder is None else str(folder),
            "ranks_per_host": self.ranks_per_host,
            "shared_folder": self.shared_folder,
            "events_from": self.events_from,
        }

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Not known: weights of 16 million parameters in float32 (gradients and Adam's state are as
        large again).
        """
        return 64 * MIB

    @model_validator(mode="after")
    def _can_be_started(self) -> Script:
        self.program()
        return self


def command_path() -> str:
    """Where commands are looked for: beside this interpreter first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _file(path: Path) -> Path:
    if path.is_dir():
        raise UnitError(f"{path} is a folder, not a script", "name a file in it")
    if not path.is_file():
        beside = [str(other) for other in sorted(path.parent.glob("*.py"))]
        raise UnitError(
            f"there is no script {path}", suggest(path, beside, "scripts there") if beside else ""
        )
    if not os.access(path, os.R_OK):
        raise UnitError(f"the script {path} cannot be read", f"make it readable: chmod +r {path}")
    return path.resolve()


def _module(words: list[str]) -> Program:
    if not words:
        raise UnitError("-m names no module", "write -m package.module, then its arguments")
    here = Path.cwd()
    is_here = PathFinder.find_spec(words[0].partition(".")[0], [str(here)]) is not None
    return Program(
        "module",
        tuple(words),
        here if is_here else None,
        (visible_folder(here),) if is_here else (),
    )


def _command(words: list[str]) -> Program:
    """With the full paths of the files that it names: it runs in a folder of its own."""
    files = {word: Path(word).resolve() for word in words if Path(word).is_file()}
    if "/" not in words[0]:
        files.pop(words[0], None)  # that is looked for elsewhere
    folders = {visible_folder(path.parent) for path in files.values()}
    return Program(
        "command", tuple(str(files.get(word, word)) for word in words), None, tuple(sorted(folders))
    )


def _find_module(name: str, folder: Path | None) -> None:
    """Look for a module without importing what holds it."""
    places: list[str] | None = [
        *([] if folder is None else [str(folder)]),
        *(place for place in sys.path if place),
    ]
    for part in name.split("."):
        spec = None if places is None else PathFinder.find_spec(part, places)
        if spec is None:
            raise UnitError(
                f"there is no module {name!r}", f"{part!r} is neither in {Path.cwd()} nor installed"
            )
        places = (
            None
            if spec.submodule_search_locations is None
            else list(spec.submodule_search_locations)
        )
