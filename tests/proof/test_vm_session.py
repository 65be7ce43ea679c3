"""The documented session by the real Vagrant, over real SSH and rsync; in place of the VM, an SSH
server here.

`make proof-vm`; a minute or two. Needs root, vagrant, rsync and openssh-server. The server has a
separate network, separate processes and mounts, with an empty /vagrant, and ends with the test.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.guest.kernel import Kernel
from tests.support.shared import PROJECT, Need

SSHD = "/usr/sbin/sshd"
NOT_COPIED = (".git", ".venv", ".vagrant", "results", ".*_cache", "*.egg-info", "__pycache__")

# The VM's sudo and testbed, of which the machine may have none: only this session sees them.
SESSION = """
set -eu
ip link set lo up
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd
mount -t tmpfs tmpfs /vagrant
mount -t tmpfs tmpfs /usr/local/bin
sudo='while [ "${1#-}" != "$1" ]; do shift; done\\nexec "$@"'
printf "#!/bin/sh\\n$sudo\\n" >/usr/local/bin/sudo
testbed='cd /vagrant && exec env %s -m testbed "$@"'
printf "#!/bin/sh\\n$testbed\\n" "$VM_PYTHON" >/usr/local/bin/testbed
chmod +x /usr/local/bin/*
options="-o StrictModes=no -o UsePAM=no"
options="$options -o AuthorizedKeysFile=$SSH_KEY.pub"
/usr/sbin/sshd -f /dev/null -p "$SSH_PORT" -h "$SSH_KEY" $options
vagrant up --no-provision
exec "$@"
"""


@pytest.fixture
def session(
    need: Need, tmp_path: Path, kernel: Kernel
) -> Iterator[tuple[list[str], dict[str, str], Path]]:
    """What a command of a session starts with, its environment, and the project's folder on the
    host's side.
    """
    need(os.geteuid() == 0, "root's rights")
    for program in ("vagrant", "rsync", SSHD):
        need(shutil.which(program), program)
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns(*NOT_COPIED))
    (project / "results").mkdir()
    (tmp_path / "home").mkdir()
    shutil.copy(
        PROJECT / "tests/proof/stand_in_provider.rb", tmp_path / "home/Vagrantfile"
    )  # read before the project's
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    settings = {
        "SSH_KEY": key,
        "SSH_PORT": 2299,
        "VAGRANT_HOME": tmp_path / "home",
        "VAGRANT_DEFAULT_PROVIDER": "qemu",
        "VM_PYTHON": f"PYTHONPATH=/vagrant TESTBED_KERNEL={kernel.path} {sys.executable}",
        "PYTHONPATH": project,
    }
    made = not Path("/vagrant").exists()
    Path("/vagrant").mkdir(exist_ok=True)
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
    start = ["unshare", *namespaces, "bash", "-c", SESSION, "session"]
    yield start, {**os.environ, **{name: str(value) for name, value in settings.items()}}, project
    if made:
        Path("/vagrant").rmdir()


@pytest.mark.proof
def test_a_run_in_the_vm_and_its_results_on_the_host(
    session: tuple[list[str], dict[str, str], Path],
) -> None:
    start, environment, project = session
    words = ["two-sites", "collectives", "--isolation", "process", "-f", "json"]
    words += [
        "--set",
        "workload.sizes=[4 KiB, 1 MiB]",
        "--set",
        "workload.ops=[all_reduce]",
        "--set",
        "workload.iterations=1",
    ]
    output = project.parent / "output"
    command = [
        "bash",
        "-c",
        'exec "$@" >"$0"',
        str(output),
        sys.executable,
        "-m",
        "testbed",
        "vm",
        "run",
        *words,
    ]
    done = subprocess.run(
        [*start, *command],
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(output.read_text())  # nothing but what the run printed
    assert summary["status"]["state"] == "completed"
    assert [row["bytes"] for row in summary["summary"]["collectives"]] == [4096, 2**20]
    (folder,) = [path for path in (project / "results").iterdir() if path.is_dir()]
    assert folder.name.endswith("-two-sites-collectives")
    assert (folder / "report.html").stat().st_size > 10_000
    assert f"copied to this machine: results/{folder.name}" in done.stderr
    assert not (project / ".venv").exists()
