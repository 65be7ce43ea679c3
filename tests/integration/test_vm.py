"""testbed vm against a stand-in for Vagrant, the Vagrantfile in the real Vagrant, and the list of
Debian packages.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.vm import remote_command, without_out
from tests.support.shared import PROJECT, Need

SIZES = "workload.sizes=[4 KiB, 1 MiB]"
AWKWARD = [
    "--set",
    SIZES,
    "it's",
    '"',
    "$HOME `id` \\",
    "a;b&c|d>e",
    "*",
    "~",
    "",
    "ä\nb",
    "--set=x=y",
]

# Vagrant, as far as `testbed vm` uses it: says what it was asked, and runs the VM's commands on
# this machine.
VAGRANT = """#!/bin/bash
"$PYTHON" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" >>"$FAKE/asked"
case $1 in
    status)
        echo "1,default,provider-name,libvirt"
        echo "1,default,state,$(cat "$FAKE/state")"
        exit ;;
    up) echo "Bringing machine up"; echo running >"$FAKE/state"; exit "${FAKE_UP:-0}" ;;
    destroy) echo not_created >"$FAKE/state"; exit ;;
    rsync) echo "Rsyncing folder"; exit ;;
    ssh)
        shift
        [ "$1" != --no-tty ] || shift
        [ "$1" = -c ] || exit 0
        PATH=$FAKE/vm:$PATH exec bash -c "$2" ;;
esac
exit 99
"""
# The testbed in the VM: says what it was asked, and makes the run folder.
TESTBED = """#!/usr/bin/env python3
import json, os, pathlib, sys
words = sys.argv[1:]
print(json.dumps(words))
status = int(os.environ.get("FAKE_RUN", "0"))
if "--out" in words and status != 2:
    folder = pathlib.Path(os.environ["FAKE"], "project", words[words.index("--out") + 1])
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("report")
sys.exit(status)
"""


@dataclass
class Vm:
    """A project's folder, with links to the real files, whose VM is the stand-in's."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def testbed(self, *words: object, **settings: object) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "FAKE": str(self.folder),
            "PATH": path,
            "PYTHONPATH": str(self.project),
        }
        environment |= {name: str(value) for name, value in settings.items()}
        return subprocess.run(
            [sys.executable, "-m", "testbed", "vm", *map(str, words)],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def asked(self) -> list[list[str]]:
        """What Vagrant was asked since the last call, but for its status."""
        file = self.folder / "asked"
        lines = (
            [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        )
        file.unlink(missing_ok=True)
        return [line for line in lines if line[0] != "status"]


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    for name in ("bin", "vm", "project"):
        (tmp_path / name).mkdir()
    for program, text in {"bin/vagrant": VAGRANT, "vm/testbed": TESTBED}.items():
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    for name in ("testbed", "topologies", "workloads"):
        (tmp_path / "project" / name).symlink_to(PROJECT / name)
    shutil.copy(PROJECT / "Vagrantfile", tmp_path / "project")
    (tmp_path / "state").write_text("not_created\n")
    return Vm(tmp_path)


def test_run_starts_the_vm(vm: Vm) -> None:
    done = vm.testbed("run", "two-sites", "collectives", *AWKWARD)
    assert done.returncode == 0, done.stderr
    up, ssh = vm.asked()
    assert up == ["up"]
    assert ssh[:3] == ["ssh", "--no-tty", "-c"]
    words = json.loads(done.stdout)
    assert words[:-1] == ["run", "two-sites", "collectives", *AWKWARD, "--out"]
    assert words[-1].startswith("results/20")
    assert words[-1].endswith("-two-sites-collectives")
    assert (vm.project / words[-1] / "report.html").is_file()
    assert done.stderr.endswith(f"copied to this machine: project/{words[-1]}\n")


def test_run_updates_a_running_vm(vm: Vm) -> None:
    assert vm.testbed("up").returncode == 0
    done = vm.testbed("run", "two-sites")
    assert done.returncode == 0
    assert json.loads(done.stdout)[:2] == ["run", "two-sites"]  # and nothing of Vagrant's
    assert [words[0] for words in vm.asked()] == ["up", "rsync", "ssh"]


def test_out_is_on_this_machine(vm: Vm) -> None:
    out = vm.folder / "mine"
    done = vm.testbed("run", "two-sites", "--out", out, "--", "train.py", "--out", "of the script")
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").is_file()
    words = json.loads(done.stdout)
    assert words[:2] + words[4:] == ["run", "two-sites", "--", "train.py", "--out", "of the script"]
    assert words[2] == "--out"
    assert words[3].startswith("results/")
    again = vm.testbed("run", "two-sites", "--out", out)
    assert again.returncode == 2
    assert "already exists" in again.stderr


@pytest.mark.parametrize("status", [2, 130])
def test_status_of_the_run(vm: Vm, status: int) -> None:
    done = vm.testbed("run", "two-sites", FAKE_RUN=status)
    assert done.returncode == status
    assert "did not come back" not in done.stderr
    # Wrong input leaves no run folder.
    assert ("copied to this machine: " in done.stderr) == (status != 2)


def test_vm_that_does_not_start(vm: Vm) -> None:
    assert vm.testbed("run", "two-sites", FAKE_UP=7).returncode == 7
    assert vm.asked() == [["up"]]


def test_results_that_do_not_come_back(vm: Vm) -> None:
    (vm.folder / "vm/testbed").write_text("#!/bin/sh\nexit 0\n")
    done = vm.testbed("run", "two-sites")
    assert done.returncode == 1
    assert "from the VM; they are in /vagrant/results/" in done.stderr


def test_dry_run(vm: Vm) -> None:
    real = f"#!/bin/sh\ncd '{vm.project}' && exec '{sys.executable}' -m testbed \"$@\"\n"
    (vm.folder / "vm/testbed").write_text(real)
    done = vm.testbed(
        "run", "two-sites", "--set", SIZES, "--set", "workload.ops=[broadcast]", "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["workers"]["settings"]["sizes"] == [4096, 2**20]
    assert not (vm.project / "results").exists()


def test_other_commands(vm: Vm) -> None:
    assert vm.testbed("up", "--provider", "qemu", FAKE_UP=5).returncode == 5
    assert vm.testbed("ssh").returncode == 0
    assert vm.testbed("destroy").returncode == 0
    assert vm.asked() == [["up", "--provider=qemu"], ["ssh"], ["destroy", "--force"]]


def test_no_vagrant(vm: Vm) -> None:
    (vm.folder / "bin/vagrant").unlink()
    done = vm.testbed("run", "two-sites", PATH=vm.folder / "bin")
    assert done.returncode == 3
    assert "apt-get install vagrant" in done.stderr
    assert "brew install --cask vagrant" in done.stderr


def test_no_vagrantfile(vm: Vm) -> None:
    (vm.project / "Vagrantfile").unlink()
    done = vm.testbed("up")
    assert done.returncode == 3
    assert "from a clone" in done.stderr


def test_out_needs_a_folder(vm: Vm) -> None:
    assert vm.testbed("run", "two-sites", "--out").returncode == 2
    assert without_out(["a", "--out=b", "--", "--out", "c"]) == (
        ["a", "--", "--out", "c"],
        Path("b"),
    )
    assert remote_command(["a", "--dry-run"], "name") == "testbed run a --dry-run"


MACOS = """
import ctypes, fcntl, importlib.abc, os, select, signal, socket, sys, sysconfig
sysconfig.get_config_vars()  # read from a file that is named after the platform
for module, names in {
    os: "sched_setaffinity sched_getaffinity unshare setns pidfd_open memfd_create eventfd splice"
        " copy_file_range posix_fadvise posix_fallocate O_TMPFILE O_PATH CLONE_NEWNS sendfile "
        "getrandom",
    signal: "pidfd_send_signal SIGRTMIN SIGRTMAX SIGPOLL SIGPWR sigtimedwait sigwaitinfo",
    socket: "AF_NETLINK AF_PACKET AF_VSOCK SO_MARK SOCK_CLOEXEC SOCK_NONBLOCK",
    select: "epoll EPOLLIN EPOLLOUT",
    fcntl: "F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

class LinuxOnly(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"pyroute2", "mininet", "docker", "scapy", "torch"}:
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, LinuxOnly())
sys.platform = "darwin"

class MacosLibrary:
    def __getattr__(self, name):
        if name in {"prctl", "setns", "unshare", "clone", "umount2", "capset"}:
            raise AttributeError(f"{name} is looked up in the C library")
        return MacosLibrary()

ctypes.CDLL = lambda *arguments, **options: MacosLibrary()
from testbed.cli.main import main
sys.argv = ["testbed", "vm", *sys.argv[1:]]
main()
"""


def test_macos(vm: Vm) -> None:
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "FAKE": str(vm.folder),
        "PATH": f"{vm.folder / 'bin'}:{os.environ['PATH']}",
    }
    environment |= {"PYTHONPATH": str(vm.project), "TESTBED_CACHE": str(vm.folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", MACOS, "run", "two-sites"],
        env=environment,
        cwd=vm.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "copied to this machine: " in done.stderr


@pytest.fixture
def vagrant_environment(need: Need, tmp_path: Path) -> dict[str, str]:
    need(shutil.which("vagrant") and shutil.which("ruby"), "vagrant")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TESTBED_VM", "VAGRANT"))
    }
    return {
        **kept,
        "VAGRANT_HOME": str(tmp_path / "vagrant"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "state"),
    }


def test_vagrant_finds_no_fault(vagrant_environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["vagrant", "validate"],
        cwd=PROJECT,
        env=vagrant_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "validated successfully" in done.stdout


def _asked_of_providers(environment: dict[str, str], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["ruby", PROJECT / "tests/integration/vagrantfile.rb", PROJECT, folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_provider_gets_box_size_and_folder(
    vagrant_environment: dict[str, str], tmp_path: Path
) -> None:
    asked = _asked_of_providers(
        {
            **vagrant_environment,
            "TESTBED_VM_CPUS": "3",
            "TESTBED_VM_MEMORY": "5000",
            "TESTBED_VM_DISK": "30",
        },
        tmp_path,
    )
    assert {name: about["box"] for name, about in asked.items() if name != "libvirt"} == {
        "qemu": "cloud-image/debian-12",
        "virtualbox": "bento/debian-12",
        "parallels": "bento/debian-12",
    }
    for name in ("libvirt", "qemu"):
        assert asked[name]["sync"] == "rsync"
        assert {"results", ".venv"} <= set(asked[name]["left_alone"])
    for name in ("virtualbox", "parallels"):
        assert asked[name]["sync"] is None  # the provider's own
    assert (asked["parallels"]["cpus"], asked["parallels"]["memory"]) == (3, 5000)
    assert (asked["qemu"]["smp"], asked["qemu"]["memory"], asked["qemu"]["disk_resize"]) == (
        "3",
        "5000M",
        "30G",
    )
    customizations: list[list[str]] = []
    for words in asked["virtualbox"]["customizations"]:
        customizations.append([str(word) for word in words if word != "id"])
    assert customizations == [
        ["modifyvm", "--cpus", "3"],
        ["modifyvm", "--memory", "5000"],
    ]
    if asked["libvirt"]["cpus"] is not None:  # its plugin is installed
        assert (asked["libvirt"]["cpus"], asked["libvirt"]["memory"]) == (3, 5000)
        # A cloud's machine may have /dev/kvm that runs no other kernel than its own.
        flags = set(Path("/proc/cpuinfo").read_text().split())
        fast = Path("/dev/kvm").exists() and (
            platform.machine() == "aarch64" or {"vmx", "svm"} & flags
        )
        assert asked["libvirt"]["driver"] == ("kvm" if fast else "qemu")


def test_another_box(vagrant_environment: dict[str, str], tmp_path: Path) -> None:
    asked = _asked_of_providers({**vagrant_environment, "TESTBED_VM_BOX": "mine/debian"}, tmp_path)
    assert {about["box"] for about in asked.values()} == {"mine/debian"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("TESTBED_VM_CPUS", "many"), ("TESTBED_VM_CPUS", "0"), ("TESTBED_VM_MEMORY", "2 GiB")],
)
def test_a_size_that_is_none_is_told(
    vagrant_environment: dict[str, str], name: str, value: str
) -> None:
    done = subprocess.run(
        ["vagrant", "validate"],
        cwd=PROJECT,
        env={**vagrant_environment, name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f'{name} is "{value}"; a whole number of at least' in done.stderr
    assert "Vagrantfile:" not in done.stderr  # no traceback


RELEASES = ["debian 12", "debian 13", "ubuntu 22.04", "ubuntu 24.04"]


def _packages(tmp_path: Path, release: str, *options: str, **settings: str) -> list[str]:
    name, version = release.split()
    (tmp_path / "os-release").write_text(f'NAME="x"\nID={name}\nVERSION_ID="{version}"\n')
    kept = {
        n: v for n, v in os.environ.items() if n not in ("TESTBED_KERNEL", "TESTBED_KERNEL_SOURCE")
    }
    done = subprocess.run(
        [PROJECT / "scripts/setup", "--packages", *options],
        env={**kept, "OS_RELEASE": str(tmp_path / "os-release"), **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize("release", RELEASES)
def test_packages_by_release(tmp_path: Path, release: str) -> None:
    common = set.intersection(*(set(_packages(tmp_path, other)) for other in RELEASES))
    own = set(_packages(tmp_path, release)) - common
    assert {
        "docker.io|docker-ce",
        "mininet",
        "iproute2",
        "python3-venv",
        "gcc",
        "linux-source-6.12",
        "iperf3",
    } <= common
    assert (
        own
        == {
            "debian 12": {"chromium", "vagrant", "vagrant-libvirt"},
            "debian 13": {"chromium", "vagrant", "vagrant-libvirt"},
            "ubuntu 22.04": {"python3.11-venv"},  # its python3 is 3.10
            "ubuntu 24.04": set(),
        }[release]
    )


def test_no_guest_kernel_but_on_x86_64(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
    done = subprocess.run(
        ["linux32", PROJECT / "scripts/setup", "--packages"],  # uname -m says i686
        env={**os.environ, "OS_RELEASE": str(tmp_path / "os-release")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(_packages(tmp_path, "debian 12", "--no-kernel")) == set(done.stdout.split())


def test_packages_by_what_is_wanted(tmp_path: Path) -> None:
    everything = set(_packages(tmp_path, "debian 12"))
    runtime = set(_packages(tmp_path, "debian 12", "--runtime-only", "--no-kernel"))
    assert everything - runtime >= {"gcc", "linux-source-6.12", "chromium", "vagrant"}
    assert "mininet" in runtime
    given = set(_packages(tmp_path, "debian 12", TESTBED_KERNEL_SOURCE="linux.tar.xz"))
    assert everything - given == {"linux-source-6.12"}
    assert (
        set(_packages(tmp_path, "debian 12", "--runtime-only", TESTBED_KERNEL="linux")) == runtime
    )
