"""Find, build and cache the guest kernel.

A kernel is built from the distribution's kernel source, or from a source that the user has chosen,
with `kernel_source/guest.config` and the patches for its version. The cache key is a hash of these
three, so that a change of any of them triggers a build. Of two simultaneous builds, the second
waits for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
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
from testbed.core.seals import is_whole, remove_sealed, seal
from testbed.guest.linux_source import (
    DISTRIBUTION_PACKAGE,
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
# Number of compiled files in a build of Linux 6.12 with guest.config, for the progress display.
OBJECTS = 1500
COMPILED = re.compile(r"  (CC|AS|AR) ")  # start of a line that make prints
# Fractions of the build time, from 0 to 1, at which the steps of a build begin.
CONFIGURING, COMPILING = 0.05, 0.06
BUILT = 0.99
LOG_LINES = 20  # last lines of a build's log that are quoted in an error
BUILD_ENVIRONMENT = {
    "KBUILD_BUILD_TIMESTAMP": "2025-01-01",
    "KBUILD_BUILD_USER": "testbed",
    "LC_ALL": "C",
}

Progress = Callable[[str, float], None]  # the current step, and the completed fraction from 0 to 1


BUILD_PREFIX = "build-"


@dataclass(frozen=True)
class Kernel:
    """An executable guest kernel, with its version and features.

    Attributes:
        path: the executable.
        version: the version that the executable reports.
        virtual_time: whether the kernel supports a virtual clock.
        seccomp: whether the kernel can control processes by seccomp and futexes instead of ptrace.
        two_cpus: whether the kernel's processes can have another CPU than the kernel.
        shares_clock: whether several guests can share one virtual clock.
    """

    path: Path
    version: str
    virtual_time: bool
    seccomp: bool = False
    two_cpus: bool = False
    shares_clock: bool = False


def find_kernel() -> Kernel | None:
    """Find the kernel to use.

    The order of precedence is: the kernel that ``$TESTBED_KERNEL`` names, the kernel built from a
    source chosen with `kernel_from`, the kernel installed as a wheel, the kernel built from the
    distribution's source.

    Returns:
        The kernel; None if there is no source, or the kernel is not built yet.

    Raises:
        MachineError: the kernel cannot be executed.
    """
    named = os.environ.get("TESTBED_KERNEL")
    if named:
        return _inspect(Path(named))
    installed = _installed()
    if installed is not None and chosen_source() is None:
        return _inspect(installed)
    source = find_source()
    if source is None:
        return None
    cached = _cached(source)
    return _inspect(cached) if is_whole(cached) else None


def _installed() -> Path | None:
    """Return the kernel in the package `testbed_kernel` (see `scripts/kernel_wheel.py`), if any."""
    package = importlib.util.find_spec("testbed_kernel")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).with_name("linux")


def missing_tools() -> list[str]:
    """Return the Debian packages that a kernel build needs and that are not installed."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool) is None]


def ensure_kernel(progress: Progress = lambda what, part: None) -> Kernel:
    """Return the guest kernel; build the kernel if necessary.

    Raises:
        MachineError: a build is necessary, and the source or a tool is missing, or the build fails.
        InputError: the chosen source no longer exists, or the patches do not apply to the source.
    """
    try:
        kernel = find_kernel()
    except MachineError:
        if not remove_damaged_kernel():
            raise
        kernel = None
    return kernel if kernel is not None else build_kernel(progress)


def remove_damaged_kernel() -> bool:
    """Remove the kernel from the cache if it is not as it was built; return whether it was not."""
    source = find_source()
    if source is None or is_whole(_cached(source), thoroughly=True):
        return False
    if not _cached(source).exists():
        return False
    remove_sealed(_cached(source))
    return True


def kernel_from(path: Path | None, progress: Progress) -> Kernel:
    """Find or build the guest kernel of another source, and use that source from now on.

    Args:
        path: the source, a folder or a tarball; None: the distribution's source.
        progress: called as a build proceeds.

    Raises:
        InputError: `path` is not a kernel source, or the patches do not apply to the source.
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
    """Build the kernel into the cache, unless another process has just built the same kernel.

    Args:
        progress: called as the build proceeds.

    Raises:
        InputError: the patches do not apply to the source.
        MachineError: the source or a tool is missing, or the build fails; the message ends with the
            last lines of the log.
    """
    source = _require_source_and_tools()
    target = _cached(source)
    cache = target.parent.parent
    with _lock(cache / "build.lock", progress):
        _remove_killed_builds(cache)
        if not is_whole(target):
            if target.exists():
                progress("the kernel in the cache is damaged, building it again", 0.0)
                remove_sealed(target)
            with tempfile.TemporaryDirectory(prefix=BUILD_PREFIX, dir=cache) as work:
                built = _build(source, Path(work), progress)
                target.parent.mkdir(exist_ok=True)
                built.replace(target)
                seal(target)
    return _inspect(target)


def _remove_killed_builds(cache: Path) -> None:
    """Remove what killed builds have left; the caller holds the lock of builds."""
    for left in cache.glob(f"{BUILD_PREFIX}*"):
        if left.lstat().st_uid == os.geteuid():
            shutil.rmtree(left, ignore_errors=True)


def _require_source_and_tools() -> Source:
    source = find_source()
    missing = missing_tools()
    if source is None:
        missing.insert(0, DISTRIBUTION_PACKAGE)
    if missing or source is None:
        packages = " ".join(missing)
        raise MachineError(
            "the guest kernel is not built yet, and building it needs missing Debian packages: "
            f"{packages}\n"
            f"  run `make setup`, or `apt-get install {packages}`"
        )
    return source


def _key(source: Source) -> str:
    """Return a hash of the source, the configuration and the patches."""
    digest = hashlib.sha256(source.fingerprint.encode())
    files = [path for path in PARTS.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda path: path.name):
        digest.update(file.read_bytes())
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
    """Build a kernel.

    Args:
        source: the kernel's source.
        work: an empty folder.
        progress: called as the build proceeds.

    Returns:
        The path of the executable, below `work`.
    """
    log = work / "log"
    tree = work / "linux"
    tree.mkdir()
    make = ["make", "ARCH=um", f"-j{os.cpu_count() or 1}"]
    progress("unpacking the kernel source", 0.0)
    source.unpack(tree)
    progress("applying the edits", 0.04)
    source.patch(tree)
    if source.path.is_dir():
        progress("removing an earlier build", 0.04)
        _run([*make, "mrproper"], tree, log)
    progress("configuring", CONFIGURING)
    config = PARTS / "guest.config"
    _run([*make, "allnoconfig"], tree, log)
    _run(["scripts/kconfig/merge_config.sh", "-m", ".config", str(config)], tree, log)
    _run([*make, "olddefconfig"], tree, log)
    _check_config(config, tree / ".config")
    compiled = 0
    for line in _output_lines([*make, "linux"], tree, log):
        if COMPILED.match(line):
            compiled += 1
            part = min(1.0, compiled / OBJECTS)
            progress("compiling", COMPILING + (BUILT - COMPILING) * part)
    return tree / "linux"


def _check_config(wanted: Path, effective: Path) -> None:
    """Check that the effective kernel configuration contains every required setting.

    Args:
        wanted: the file of settings that the guest needs.
        effective: the file of all settings.

    Raises:
        MachineError: a setting is missing.
    """
    settings = set(effective.read_text().splitlines())
    missing: list[str] = []
    for line in wanted.read_text().splitlines():
        if line.startswith("CONFIG_") and line not in settings:
            missing.append(line)
    if missing:
        raise MachineError(
            f"the kernel source lacks options that the guest needs: {' '.join(missing)}"
        )


def _run(command: list[str], folder: Path, log: Path) -> None:
    """Run a command of the build in `folder`, and append its output to `log`.

    Raises:
        MachineError: the command failed.
    """
    for _line in _output_lines(command, folder, log):
        pass


def _output_lines(command: list[str], folder: Path, log: Path) -> Iterator[str]:
    """Run a command of the build in `folder`, and yield each output line after logging to `log`.

    Raises:
        MachineError: the command failed.
    """
    with (
        log.open("a") as out,
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **BUILD_ENVIRONMENT},
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
        last_lines = log.read_text().splitlines(keepends=True)[-LOG_LINES:]
        raise MachineError(
            f"building the guest kernel failed at `{' '.join(command)}`:\n{''.join(last_lines)}"
        )


def _inspect(path: Path) -> Kernel:
    """Run a kernel executable to read its version and features.

    Raises:
            MachineError: the kernel cannot be executed.
    """
    try:
        version = _output_of([path, "--version"], check=True)
        options = _output_of([path, "--help"], check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"cannot run the guest kernel {path}: {error}") from error
    return Kernel(
        path=path,
        version=version.strip(),
        virtual_time="time-travel-slice" in options,
        seccomp="seccomp=" in options,
        two_cpus="stub-cpu=" in options,
        shares_clock="time-travel-sites" in options,
    )


def _output_of(command: list[Path | str], *, check: bool) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=check)
    return result.stdout
