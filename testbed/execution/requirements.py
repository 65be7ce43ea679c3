"""What a run needs of this machine besides a guest kernel."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from testbed.core.errors import MachineError
from testbed.plan.model import Capture, Isolation, Where

CONTROLLERS = ("cpu", "memory", "pids")  # control groups (v2) that limit a host
# Debian's packages of scripts/packages that bring programs for runs, and the program by which each
# is recognised.
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
LONGEST_TRY_S = 300  # a first import of torch takes more than 60 s on a processor that is emulated
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


def require(where: Where, isolation: Isolation, capture: Capture) -> None:
    """Check what a run needs of this machine besides a guest kernel, as far as it takes no time.

    Raises:
        MachineError: something is missing.
    """
    wanted = [
        "mnexec",
        "ip",
        "nsenter",
        *["dockerd"] * (isolation == "container"),
        *["tcpdump"] * (capture != "none"),
    ]
    lacking = {
        PROGRAMS[name]: name for name in wanted if shutil.which(name, path=search_path()) is None
    }
    if lacking:
        packages = " ".join(lacking)
        raise MachineError(
            f"programs that this run needs are not installed: {', '.join(lacking.values())}\n"
            f"  apt-get install --no-install-recommends {packages}"
        )
    if where == "here":
        error = (
            "this needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
            if not administers()
            else try_cgroups()
        )
        if not error and (no_netem := try_netem()):
            error = f"this kernel makes no netem queue ({no_netem})"
        if error:
            raise MachineError(
                f"a run here is not possible: {error}\n  without --where here it uses a guest, which needs none of it"
            )


def search_path() -> str:
    """PATH with the folders of programs that a user may not have in theirs."""
    return os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    )


def administers() -> bool:
    """Whether this process may make network interfaces and mounts (proc(5): CapEff)."""
    if platform.system() != "Linux":
        return False
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    rights = int(status["CapEff"], 16)
    return all(rights >> capability & 1 for capability in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def tried(command: Sequence[str]) -> str:
    """Run `command`: empty if it ends well, else the last line of what it said."""
    try:
        done = subprocess.run(
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
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def try_netem() -> str:
    """Make a netem queue, in a network namespace of its own that ends with the try."""
    if not administers():
        return "needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    return tried(
        ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    )


def try_cgroups(root: Path = Path("/sys/fs/cgroup")) -> str:
    """Whether control groups (v2) with the controllers that limit a host are at `root`."""
    try:
        offered = (root / "cgroup.controllers").read_text().split()
    except OSError:
        return f"{root} is not that of control groups version 2"
    lacking = [name for name in CONTROLLERS if name not in offered]
    return f"{root} has no controllers {', '.join(lacking)}" if lacking else ""
