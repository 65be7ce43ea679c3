"""Check what runs need of this machine besides a guest kernel."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from testbed.core.errors import MachineError
from testbed.core.installation import is_clone
from testbed.plan.model import Capture, Isolation

CONTROLLERS = ("cpu", "memory", "pids")  # control group (v2) controllers that limit a host
# Debian packages from scripts/packages that provide programs for runs, each with one of its
# programs by which the package is recognised.
PROGRAMS = {
    "dockerd": "docker.io",
    "mnexec": "mininet",
    "crun": "crun",
    "tcpdump": "tcpdump",
    "ip": "iproute2",
    "ping": "iputils-ping",
    "ps": "procps",
    "nsenter": "util-linux",
}
# Modules of the extra "run" in pyproject.toml.
RUN_MODULES = ("torch", "docker", "mininet", "pyroute2")
LONGEST_TRY_S = 300  # a first import of torch takes more than 60 s on an emulated processor
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
NO_RIGHTS = "needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"


def missing_modules() -> list[str]:
    """Return the missing modules of the extra "run", without importing any module."""
    return [name for name in RUN_MODULES if importlib.util.find_spec(name) is None]


def how_to_install_run() -> str:
    """Return the command that installs the packages of the extra "run"."""
    return "scripts/setup" if is_clone() else "pip install 'wan-training-testbed[run]'"


def require_packages() -> None:
    """Check that the Python packages of the extra "run" are installed.

    Raises:
        MachineError: a package is missing.
    """
    missing = missing_modules()
    if missing:
        raise MachineError(
            f'this needs the packages of the extra "run": {how_to_install_run()}\n'
            f"  missing: {', '.join(missing)}"
        )


def require_programs(isolation: Isolation, capture: Capture) -> None:
    """Check that the programs are installed that a run needs.

    Args:
        isolation: how hosts are isolated.
        capture: which packets are captured.

    Raises:
        MachineError: a program is missing.
    """
    needed: list[str] = []
    if isolation == "container":
        needed.append("dockerd")
    if capture != "none":
        needed += ["tcpdump", "nsenter"]
    _require(needed, "this run")


def require_deployment() -> None:
    """Check that the packages and programs are installed that deployments need.

    Raises:
        MachineError: a package or program is missing.
    """
    require_packages()
    _require(["mnexec"], "a deployed network")


def _require(programs: Sequence[str], who: str) -> None:
    """Check that the programs are installed that `who` needs.

    Raises:
        MachineError: a program is missing.
    """
    missing = [name for name in programs if shutil.which(name, path=search_path()) is None]
    if missing:
        packages = " ".join(PROGRAMS[name] for name in missing)
        raise MachineError(
            f"programs that {who} needs are not installed: {', '.join(missing)}\n"
            f"  apt-get install --no-install-recommends {packages}"
        )


def require_host_runs() -> None:
    """Check, with quick checks only, that this machine's kernel can carry out plans.

    Raises:
        MachineError: rights or kernel features are missing.
    """
    reason = why_no_host_runs()
    if reason:
        raise MachineError(
            f"cannot run on the host: {reason}\n"
            "  without --where here, testbed uses a guest, which has no such requirements"
        )


def why_no_host_runs() -> str:
    """Return why this machine's kernel cannot carry out plans; empty if the kernel can."""
    if not administers():
        return f"this {NO_RIGHTS}"
    if reason := try_cgroups():
        return reason
    if reason := try_netem():
        return f"this kernel cannot create a netem qdisc ({reason})"
    return ""


def search_path() -> str:
    """Return PATH extended by system folders that a user's PATH may lack."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    return os.pathsep.join(folders)


def administers() -> bool:
    """Return whether this process may create network interfaces and mounts (proc(5): CapEff)."""
    if platform.system() != "Linux":
        return False
    fields: dict[str, str] = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":\t")
        fields[name] = value
    effective = int(fields["CapEff"], 16)
    return all(effective >> capability & 1 for capability in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def tried(command: Sequence[str]) -> str:
    """Run a command, and return the last line of its errors; empty if the command succeeds."""
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=LONGEST_TRY_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if result.returncode == 0:
        return ""
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"


def try_netem() -> str:
    """Try to create a netem queue in a temporary network namespace.

    Returns:
        The error; empty on success.
    """
    if not administers():
        return NO_RIGHTS
    netem = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    return tried(["unshare", "--net", *netem])


def try_cgroups(root: Path = Path("/sys/fs/cgroup")) -> str:
    """Look for control groups (v2) with the controllers that limit a host.

    Args:
        root: the mount point of the control groups.

    Returns:
        What is missing; empty if nothing is.
    """
    try:
        controllers = (root / "cgroup.controllers").read_text().split()
    except OSError:
        return f"{root} is not a control group version 2 file system"
    missing = [name for name in CONTROLLERS if name not in controllers]
    if missing:
        return f"{root} has no controllers {', '.join(missing)}"
    return ""
