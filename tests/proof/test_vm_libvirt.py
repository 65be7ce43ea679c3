"""The session of docs/vm.md in a virtual machine: the real Vagrant, libvirt, QEMU, and a box that
is built here.

`make proof-vm`; where QEMU has to emulate the processor, 40 minutes. Needs root, mmdebstrap, QEMU,
libvirt, Vagrant with vagrant-libvirt, and 10 GB of disk. libvirt has separate processes, a separate
network and separate folders, which end with the test, and no network but that with the VM:
Debian's and Python's packages are in the box. TESTBED_VM_BOX_FILE names the box's file, which is
made if it is not there, and kept.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.guest.kernel import Kernel
from tests.support.shared import PROJECT, Need

NEEDED = [
    "mmdebstrap",
    "mkfs.ext4",
    "qemu-img",
    "qemu-system-x86_64",
    "libvirtd",
    "virtlogd",
    "dnsmasq",
]
NEEDED += ["vagrant", "rsync", "ssh"]
NOT_COPIED = (".git", ".venv", ".vagrant", "results", ".*_cache", "*.egg-info", "__pycache__")
BOX = "testbed/debian-12"
POOL = "default"  # of libvirt's volumes

# What libvirt writes goes to folders above the machine's; it sees no control groups, so it makes
# none.
SESSION = """
set -eu
own() {
    mkdir -p "$1$2" "$1-work$2" || return
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$1$2,workdir=$1-work$2" "$2"
}
ip link set lo up
umount --recursive --lazy /sys && mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
for folder in /etc/libvirt /var/lib/libvirt /var/log /var/cache; do own "$1" $folder; done
virtlogd --daemon
libvirtd --daemon
sleep infinity & wait  # a shell as first process reaps what daemons leave
"""


@dataclass(frozen=True)
class Session:
    """Namespaces in which libvirt runs, with a copy of the project and a separate Vagrant."""

    inside: int  # process of the namespaces
    project: Path
    environment: dict[str, str]

    def run(
        self, *words: object, timeout_s: float = 600, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder, and say how long it took."""
        enter = [
            "nsenter",
            f"--target={self.inside}",
            "--mount",
            "--net",
            "--pid",
            f"--wdns={self.project}",
            "--",
        ]
        begin = time.monotonic()
        done = subprocess.run(
            [*enter, *map(str, words)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        print(f"{time.monotonic() - begin:7.1f} s: {' '.join(map(str, words))[:160]}", flush=True)
        assert not check or done.returncode == 0, (
            f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def testbed(self, *words: object, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a command of the testbed on the host's side."""
        return self.run(sys.executable, "-m", "testbed", *words, timeout_s=timeout_s)

    def names(self, *words: object) -> set[str]:
        """What libvirt lists."""
        return set(self.run("virsh", "--quiet", *words).stdout.split())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For disks of some GB, which pytest would keep."""
    yield tmp_path
    subprocess.run(["rm", "-rf", "--one-file-system", tmp_path], check=True)


@pytest.fixture
def box(need: Need, folder: Path, kernel: Kernel) -> Path:
    """Debian 12 with the packages of scripts/packages, a guest kernel, and wheels of the Python
    packages.
    """
    need(os.geteuid() == 0, "root's rights")
    for program in NEEDED:
        need(shutil.which(program), program)
    home = {**os.environ, "VAGRANT_HOME": str(folder / "vagrant")}
    plugins = subprocess.run(
        ["vagrant", "plugin", "list"], env=home, capture_output=True, text=True, check=True
    )
    need("vagrant-libvirt" in plugins.stdout, "vagrant-libvirt")
    need(sys.version_info[:2] == (3, 11), "Python 3.11, which is Debian 12's")
    file = Path(os.environ.get("TESTBED_VM_BOX_FILE") or folder / "debian-12.box")
    if file.exists():
        return file
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /opt/wheels\n")
    hooks = [
        # as scripts/setup does
        'chroot "$1" systemctl disable docker.service docker.socket containerd.service',
        f"upload {kernel.path} /usr/local/bin/linux",
        'chmod 755 "$1/usr/local/bin/linux"; '
        'echo TESTBED_KERNEL=/usr/local/bin/linux >>"$1/etc/environment"',
        f"copy-in {_wheels(folder)} /opt",
        f"upload {folder / 'pip.conf'} /etc/pip.conf",
    ]
    begin = time.monotonic()
    options = [
        f"--include={_debian_packages(folder)}",
        *(f"--customize-hook={hook}" for hook in hooks),
    ]
    subprocess.run([str(PROJECT / "scripts/make_box"), str(file), *options], check=True)
    print(f"\n{time.monotonic() - begin:7.1f} s: scripts/make_box, {file.stat().st_size >> 20} MiB")
    return file


def _wheels(folder: Path) -> Path:
    """A folder of wheels: what scripts/setup installs, from wherever pip gets packages on this
    machine.
    """
    (version,) = re.findall(r"^TORCH=(.*)$", (PROJECT / "scripts/setup").read_text(), re.MULTILINE)
    (folder / "constraints").write_text(f"torch=={version}\n")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", f"--wheel-dir={folder / 'wheels'}"]
    pip += [
        f"--constraint={folder / 'constraints'}",
        str(_copy(folder / "source")),
        "setuptools>=77",
        "wheel",
    ]
    subprocess.run(pip, check=True)
    return folder / "wheels"


def _debian_packages(folder: Path) -> str:
    """What scripts/setup installs in a VM with a guest kernel, separated by commas."""
    (folder / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
    done = subprocess.run(
        [PROJECT / "scripts/setup", "--packages", "--runtime-only"],
        env={**os.environ, "OS_RELEASE": str(folder / "os-release"), "TESTBED_KERNEL": "given"},
        capture_output=True,
        text=True,
        check=True,
    )
    return ",".join(entry.partition("|")[0] for entry in done.stdout.split())


def _copy(target: Path) -> Path:
    shutil.copytree(PROJECT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return target


@contextmanager
def _session(folder: Path) -> Iterator[Session]:
    namespaces = [
        "--net",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    start = ["nice", "-n", "10", "setpriv", "--pdeathsig", "KILL", "unshare", *namespaces]
    start += ["bash", "-c", SESSION, "session", str(folder / "own")]
    project = _copy(folder / "project")
    (project / "results").mkdir()
    settings = {
        "VAGRANT_HOME": folder / "vagrant",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "PYTHONPATH": project,
        "LIBVIRT_DEFAULT_URI": "qemu:///system",
        "TESTBED_VM_BOX": BOX,
        "TESTBED_VM_DISK": 20,
        "VAGRANT_NO_COLOR": 1,
    }
    with subprocess.Popen(start) as process:
        try:
            inside = _child(process)
            session = Session(
                inside,
                project,
                {**os.environ, **{name: str(value) for name, value in settings.items()}},
            )
            deadline = time.monotonic() + 60
            while session.run("virsh", "version", check=False).returncode:
                assert process.poll() is None
                assert time.monotonic() < deadline, "libvirtd does not answer"
                time.sleep(1)
            yield session
        finally:
            process.kill()  # and all in its namespaces with it


def _child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.05)
    raise AssertionError(f"the namespaces could not be made: exit status {process.returncode}")


def _traces() -> dict[str, list[str]]:
    """What libvirt could leave on the machine."""
    places = ["etc/libvirt/**/*", "var/lib/libvirt/*/*", "var/log/libvirt/*", "run/libvirt/*"]
    places += ["sys/fs/cgroup/machine*", "sys/class/net/virbr*", "sys/class/net/vnet*"]
    traces: dict[str, list[str]] = {}
    for place in places:
        traces[place] = sorted(str(path) for path in Path("/").glob(place))
    return traces


@pytest.mark.proof
def test_a_run_in_a_virtual_machine(box: Path, folder: Path) -> None:
    before = _traces()
    with _session(folder) as vm:
        vm.run("vagrant", "box", "add", "--name", BOX, box)
        up = vm.testbed("vm", "up", timeout_s=5400)
        print("\n".join(line for line in up.stdout.splitlines() if "Progress" not in line))
        (domain,) = vm.names("list", "--name")
        print(vm.run("virsh", "dumpxml", domain, "--xpath", "/domain/@type").stdout)

        kernel = vm.run(
            "vagrant", "ssh", "-c", "uname -r && sudo sh -c '! test -e /sys/module/sch_netem'"
        ).stdout.split()[0]
        doctor = vm.run("vagrant", "ssh", "-c", "testbed doctor", timeout_s=1200)
        print(doctor.stdout)
        assert "`testbed run` will work on this machine" in doctor.stdout

        words = ["--set", "workload.sizes=[4 KiB, 1 MiB]", "--set", "workload.ops=[all_reduce]"]
        words += ["--set", "workload.iterations=2", "-f", "json"]
        run = vm.testbed(
            "vm", "run", "two-sites", "collectives", "--where", "here", *words, timeout_s=3600
        )
        summary = json.loads(run.stdout)  # nothing but what the run printed
        assert summary["status"]["state"] == "completed"
        assert [row["bytes"] for row in summary["summary"]["collectives"]] == [4096, 2**20]
        assert all(row["wrong"] == 0 for row in summary["summary"]["collectives"])
        (results,) = [path for path in (vm.project / "results").iterdir() if path.is_dir()]
        assert (results / "report.html").stat().st_size > 10_000
        assert f"copied to this machine: results/{results.name}" in run.stderr
        plan = json.loads((results / "plan.json").read_text())
        assert plan["versions"]["kernel"] == f"Linux {kernel}"
        print(json.dumps(summary["summary"]["collectives"]), json.dumps(summary["status"]))
        vm.run(
            "vagrant", "ssh", "-c", "test -e /sys/module/sch_netem && test -e /sys/module/overlay"
        )

        vm.testbed("vm", "destroy", timeout_s=300)
        assert vm.names("list", "--all", "--name") == set()
        assert vm.names("net-list", "--all", "--name") <= {"default"}  # which libvirt brings
        assert vm.run("pgrep", "--list-name", "qemu-system", check=False).stdout == ""
        # What Vagrant keeps of a box, for the next VM.
        vm.run("vagrant", "box", "remove", BOX)
        (volume,) = {name for name in vm.names("vol-list", POOL) if "/" not in name}
        assert volume.startswith(BOX.replace("/", "-VAGRANTSLASH-"))
    assert _traces() == before
