"""Find, build and cache the guest kernel.

A kernel is built from the distribution's kernel source, or one that the user has named, with
`kernel_source/guest.config` and the edits for its version, and cached under a key made of all
three, so that a change of any of them builds a new one. Two builds at once: the second waits for
the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir
from testbed.guest.linux_source import (
    LINUX,
    PARTS,
    Source,
    choose,
    chosen_source,
    find_source,
    named_source,
)

TOOLS = {
    "gcc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "xz": "xz-utils",
    "patch": "patch",
}
OBJECTS = (
    1500  # compiled files of a build with guest.config and Linux 6.12, for the progress display
)

Progress = Callable[[str, float], None]  # what is being done, and how much of it from 0 to 1


@dataclass(frozen=True)
class Kernel:
    """A program that boots as a guest.

    `virtual_time` is false for one that can only run on the host's clock. With `seccomp` (Linux
    6.16 and later) the host drives processes by seccomp and futexes where it may, not by ptrace: a
    trap costs a third less.
    """

    path: Path
    version: str
    virtual_time: bool
    seccomp: bool = False


def find_kernel() -> Kernel | None:
    """The kernel that ``$TESTBED_KERNEL`` names, else the cached one for the source in use, else
    None.
    """
    named = os.environ.get("TESTBED_KERNEL")
    if named:
        return _inspect(Path(named))
    source = find_source()
    if source is None:
        return None
    cached = _cached(source)
    return _inspect(cached) if cached.is_file() else None


def missing_tools() -> list[str]:
    """Debian packages of the programs that a build needs and that are not here."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool) is None]


def ensure_kernel(progress: Progress = lambda what, part: None) -> Kernel:
    """The guest kernel; built first if it is not cached.

    Raises:
        MachineError: it has to be built, and the source or a tool is missing, or the build fails.
        InputError: the source that was named is gone, or the edits do not apply to it.
    """
    kernel = find_kernel()
    return kernel if kernel is not None else build_kernel(progress)


def kernel_from(path: Path | None, progress: Progress) -> Kernel:
    """The guest kernel of the source at `path` (None: the distribution's), which is used from now
    on.

    Raises:
        InputError: `path` is no kernel source, or the edits do not apply to it.
        MachineError: as `build_kernel`.
    """
    before = chosen_source()
    choose(None if path is None else named_source(path))
    try:
        return ensure_kernel(progress)
    except BaseException:
        choose(before)
        raise


def build_kernel(progress: Progress) -> Kernel:
    """Build the kernel into the cache; returns the cached one if another process has just built it.

    Raises:
        InputError: the edits do not apply to the source.
        MachineError: source or tools are missing, or the build fails; the message ends with the
            log's last lines.
    """
    source = _require_source_and_tools()
    target = _cached(source)
    with _lock(target.parent.parent / "build.lock", progress):
        if not target.is_file():
            with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent.parent) as work:
                built = _build(source, Path(work), progress)
                target.parent.mkdir(exist_ok=True)
                built.replace(target)
    return _inspect(target)


def _require_source_and_tools() -> Source:
    source, missing = find_source(), missing_tools()
    if source is None:
        missing.insert(0, f"linux-source-{LINUX}")
    if missing or source is None:
        raise MachineError(
            "the guest kernel is not built yet, and building it needs Debian packages that are missing: "
            f"{' '.join(missing)}\n  run `make setup`, or `apt-get install {' '.join(missing)}`"
        )
    return source


def _key(source: Source) -> str:
    """Hash of the source, the configuration and the edits."""
    digest = hashlib.sha256(source.fingerprint.encode())
    for part in sorted(
        (path for path in PARTS.rglob("*") if path.is_file()), key=lambda path: path.name
    ):
        digest.update(part.read_bytes())
    return digest.hexdigest()[:16]


def _cached(source: Source) -> Path:
    return cache_dir() / "kernel" / _key(source) / "linux"


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build of the kernel", 0.0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(source: Source, work: Path, progress: Progress) -> Path:
    log = work / "log"
    tree = work / "linux"
    tree.mkdir()
    make = ["make", "ARCH=um", f"-j{os.cpu_count() or 1}"]

    def step(what: str, part: float, command: list[str]) -> None:
        progress(what, part)
        _logged(command, tree, log)

    progress("unpacking the kernel source", 0.0)
    source.unpack(tree)
    progress("applying the edits", 0.04)
    source.patch(tree)
    if source.path.is_dir():
        step("removing an earlier build", 0.04, [*make, "mrproper"])
    step("configuring", 0.05, [*make, "allnoconfig"])
    config = PARTS / "guest.config"
    step("configuring", 0.05, ["scripts/kconfig/merge_config.sh", "-m", ".config", str(config)])
    step("configuring", 0.05, [*make, "olddefconfig"])
    _check_config(config, tree / ".config")
    done = 0
    for line in _lines([*make, "linux"], tree, log):
        if re.match(r"  (CC|AS|AR) ", line):
            done += 1
            progress("compiling", 0.06 + 0.93 * min(1.0, done / OBJECTS))
    return tree / "linux"


def _check_config(wanted: Path, got: Path) -> None:
    have = set(got.read_text().splitlines())
    lost = [
        line
        for line in wanted.read_text().splitlines()
        if line.startswith("CONFIG_") and line not in have
    ]
    if lost:
        raise MachineError(
            f"the kernel source does not offer what the guest needs: {' '.join(lost)}"
        )


def _lines(command: list[str], cwd: Path, log: Path) -> Iterator[str]:
    """Run `command`, add its output to `log` and yield it line by line; raise if it fails."""
    environment = {
        **os.environ,
        "KBUILD_BUILD_TIMESTAMP": "2025-01-01",
        "KBUILD_BUILD_USER": "testbed",
        "LC_ALL": "C",
    }
    with (
        log.open("a") as out,
        subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                out.write(line)
                yield line
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        tail = "".join(log.read_text().splitlines(keepends=True)[-20:])
        raise MachineError(f"building the guest kernel failed at `{' '.join(command)}`:\n{tail}")


def _logged(command: list[str], cwd: Path, log: Path) -> None:
    for _line in _lines(command, cwd, log):
        pass


def _inspect(path: Path) -> Kernel:
    """Ask the program for its version and options.

    Raises:
        MachineError: it cannot be executed.
    """
    try:
        version = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
        options = subprocess.run(
            [path, "--help"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"the guest kernel {path} does not run: {error}") from error
    return Kernel(
        path,
        version.stdout.strip(),
        "time-travel-slice" in options.stdout,
        "seccomp=" in options.stdout,
    )
