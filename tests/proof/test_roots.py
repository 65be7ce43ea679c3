"""scripts/provision on fresh systems: Debian 12 and 13, Ubuntu 22.04 and 24.04, each in a
separate root folder.

`make proof-roots`; 10 to 20 minutes, 2 GB of downloads and 5 GB of disk for each, removed
afterwards. Needs root, mmdebstrap, and the distributions' mirrors. Each root has separate
processes, mounts and files (and this machine's network), which end with the test. TESTBED_ROOTS
may name a folder with what mmdebstrap made before: bookworm.tar, ....
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.core.paths import cache_dir
from testbed.guest.kernel import Kernel
from tests.support.shared import PROJECT, Need

DEBIAN = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org")
UBUNTU = os.environ.get("UBUNTU_MIRROR", "http://archive.ubuntu.com/ubuntu")
STAGES = ("packages", "environment", "torch", "kernel", "provision", "run")
NOT_COPIED = (
    ".git",
    "dist",
    ".venv",
    ".vagrant",
    "results",
    ".*_cache",
    "*.egg-info",
    "__pycache__",
)

ENTER = """
set -eu
root=$1; shift
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
for path in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
    [ -f $path ] || continue
    mkdir -p "$root${path%/*}"
    touch "$root$path"
    mount --bind $path "$root$path"
done
# pip's configuration may name folders below /opt
if [ -d /opt ]; then mount --bind -o ro /opt "$root/opt"; fi
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class System:
    """A distribution's release: where it comes from, and what must be reached on it."""

    suite: str
    sources: tuple[str, ...]
    has_kernel_source: bool
    reaches: str  # at least


def _ubuntu(suite: str) -> System:
    # Debian 12 has no package of Ubuntu's keys; what is installed here is thrown away.
    sources = [
        f"deb [trusted=yes] {UBUNTU} {name} main universe" for name in (suite, f"{suite}-updates")
    ]
    return System(suite, tuple(sources), has_kernel_source=False, reaches="environment")


def _debian(suite: str, reaches: str) -> System:
    parts = [f"debian {suite}", f"debian {suite}-updates", f"debian-security {suite}-security"]
    return System(
        suite,
        tuple(f"deb {DEBIAN}/{part} main" for part in parts),
        has_kernel_source=True,
        reaches=reaches,
    )


SYSTEMS = {
    "debian-12": _debian("bookworm", "run"),
    "debian-13": _debian("trixie", "environment"),
    "ubuntu-22.04": _ubuntu("jammy"),
    "ubuntu-24.04": _ubuntu("noble"),
}


@dataclass(frozen=True)
class Root:
    """A fresh system in a folder, with the project at /project."""

    path: Path
    environment: dict[str, str]

    def run(self, command: str, timeout_s: float = 3600) -> subprocess.CompletedProcess[str]:
        """Run a command of the shell in it, in namespaces that end with it."""
        namespaces = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
        ]
        return subprocess.run(
            [
                *namespaces,
                "bash",
                "-c",
                ENTER,
                "enter",
                self.path,
                "bash",
                "-c",
                f"cd /project && {command}",
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@pytest.fixture(params=SYSTEMS)
def root(
    request: pytest.FixtureRequest, need: Need, tmp_path: Path, kernel: Kernel
) -> Iterator[tuple[System, Root]]:
    """A fresh system; for Debian with the guest kernels that this machine has built, for others
    with its kernel.
    """
    need(os.geteuid() == 0, "root's rights")
    need(shutil.which("mmdebstrap"), "mmdebstrap")
    system = SYSTEMS[request.param]
    path = tmp_path / "root"
    archive = Path(os.environ.get("TESTBED_ROOTS", "/nonexistent")) / f"{system.suite}.tar"
    if archive.is_file():
        path.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", path, "--numeric-owner"], check=True)
    else:
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
        ]
        command += ["--include=apt,ca-certificates", system.suite, str(path)]
        subprocess.run([*command, *system.sources], check=True)
    shutil.copytree(PROJECT, path / "project", ignore=shutil.ignore_patterns(*NOT_COPIED))
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    settings |= {
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
    }
    if system.has_kernel_source:
        shutil.copytree(cache_dir() / "kernel", path / "root/.cache/testbed/kernel")
    else:
        shutil.copy(kernel.path, path / "usr/local/bin/linux")
        settings["TESTBED_KERNEL"] = "/usr/local/bin/linux"
    for place in (".config/pip", ".pip"):
        if (Path.home() / place).is_dir():
            shutil.copytree(Path.home() / place, path / "root" / place)
    yield system, Root(path, settings)
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


PYTHON = "$HOME/.local/share/testbed/venv/bin/python"
CHECKS = {
    "packages": 'test -z "$(for entry in $(scripts/setup --packages --runtime-only); do'
    ' dpkg -s ${entry%%|*} >/dev/null 2>&1 || echo $entry; done)"',
    "environment": f"{PYTHON} -c 'import sys; print(sys.version)'",
    "torch": f"{PYTHON} -c 'import torch; print(torch.__version__)'",
    "kernel": "testbed guest build",
    "run": "testbed run two-sites collectives --isolation process --out /root/run"
    " --set workload.sizes='[4 KiB, 1 MiB]' && test -s /root/run/report.html",
}


@pytest.mark.proof
def test_a_fresh_system_gets_the_testbed(
    root: tuple[System, Root], request: pytest.FixtureRequest
) -> None:
    system, fresh = root
    if not system.has_kernel_source:
        without = fresh.run("env -u TESTBED_KERNEL scripts/provision")
        assert without.returncode == 3, without.stdout
        assert "TESTBED_KERNEL_SOURCE" in without.stdout
        assert "apt offers no linux-source-6.12\n" in without.stdout  # and all else
    provision = fresh.run("scripts/provision")
    status = provision.returncode
    print(f"\n{request.node.name}: scripts/provision: exit status {status}\n{provision.stdout}")
    reached = ""
    for stage in STAGES:
        if stage == "provision":
            ok = provision.returncode == 0
        else:
            done = fresh.run(CHECKS[stage])
            ok = done.returncode == 0
            print(
                f"{stage}: {'reached' if ok else 'not reached'}: {shlex.quote(done.stdout[-2000:])}"
            )
        if not ok:
            break
        reached = stage
    print(f"{request.node.name} reached: {reached}")
    assert reached and STAGES.index(reached) >= STAGES.index(system.reaches), provision.stdout
    if reached == "run":
        again = fresh.run("scripts/provision")
        assert again.returncode == 0
        assert "installing" not in again.stdout
