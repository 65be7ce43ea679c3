"""Determine the code and the folders that a run in a guest must be able to read."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import testbed
from testbed.core.code_bundle import BUNDLE, is_fresh
from testbed.core.errors import MachineError
from testbed.core.paths import cache_dir
from testbed.core.seals import is_whole, remove_sealed, seal
from testbed.plan.model import Plan
from testbed.workers.fleet import ENVIRONMENT
from testbed.workers.gpu.build import gpu_libraries
from testbed.workers.gpu.device_library import LIBRARIES

GUEST_ENVIRONMENT = {
    **ENVIRONMENT,
    "PYDANTIC_DISABLE_PLUGINS": "1",  # pydantic searches every installed package for plug-ins
}
if sys.version_info < (3, 12):
    # Mininet imports distutils. Python's own distutils, where available, loads faster.
    GUEST_ENVIRONMENT["SETUPTOOLS_USE_DISTUTILS"] = "stdlib"
LAST_LINES = 5  # quoted from the output of a failed import


@dataclass(frozen=True)
class Code:
    """Command prefix, environment and folders that run a module of the testbed in a guest.

    Attributes:
        python: the command up to the module's name.
        environment: environment variables of the command.
        readable: folders that the command needs.
    """

    python: list[str]
    environment: dict[str, str]
    readable: list[Path]


def code_for_guests(
    on_bundling: Callable[[], None] = lambda: None, *, bundled: bool = True
) -> Code:
    """Return the code of this installation.

    Args:
        on_bundling: called if modules have to be bundled first, which takes seconds.
        bundled: whether to use a module bundle, which is faster where file look-ups are expensive.

    Raises:
        MachineError: a module cannot be imported, so the bundle cannot be created.
    """
    project = Path(testbed.__file__).parent.parent
    # A guest could not store compiled files. Ranks read the script of their workload, which takes
    # virtual time. With the compiled files in place, ranks read the same files in every run.
    for folder in ("testbed", "workloads"):
        compileall.compile_dir(project / folder, quiet=2)
    environment = {"PYTHONPATH": str(project), **GUEST_ENVIRONMENT}
    readable = [project, Path(sys.prefix), Path(sys.base_prefix), *_added_folders()]
    if not bundled:
        return Code([sys.executable, "-m"], environment, readable)
    python = python_for_guests(environment, on_bundling)
    return Code(python, environment, [*readable, bundles_folder()])


def _added_folders() -> list[Path]:
    """Return the folders from which modules come, such as those that .pth files add."""
    first = 0 if sys.flags.safe_path else 1  # the folder of the user's script
    return [Path(entry) for entry in sys.path[first:] if Path(entry).is_dir()]


def with_gpus(code: Code, plan: Plan, on_building: Callable[[], None]) -> Code:
    """Return the code with the libraries of the plan's modelled GPUs, if the plan has any.

    Args:
        code: the code of this installation.
        plan: the plan of the run.
        on_building: called if the libraries have to be compiled, which takes a minute or two.

    Raises:
        MachineError: the libraries cannot be compiled.
    """
    if not plan.workers.has_gpus:
        return code

    folder = gpu_libraries(on_building)
    environment = {**code.environment, LIBRARIES: str(folder)}
    return Code(code.python, environment, [*code.readable, folder])


def plan_folders(plan: Plan) -> set[Path]:
    """Return the folders that the plan names, and the parents of the files that the plan names."""
    folders = {Path(folder) for folder in plan.workers.readable}
    files = {Path(plan.workers.image or "")}
    for link in plan.network.wan:
        for direction in link.directions:
            files.add(Path(direction.fibre.distribution))
    for file in files:
        if file.is_absolute():  # a relative path is a name, not a file
            folders.add(file.parent)
    return folders


def bundles_folder() -> Path:
    """Return the folder that holds the bundles; create the folder if missing."""
    folder = cache_dir() / "modules"
    folder.mkdir(exist_ok=True)
    return folder


def python_for_guests(environment: Mapping[str, str], on_bundling: Callable[[], None]) -> list[str]:
    """Return the command prefix that runs a module from the bundle, as ``python -m`` does.

    The bundle is created if it does not exist, or if a bundled file has changed.

    Args:
        environment: environment variables of the guest's programs.
        on_bundling: called if the bundle has to be created, which takes seconds.

    Raises:
        MachineError: a module cannot be imported, so the bundle cannot be created.
    """
    folder = bundles_folder()
    identity = "\n".join([sys.executable, sys.version, str(BUNDLE)])
    path = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not _is_sound(path):
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made_by_another = _is_sound(path)
            if not made_by_another:
                on_bundling()
                remove_sealed(path)
                _make_bundle(path, environment)
                seal(path)
    return [sys.executable, str(BUNDLE), str(path)]


def _is_sound(path: Path) -> bool:
    return is_whole(path) and is_fresh(path)


def remove_damaged_bundles() -> bool:
    """Remove bundles from the cache that are not as they were made; return whether there was one.

    A bundle that is in use stays usable for who has opened it.
    """
    removed = False
    for path in bundles_folder().iterdir():
        is_bundle = path.suffix == "" and path.name not in ("lock", "partial")
        if is_bundle and not is_whole(path, thoroughly=True):
            remove_sealed(path)
            removed = True
    return removed


def _make_bundle(path: Path, environment: Mapping[str, str]) -> None:
    python = [sys.executable, "-m", "testbed.execution.bundle_modules", str(path)]
    result = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", *python],
        env={"PATH": os.defpath, **environment},
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode != 0:
        last_lines = result.stderr.splitlines()[-LAST_LINES:]
        indented = "\n".join(f"    {line}" for line in last_lines)
        raise MachineError(f"cannot import the modules that a guest needs:\n{indented}")
