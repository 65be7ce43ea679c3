"""Set-ups on fresh systems, each in a separate root folder.

- scripts/provision on Debian 12 and 13, Ubuntu 22.04 and 24.04
- scripts/setup on a system without dpkg
- the wheels of the project and of the guest kernel: Python alone, no Debian package, no root

`make proof-roots` runs all of them. A release takes 10 to 20 minutes, 2 GB of downloads and 5 GB of
disk, which are freed afterwards; the last two together take a few minutes. The tests need root,
mmdebstrap, and the distributions' mirrors. Each root has separate processes, mounts and files (and
this machine's network), which end with the test. TESTBED_ROOTS may name a folder with what
mmdebstrap made before: bookworm.tar, ....
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from testbed.core.paths import cache_dir
from testbed.guest.kernel import Kernel
from tests.support.shared import PROJECT, Need
from tests.support.wheels import build_wheel

DEBIAN = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
UBUNTU = os.environ.get("UBUNTU_MIRROR", "http://archive.ubuntu.com/ubuntu")
PIP_DOWNLOAD = (sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:")
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
mount --bind "$root" "$root"
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
# a user cannot make user namespaces below chroot
cd "$root"
mkdir -p .outside
pivot_root . .outside
exec bash -c 'umount -l /.outside; exec "$@"' root "$@"
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


def _fresh_root(system: System, path: Path, need: Need) -> Root:
    """Make a fresh system in a new folder, with a copy of the project."""
    need(os.geteuid() == 0, "root's rights")
    need(shutil.which("mmdebstrap"), "mmdebstrap")
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
    for place in (".config/pip", ".pip"):
        if (Path.home() / place).is_dir():
            shutil.copytree(Path.home() / place, path / "root" / place)
    return Root(path, settings)


def _remove(root: Root) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", root.path], check=True)


@pytest.fixture(params=SYSTEMS)
def root(
    request: pytest.FixtureRequest, need: Need, tmp_path: Path, kernel: Kernel
) -> Iterator[tuple[System, Root]]:
    """A fresh system; for Debian with the guest kernels that this machine has built, for others
    with its kernel.
    """
    system = SYSTEMS[request.param]
    fresh = _fresh_root(system, tmp_path / "root", need)
    if system.has_kernel_source:
        shutil.copytree(cache_dir() / "kernel", fresh.path / "root/.cache/testbed/kernel")
    else:
        shutil.copy(kernel.path, fresh.path / "usr/local/bin/linux")
        fresh.environment["TESTBED_KERNEL"] = "/usr/local/bin/linux"
    yield system, fresh
    _remove(fresh)


def _download_torch(folder: Path) -> None:
    """Download the build of torch that is installed here: from pip's local folders, or PyTorch."""
    download = [*PIP_DOWNLOAD, "--dest", str(folder), "--no-deps"]
    wanted = f"torch=={version('torch')}"
    if subprocess.run([*download, "--no-index", wanted], check=False).returncode != 0:
        subprocess.run([*download, "--index-url", TORCH_CPU_INDEX, wanted], check=True)


@pytest.fixture(scope="module")
def wheels(kernel: Kernel, need: Need, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of the project, of the guest kernel, and of what they depend on."""
    del kernel
    need(sys.version_info[:2] == (3, 11), "Python 3.11, which Debian 12 has")
    folder = tmp_path_factory.mktemp("wheels")
    project = build_wheel(folder)
    script = PROJECT / "scripts/kernel_wheel.py"
    subprocess.run([sys.executable, script, "--out", folder], check=True)
    _download_torch(folder)
    constraint = folder / "torch.txt"
    constraint.write_text(f"torch=={version('torch')}\n")
    download = [*PIP_DOWNLOAD, "--dest", str(folder), "--find-links", str(folder)]
    for file in (PROJECT / "requirements.lock", constraint):
        download += ["--constraint", str(file)]
    subprocess.run([*download, f"{project}[run]"], check=True)
    return folder


@pytest.fixture(scope="module")
def without_dpkg(
    need: Need, tmp_path_factory: pytest.TempPathFactory, wheels: Path
) -> Iterator[Root]:
    """Debian 12 with Python, less dpkg and apt; the wheels are in /wheels."""
    bare = _fresh_root(SYSTEMS["debian-12"], tmp_path_factory.mktemp("bare") / "root", need)
    done = bare.run(LEAVE_PYTHON)
    assert done.returncode == 0, done.stdout
    shutil.copytree(wheels, bare.path / "wheels")
    (bare.path / "wheels").chmod(0o755)  # folders of pytest are closed to other users
    yield bare
    _remove(bare)


LEAVE_PYTHON = """
export DEBIAN_FRONTEND=noninteractive
apt-get update && apt-get install --yes --no-install-recommends python3-venv || exit
rm -rf /usr/bin/dpkg* /usr/bin/apt* /usr/lib/apt /usr/lib/dpkg /var/lib/dpkg /var/lib/apt /etc/apt
useradd --create-home user
"""
COLLECTIVES = "run two-sites collectives --isolation process --set workload.sizes='[4 KiB, 1 MiB]'"
PYTHON = "$HOME/.local/share/testbed/venv/bin/python"
CHECKS = {
    "packages": 'test -z "$(for entry in $(scripts/setup --packages --runtime-only); do'
    ' dpkg -s ${entry%%|*} >/dev/null 2>&1 || echo $entry; done)"',
    "environment": f"{PYTHON} -c 'import sys; print(sys.version)'",
    "torch": f"{PYTHON} -c 'import torch; print(torch.__version__)'",
    "kernel": "testbed guest build",
    "run": f"testbed {COLLECTIVES} --out /root/run && test -s /root/run/report.html",
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


@pytest.mark.proof
def test_a_system_without_dpkg(without_dpkg: Root) -> None:
    refused = without_dpkg.run("scripts/setup --runtime-only")
    assert refused.returncode == 3, refused.stdout
    assert "set TESTBED_KERNEL_WHEEL to a wheel" in refused.stdout

    setup = "TESTBED_KERNEL_WHEEL=$(echo /wheels/*_kernel-*.whl) scripts/setup --runtime-only"
    done = without_dpkg.run(setup)
    assert done.returncode == 0, done.stdout
    assert "no dpkg: no Debian packages are installed" in done.stdout
    run = without_dpkg.run(f".venv/bin/testbed {COLLECTIVES} --out /root/run")
    print(f"\n{done.stdout}\n{run.stdout}")
    assert run.returncode == 0, run.stdout
    assert (without_dpkg.path / "root/run/report.html").is_file()
    again = without_dpkg.run(setup)
    assert again.returncode == 0, again.stdout
    assert "installing" not in again.stdout


@pytest.mark.proof
def test_the_two_wheels_alone(without_dpkg: Root) -> None:
    """An ordinary user installs them without an index, and runs from an empty folder."""
    commands = f"""
        set -e
        cd; python3 -m venv venv
        venv/bin/pip install --isolated --quiet --no-index --find-links /wheels \
            'wan-training-testbed[run]' wan-training-testbed-kernel
        mkdir empty; cd empty
        ../venv/bin/testbed {COLLECTIVES} --out ../run
        test -z "$(ls -A)"
    """
    as_user = "setpriv --reuid=user --regid=user --init-groups env HOME=/home/user bash -c"
    done = without_dpkg.run(f"{as_user} {shlex.quote(commands)}")
    print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout
    assert "all_reduce" in done.stdout
    assert (without_dpkg.path / "home/user/run/report.html").is_file()
