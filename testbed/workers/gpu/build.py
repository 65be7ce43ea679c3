"""Compile the libraries of modelled GPUs against the installed torch, once, into the cache."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from testbed.core.compiler import run_compiler
from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir
from testbed.core.seals import is_whole, remove_sealed, seal
from testbed.workers.gpu.device_library import DEVICE_LIBRARY

SOURCES = Path(__file__).parent / "native"
COMPILER = "g++"
FLAGS = ("-O2", "-fPIC", "-std=c++20", "-w")
PYTHON_LIBRARY = "testbed_nccl.so"
# The devices, which torch has to find when it is imported; and a Python module, loaded after torch.
DEVICE_PARTS = (
    "device",
    "clock",
    "caching",
    "memory",
    "timeline",
    "graphs",
    "captures",
    "labels",
    "steps",
    "values",
    "computed_values",
    "cost",
    "known_calls",
    "stand_ins",
    "operators",
    "tensor_operators",
    "normalization",
)
PYTHON_PARTS = (
    "sockets",
    "host_chains",
    "transfer",
    "rings",
    "carried",
    "combinations",
    "trees",
    "tuning",
    "stand_in_payload",
    "communicator",
    "communicator_connections",
    "backend",
    "python",
)
LAST_LINES = 5  # quoted from the compiler's errors
JOBS = 2  # each takes up to 1.5 GiB of memory


def why_no_gpus() -> str:
    """Return what this machine lacks for modelled GPUs; empty if nothing."""
    if shutil.which(COMPILER) is None:
        return f"{COMPILER} is not installed"

    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's headers are not installed"

    return ""


def gpu_libraries(on_building: Callable[[], None] = lambda: None) -> Path:
    """Return the folder with the libraries, which are compiled if they are missing or damaged.

    Args:
        on_building: called if the libraries have to be compiled, which takes a minute or two.

    Raises:
        MachineError: the libraries cannot be compiled.
    """
    parent = cache_dir() / "gpu"
    parent.mkdir(exist_ok=True)
    folder = parent / _identity()
    if _is_sound(folder):
        return folder

    with (parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_sound(folder):  # another process may have compiled them meanwhile
            on_building()
            _compile_into(folder)

    return folder


def remove_damaged_libraries() -> bool:
    """Remove libraries from the cache that are not as compiled; return whether there was one."""
    removed = False
    for path in (cache_dir() / "gpu").glob("*/*.so"):
        if not is_whole(path, thoroughly=True):
            remove_sealed(path)
            removed = True

    return removed


def _is_sound(folder: Path) -> bool:
    return is_whole(folder / DEVICE_LIBRARY) and is_whole(folder / PYTHON_LIBRARY)


def _identity() -> str:
    """Return a name for what the libraries are made from."""
    parts = [importlib.metadata.version("torch"), sys.version, *FLAGS]
    for source in sorted(SOURCES.iterdir()):
        parts += [source.name, source.read_text()]

    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Compiler:
    """Commands that compile against the installed torch.

    Attributes:
        torch: folder of torch.
        objects: folder for the object files.
    """

    torch: Path
    objects: Path

    def compile(self, part: str) -> None:
        """Compile one source file."""
        include = self.torch / "include"
        folders = (
            include,
            include / "torch" / "csrc" / "api" / "include",
            sysconfig.get_paths()["include"],
        )
        command = [COMPILER, *FLAGS]
        for folder in folders:
            command.append(f"-I{folder}")
        command += ["-c", str(SOURCES / f"{part}.cpp"), "-o", str(self.objects / f"{part}.o")]
        _run(command)

    def link(self, library: Path, parts: Sequence[str], libraries: Sequence[str]) -> None:
        """Link object files to a library."""
        folder = self.torch / "lib"
        command = [COMPILER, "-shared", f"-Wl,-soname,{library.name}", "-o", str(library)]
        for part in parts:
            command.append(str(self.objects / f"{part}.o"))
        command += [f"-L{folder}", *libraries, f"-Wl,-rpath,{folder}", "-Wl,-rpath,$ORIGIN"]
        _run(command)


def _compile_into(folder: Path) -> None:
    reason = why_no_gpus()
    if reason:
        remedy = "apt-get install --no-install-recommends g++ python3-dev"
        raise MachineError(f"cannot compile the modelled GPUs: {reason}\n  {remedy}")

    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise MachineError("cannot compile the modelled GPUs: torch is not installed")

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="testbed-gpu-") as objects:
        compiler = _Compiler(Path(spec.origin).parent, Path(objects))
        with ThreadPoolExecutor(JOBS) as pool:
            list(pool.map(compiler.compile, (*DEVICE_PARTS, *PYTHON_PARTS)))

        torch_libraries = ["-ltorch_cpu", "-lc10"]
        device_library = folder / DEVICE_LIBRARY
        remove_sealed(device_library)
        compiler.link(device_library, DEVICE_PARTS, torch_libraries)
        python_library = folder / PYTHON_LIBRARY
        remove_sealed(python_library)
        python_libraries = [str(device_library), "-ltorch_python", *torch_libraries]
        compiler.link(python_library, PYTHON_PARTS, python_libraries)

    seal(device_library)
    seal(python_library)


def _run(command: Sequence[str]) -> None:
    """Run the compiler.

    Raises:
        MachineError: it failed; the message has its last lines.
    """
    result = run_compiler(command)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "error" in line]
        quoted = "\n".join(f"    {line}" for line in lines[:LAST_LINES])
        raise MachineError(f"cannot compile the modelled GPUs:\n{quoted}")
