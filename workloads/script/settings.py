"""Settings of `script`: the user's training script, unchanged.

A script is a Python file, a module, Python code, or any command, such as torchrun.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from testbed.workloads.script.host_programs import REMOTE_PROGRAMS
from testbed.workloads.script.launchers import Launch, launch_of
from testbed.workloads.script.python_code import code_to_compile

from testbed.core.paths import absolute_path
from testbed.core.suggestions import suggest
from testbed.core.units import UnitError
from testbed.spec.base import Count, Flag
from testbed.spec.gpu_file import load_gpu
from testbed.spec.options import visible_folder
from testbed.spec.workload import Workload

MIB = 2**20
PAUSE_NS = 150 * 10**9

# Code that sets environment variables, and the names of those that torch, its libraries for linear
# algebra and its threads read when they are loaded.
SETS_VARIABLES = re.compile(rb"environ\b|putenv")
EARLY_VARIABLE = re.compile(
    rb"\b(?:OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|DNNL|ONEDNN|ATEN|NPY|NUMPY|PYTORCH|TORCH"
    rb"|TORCHINDUCTOR|TORCHDYNAMO)_[A-Z0-9_]+(?=[\"'=]|\s*=[^=])"
)
MOST_FILES_READ = 500
MOST_BYTES_READ = 2**20

SHELLS = ("sh", "bash", "dash", "ksh", "zsh", "busybox")
QUOTES = ("'", '"')
# A quoted word, or a word without quotes; both without what the shell would expand.
SHELL_WORD = re.compile(r"""'[^']*'|"[^"$`\\]*"|(?:[^\s;|&<>()"'`$=\\*?]|\\ )+""")

CODE_FLAG = "-c"
MODULE_FLAG = "-m"
STANDARD_INPUT = "-"

Kind = Literal["file", "module", "code", "input", "command"]


class Program(NamedTuple):
    """A program to start.

    Attributes:
        kind: kind of program that the first word names; `input` is code from standard input.
        words: the file or module and its arguments; Python's arguments for code; or the command.
        folder: the first folder in which Python looks for modules.
        readable: folders that hosts must see.
    """

    kind: Kind
    words: tuple[str, ...]
    folder: Path | None
    readable: tuple[Path, ...]


class Script(Workload):
    """`command` on every host, started as torchrun would start the ranks.

    A word that ends in .py is a Python file, ``-m`` names a module, ``-c`` is followed by code, and
    ``-`` stands for the code in `source`: each host starts the program `ranks_per_host` times. Any
    other command is started once by each host, and starts the host's ranks itself; mpirun and
    similar launchers are started by the first host only. Each host has a separate working folder,
    so use absolute paths in the arguments of a script.
    """

    workload: Literal["script"] = "script"
    command: list[str] = Field(min_length=1, description="script and arguments, as a list of words")
    source: str | None = Field(
        None, description="code that the command - runs, as python - does from standard input"
    )
    shared_folder: Flag = Field(
        False, description="share one working folder between all hosts, as with NFS"
    )
    events_from: Literal["operation", "start"] = Field(
        "operation",
        description="origin of event times: rank 0's first operation, or its start",
    )
    gpu: str | None = Field(
        None,
        description="model GPUs of this kind (a name, or a file), for scripts with CUDA and NCCL",
    )
    comm: Literal["nccl", "gloo"] = Field(
        "nccl", description="library whose algorithms modelled GPUs use"
    )
    scale: Count = Field(
        1, description="divisor of the bytes of modelled GPUs on the wire, and of all rates"
    )
    gpus_per_host: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="modelled GPUs of each host; as many ranks, unless their number is given"
    )

    def program(self) -> Program:
        """Return the program to start, with absolute paths.

        Raises:
            UnitError: the script does not exist, or hosts cannot see the script.
        """
        launch = self.launch
        if launch is not None:
            return _command(launch.words, Path.cwd() if launch.is_module else None)

        first, *rest = self.command
        if first == MODULE_FLAG:
            return _module(rest)

        if first == CODE_FLAG:
            if not rest:
                raise UnitError("-c requires code", "use -c 'CODE', followed by arguments")

            return _code_program("code", self.command, rest[0])

        if first == STANDARD_INPUT:
            if self.source is None:
                raise UnitError(
                    "- requires code on standard input",
                    "use -c 'CODE', or `source: CODE` in a workload file",
                )

            return _code_program("input", self.command, self.source)

        if first.endswith(".py"):
            return _file_program(first, rest)

        if first.startswith("-"):
            raise UnitError(
                f"{first!r} is not a script", "write the script first, then the script's options"
            )

        return _command(self.command, None)

    def check_installed(self) -> None:
        """Check that this machine has the module or the command; a user's image may have others.

        Raises:
            UnitError: the module or command is missing on this machine, or code has an error that
                this machine's Python finds before the code runs.
        """
        program = self.program()
        name = program.words[0]
        if program.kind == "module":
            _find_module(name, program.folder)

        code = self._code()
        if code is not None:
            _check_code(code)

        if name in REMOTE_PROGRAMS:  # hosts have them, whether this machine has them or not
            return

        if program.kind == "command" and shutil.which(name, path=command_path()) is None:
            raise UnitError(
                f"unknown command {name!r}",
                "script names end in .py; use -m for a module, and a name or path for a command",
            )

    def _code(self) -> str | None:
        """Return the code that the command holds or that comes from standard input, if any."""
        kind = self.program().kind
        if kind == "code":
            return self.command[1]

        return self.source if kind == "input" else None

    @property
    def launch(self) -> Launch | None:
        """How to start the launcher that the command names; None if the command is no launcher.

        Raises:
            UnitError: an option of the launcher is wrong.
        """
        return launch_of(self.command)

    @property
    def starts_ranks_itself(self) -> bool:
        """Whether the script is a command, which a host starts once."""
        if self.launch is not None:
            return True

        return self.program().kind == "command"

    @property
    def starts_from_first_host(self) -> bool:
        """Whether only the first host starts the command, which reaches the other hosts itself."""
        launch = self.launch
        return launch is not None and launch.from_first_host

    @property
    def needs_remote_shells(self) -> bool:
        """Whether the command may start programs on other hosts, as with ssh."""
        launch = self.launch
        return self.starts_ranks_itself and (launch is None or launch.from_first_host)

    def for_hosts(self, addresses: Mapping[str, str]) -> Script:
        """Return the script with the ranks of each host that a launcher's options ask for.

        Raises:
            UnitError: a launcher's options do not fit the hosts.
        """
        launch = self.launch
        if launch is None:
            return self

        launch.check_hosts(addresses)
        asked = launch.ranks_on_each(len(addresses))
        if asked is None or asked == self.ranks_per_host:
            return self

        if "ranks_per_host" in self.model_fields_set:
            raise UnitError(
                f"{launch.name} would start {asked} ranks on each host, but the run has "
                f"{self.ranks_per_host}",
                "leave the number of ranks out on one side",
            )

        return self.model_copy(update={"ranks_per_host": asked})

    @property
    def has_modelled_gpus(self) -> bool:
        """Whether the hosts have modelled GPUs."""
        return self.gpu is not None

    @property
    def divisor(self) -> int:
        """Divisor of the topology's rates, which is `scale`."""
        return self.scale

    @property
    def sends_only_tensors(self) -> bool:
        """Whether a rank sends nothing larger than its largest tensor; a script may send more."""
        return False

    @property
    def longest_pause_ns(self) -> int:
        """Longest computation between two exchanges of a rank, in ns; a generous guess."""
        return PAUSE_NS

    def folders(self) -> list[Path]:
        """Return the script's folder, and the folders of the files that a command names."""
        return list(self.program().readable)

    def settings(self, ranks: int) -> dict[str, Any]:
        """Return the program's kind, words and module folder, and the settings of the hosts."""
        program = self.program()
        folder = None if program.folder is None else str(program.folder)
        launch = self.launch
        words = program.words
        added: list[int] = []
        environment: dict[str, str] = {}
        if launch is not None and (ranks > 1 or not launch.only_for_several_ranks):
            added = list(launch.added)
            environment = dict(launch.environment)
        elif launch is not None:
            words = tuple(word for place, word in enumerate(words) if place not in launch.added)

        return {
            "kind": program.kind,
            "command": list(words),
            "added": added,
            "environment": environment,
            "folder": folder,
            "ranks_per_host": self.ranks_per_host,
            "shared_folder": self.shared_folder,
            "events_from": self.events_from,
            "early_variables": _early_variables(program, self._code()),
            "source": self.source,
            **self._gpu_settings(),
        }

    def _gpu_settings(self) -> dict[str, Any]:
        """Return the kind and the number of a host's modelled GPUs; empty if it has none."""
        if self.gpu is None:
            return {}

        gpu = load_gpu(self.gpu)
        return {
            "gpu": gpu.name,
            "gpus_per_host": self.gpus_per_host,
            "gpu_figures": gpu.settings(),
            "comm": self.comm,
            "scale": self.scale,
        }

    def largest_tensor_bytes(self, ranks: int) -> int:
        """Return a guess in bytes: weights of 16 million float32 parameters, without gradients."""
        return 64 * MIB

    @model_validator(mode="after")
    def _can_be_started(self) -> Script:
        if self.source is not None and self.command[0] != STANDARD_INPUT:
            raise UnitError("`source` applies only to the command -", "remove `source`")

        if self.gpu is None and self.gpus_per_host > 1:
            raise UnitError("gpus_per_host requires gpu", "name the kind of GPU: --gpu H100")

        if self.gpu is None:
            for key, is_default in (("comm", self.comm == "nccl"), ("scale", self.scale == 1)):
                if not is_default:
                    raise UnitError(f"{key} requires gpu", "name the kind of GPU: --gpu H100")
        else:
            load_gpu(self.gpu)

        self.program()
        return self

    @model_validator(mode="before")
    @classmethod
    def _rank_for_each_gpu(cls, data: Any) -> Any:
        """Default to a rank for each modelled GPU of a host."""
        if not isinstance(data, Mapping) or "ranks_per_host" in data:
            return data

        gpus = data.get("gpus_per_host")
        return data if gpus is None else {**data, "ranks_per_host": gpus}


def command_path() -> str:
    """Return the folders in which commands are looked for, the interpreter's folder first."""
    interpreter_folder = Path(sys.executable).parent

    return f"{interpreter_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _file_program(name: str, arguments: list[str]) -> Program:
    """Return the program for a Python file.

    As in Python, ``__file__`` is the path as written, and modules are looked for in the folder of
    the file that a symbolic link leads to.
    """
    _check_file(Path(name))
    path = absolute_path(name)
    folder = path.resolve().parent
    folders = {visible_folder(path.parent), visible_folder(folder)}

    return Program("file", (str(path), *arguments), folder, tuple(sorted(folders)))


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UnitError(f"{path} is a folder, not a script", "name a script in the folder")

    if not path.is_file():
        scripts = [str(script) for script in sorted(path.parent.glob("*.py"))]
        remedy = suggest(path, scripts, "scripts there") if scripts else ""
        raise UnitError(f"no such script: {path}", remedy)

    if not os.access(path, os.R_OK):
        raise UnitError(
            f"cannot read the script {path}: permission denied",
            f"make it readable: chmod +r {path}",
        )


def _module(words: list[str]) -> Program:
    """Return the program for a module, which may be in the working folder."""
    if not words:
        raise UnitError(
            "-m requires a module", "use -m package.module, followed by the arguments of the module"
        )

    working_folder = Path.cwd()
    package = words[0].partition(".")[0]
    if PathFinder.find_spec(package, [str(working_folder)]) is None:
        return Program("module", tuple(words), None, ())

    return Program("module", tuple(words), working_folder, (visible_folder(working_folder),))


def _code_program(kind: Kind, words: Sequence[str], code: str) -> Program:
    """Return the program for Python code, which may import modules of the working folder."""
    working_folder = Path.cwd()
    for package in sorted(_imported_packages(code)):
        if PathFinder.find_spec(package, [str(working_folder)]) is not None:
            return Program(kind, tuple(words), working_folder, (visible_folder(working_folder),))

    return Program(kind, tuple(words), None, ())


def _imported_packages(code: str) -> set[str]:
    """Return the modules or packages that code imports; empty if the code is wrong."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return set()

    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.append(node.module)

    return {name.partition(".")[0] for name in names}


def _check_code(code: str) -> None:
    """Check that Python can compile code.

    Raises:
        UnitError: the code has a syntax error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ranks show the warnings
            compile(code_to_compile(code), "<code>", "exec", dont_inherit=True)
    except SyntaxError as error:
        where = "" if error.lineno is None else f", line {error.lineno}"
        raise UnitError(f"the code has a syntax error{where}: {error.msg}") from error
    except ValueError as error:
        raise UnitError(f"cannot compile the code: {error}") from error


def _command(words: Sequence[str], folder: Path | None) -> Program:
    """Return the program for a command, with the full paths of the files that the command names.

    The command runs in another working folder. A shell's ``-c`` line may name files, too.

    Args:
        words: the command.
        folder: folder of the modules that the command names; None: the command names no modules.
    """
    full_words: list[str] = []
    files: set[Path] = set()
    line = _shell_line(words)

    for position, word in enumerate(words):
        if position == line:
            full_word, files_of_line = full_shell_line(word)
            full_words.append(full_word)
            files |= files_of_line
        elif Path(word).is_file() and (position > 0 or "/" in word):  # commands are in PATH
            full_words.append(str(absolute_path(word)))
            files.add(Path(word))
        else:
            full_words.append(word)

    folders: set[Path] = set()
    if folder is not None:
        folders.add(visible_folder(folder))

    for file in files:
        folders.add(visible_folder(absolute_path(file).parent))
        folders.add(visible_folder(file.resolve().parent))

    return Program("command", tuple(full_words), folder, tuple(sorted(folders)))


def _shell_line(words: Sequence[str]) -> int | None:
    """Return the position of the line that a shell among `words` gets with ``-c``, or None."""
    for position, word in enumerate(words[:-1]):
        is_flag = word.startswith("-") and not word.startswith("--") and word.endswith("c")
        if not is_flag:
            continue
        programs = {Path(before).name for before in words[:position]}
        if not programs.isdisjoint(SHELLS):
            return position + 1

    return None


def full_shell_line(line: str) -> tuple[str, set[Path]]:
    """Return a shell's line with the full paths of the files that it names, and these files.

    Names of commands stay as they are, and files to which the line redirects output.
    """
    parts: list[str] = []
    files: set[Path] = set()
    end = 0
    for match in SHELL_WORD.finditer(line):
        word = match.group()
        quote = word[0] if word[0] in QUOTES else ""
        name = word.strip(quote) if quote else word.replace("\\ ", " ")
        before = line[: match.start()].rstrip()
        if before.endswith(">") or not name or "\0" in name or not _is_file(name):
            continue

        if "/" not in name and shutil.which(name, path=command_path()):
            continue

        files.add(Path(name))
        parts += [line[end : match.start()], shlex.quote(str(absolute_path(name)))]
        end = match.end()

    return "".join([*parts, line[end:]]), files


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # longer than a name may be
        return False


def _early_variables(program: Program, code: str | None) -> list[str]:
    """Return variables that torch reads during its import, and that the program's code may set.

    The search covers the Python files in the program's folder.

    Args:
        program: the program.
        code: the program's code, if the code is not in a file.
    """
    texts: list[bytes] = []
    if code is not None:
        texts.append(code.encode(errors="replace"))

    if program.kind != "command" and program.folder is not None:
        for file in sorted(program.folder.glob("*.py"))[:MOST_FILES_READ]:
            with contextlib.suppress(OSError):
                texts.append(file.read_bytes()[:MOST_BYTES_READ])

    names: set[str] = set()
    for text in texts:
        if SETS_VARIABLES.search(text):
            names.update(match.decode() for match in EARLY_VARIABLE.findall(text))

    return sorted(names)


def _find_module(name: str, folder: Path | None) -> None:
    """Check that a module exists, without importing the packages that hold the module.

    Args:
        name: name of the module, with dots.
        folder: the first folder to search.

    Raises:
        UnitError: the module does not exist.
    """
    path_entries = [entry for entry in sys.path if entry]
    if folder is not None:
        path_entries.insert(0, str(folder))

    search_folders: list[str] | None = path_entries
    for part in name.split("."):
        spec = None
        if search_folders is not None:
            spec = PathFinder.find_spec(part, search_folders)

        if spec is None:
            remedy = f"{part!r} is neither in {Path.cwd()} nor installed"
            raise UnitError(f"unknown module {name!r}", remedy)

        search_folders = None  # the parent module is not a package
        if spec.submodule_search_locations is not None:
            search_folders = list(spec.submodule_search_locations)
