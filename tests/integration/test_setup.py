"""scripts/setup on made-up machines, whose programs, packages and Python are stand-ins.

The virtual environment's interpreter is a stand-in that records what it is asked; nothing is
downloaded but from a server of this process.
"""

import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.shared import PROJECT

TOOLS = (
    *("awk", "bash", "cat", "dirname", "env", "flock", "grep", "head", "mktemp", "rm", "sed"),
    *("sha256sum", "sort", "tail", "touch", "tr", "uname"),
)
# The interpreter: a kernel is there once one was installed or built.
PYTHON = """#!/bin/bash
echo "python $*" >>"$FAKE/asked"
case "$*" in
    *find_kernel*) [ -e "$FAKE/kernel" ]; exit ;;
    *"pip install"*kernel*) touch "$FAKE/kernel" ;;
    scripts/kernel_source.py*) exec "$REAL_PYTHON" "$@" ;;
    *version*torch*) echo torch==2.13.0+cpu ;;
esac
exit 0
"""
TESTBED = """#!/bin/bash
echo "testbed $* source=$TESTBED_KERNEL_SOURCE" >>"$FAKE/asked"
touch "$FAKE/kernel"
"""
MACHINE = {
    "id": "#!/bin/bash\necho 0\n",
    "python3": '#!/bin/bash\nexec "$REAL_PYTHON" "$@"\n',
}
DEBIAN = {
    "dpkg-query": "#!/bin/bash\nexit 1\n",  # nothing is installed
    "apt-get": '#!/bin/bash\necho "apt-get $*" >>"$FAKE/asked"\n',
    "apt-cache": '#!/bin/bash\n[ "$2" = "$WITHOUT" ] || echo "  Candidate: 1.0"\n',
}
TARBALL = "linux-6.12.117.tar.xz"
CONTENT = b"the source of Linux"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Machine:
    """A made-up machine with a tree of the project."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def asked(self) -> str:
        """What the stand-ins were asked."""
        file = self.folder / "asked"
        return file.read_text() if file.exists() else ""

    def setup(self, *options: str, **settings: object) -> subprocess.CompletedProcess[str]:
        environment = {
            "HOME": str(self.folder),
            "PATH": str(self.folder / "bin"),
            "FAKE": str(self.folder),
            "REAL_PYTHON": sys.executable,
            "OS_RELEASE": str(self.folder / "os-release"),
            "WITHOUT": "none",
        }
        for name, value in settings.items():
            environment[name] = str(value)
        return subprocess.run(
            ["scripts/setup", *options],
            cwd=self.project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def write_wheel(self, config: str) -> Path:
        """Make a wheel of a guest kernel with this configuration and the tree's edits."""
        parts = self.project / "testbed/guest/kernel_source"
        wheel = self.project / "dist/wan_training_testbed_kernel-6.12.117-py3-none-any.whl"
        wheel.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("testbed_kernel/guest.config", config)
            for edit in parts.glob("linux-*/*"):
                archive.write(edit, Path("testbed_kernel", edit.relative_to(parts)))
        return wheel


def _programs(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine without dpkg."""
    machine = Machine(tmp_path)
    _programs(tmp_path / "bin", MACHINE)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, tool
        (tmp_path / "bin" / tool).symlink_to(found)
    (machine.project / "scripts").mkdir(parents=True)
    for name in ("setup", "packages", "kernel_source.py"):
        shutil.copy(PROJECT / "scripts" / name, machine.project / "scripts")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(PROJECT / name, machine.project)
    (machine.project / "testbed").symlink_to(PROJECT / "testbed")
    _programs(machine.project / ".venv/bin", {"python": PYTHON, "testbed": TESTBED})
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
    return machine


@pytest.fixture
def debian(bare: Machine) -> Machine:
    """A fresh Debian, with root's rights."""
    _programs(bare.folder / "bin", DEBIAN)
    return bare


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of files, and its folder, which has a tarball and its checksum."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / TARBALL).write_bytes(CONTENT)
    (folder / "sha256sums.asc").write_text(
        f"{'0' * 64}  linux-6.12.1.tar.xz\n{SHA256}  {TARBALL}\n"
    )
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", folder
        http.shutdown()


def test_fresh_debian(debian: Machine) -> None:
    done = debian.setup()
    assert done.returncode == 0, done.stderr
    assert " gcc " in debian.asked
    assert " linux-source-6.12 " in debian.asked
    assert "--constraint requirements.lock --editable .[dev]" in debian.asked
    assert "testbed guest build" in debian.asked


def test_kernel_is_there_already(debian: Machine) -> None:
    (debian.folder / "kernel").touch()
    assert debian.setup("--runtime-only").returncode == 0
    assert "tcpdump" in debian.asked
    assert " gcc " not in debian.asked
    assert "--editable .[run]" in debian.asked
    assert "guest build" not in debian.asked


def test_kernel_wheel(debian: Machine) -> None:
    """It is installed once, nothing is compiled, and what compiles is not installed."""
    wheel = debian.write_wheel("another configuration")
    done = debian.setup(TESTBED_KERNEL_WHEEL=wheel)
    assert done.returncode == 0, done.stderr
    assert f"installing the guest kernel: {wheel}" in done.stdout
    assert " gcc " not in debian.asked
    assert "linux-source" not in debian.asked
    assert "guest build" not in debian.asked
    installed = debian.asked.count(f":all: {wheel}\n")
    assert (installed, debian.setup(TESTBED_KERNEL_WHEEL=wheel).returncode) == (1, 0)
    assert debian.asked.count(f":all: {wheel}\n") == 1


def test_kernel_wheel_in_dist(debian: Machine) -> None:
    config = (PROJECT / "testbed/guest/kernel_source/guest.config").read_text()
    wheel = debian.write_wheel(config)
    assert debian.setup().returncode == 0
    assert f":all: {wheel.relative_to(debian.project)}\n" in debian.asked
    assert "guest build" not in debian.asked


def test_kernel_wheel_in_dist_of_other_edits(debian: Machine) -> None:
    debian.write_wheel("another configuration")
    assert debian.setup().returncode == 0
    assert ".whl" not in debian.asked
    assert "guest build" in debian.asked


def test_no_kernel_source(debian: Machine) -> None:
    done = debian.setup(WITHOUT="linux-source-6.12")
    assert done.returncode == 3
    assert "apt offers no linux-source-6.12\n" in done.stderr
    assert "scripts/setup --download-kernel-source" in done.stderr
    assert "TESTBED_KERNEL_WHEEL" in done.stderr


def test_download_of_the_kernel_source(debian: Machine, server: tuple[str, Path]) -> None:
    """The download is compared with the published checksum, and is not repeated."""
    url, folder = server
    settings = {"WITHOUT": "linux-source-6.12", "TESTBED_KERNEL_SOURCE_URL": url}
    done = debian.setup("--download-kernel-source", **settings)
    assert done.returncode == 0, done.stderr
    tarball = debian.folder / ".cache/testbed" / TARBALL
    assert tarball.read_bytes() == CONTENT
    assert f"testbed guest build source={tarball}\n" in debian.asked
    assert " gcc " in debian.asked
    (folder / TARBALL).unlink()
    (debian.folder / "kernel").unlink()
    assert debian.setup("--download-kernel-source", **settings).returncode == 0


@pytest.mark.parametrize("where", ["published", "named", "none"])
def test_download_with_a_wrong_checksum(
    debian: Machine, server: tuple[str, Path], where: str
) -> None:
    url, folder = server
    settings = {"TESTBED_KERNEL_SOURCE_URL": url}
    if where == "named":
        settings["TESTBED_KERNEL_SOURCE_SHA256"] = "1" * 64
    else:
        checksums = f"{'2' * 64}  {TARBALL}\n" if where == "published" else "none\n"
        (folder / "sha256sums.asc").write_text(checksums)
    done = debian.setup("--download-kernel-source", **settings)
    assert done.returncode == 3
    reason = "sha256sums.asc does not name" if where == "none" else f"has the SHA-256 {SHA256}, not"
    assert reason in done.stderr
    assert "guest build" not in debian.asked
    assert list(debian.folder.glob(f".cache/testbed/{TARBALL}*")) == []


def test_download_from_nowhere(debian: Machine, server: tuple[str, Path]) -> None:
    url, _ = server
    done = debian.setup("--download-kernel-source", TESTBED_KERNEL_SOURCE_URL=f"{url}/none")
    assert done.returncode == 3
    assert f"{url}/none/{TARBALL} cannot be downloaded: HTTP Error 404" in done.stderr


def test_without_dpkg(bare: Machine) -> None:
    """A kernel wheel and Python are enough; what is left out is said."""
    done = bare.setup("--runtime-only")
    assert done.returncode == 3
    assert "no dpkg-query" in done.stderr
    assert "TESTBED_KERNEL_WHEEL" in done.stderr
    assert bare.asked == "" or "pip install" not in bare.asked
    wheel = bare.write_wheel("another configuration")
    done = bare.setup("--runtime-only", TESTBED_KERNEL_WHEEL=wheel)
    assert done.returncode == 0, done.stderr
    assert "captures (tcpdump)" in done.stdout
    assert f":all: {wheel}\n" in bare.asked
    assert done.stdout.endswith("setup: ready: .venv/bin/testbed\n")


def test_without_dpkg_from_a_source(bare: Machine) -> None:
    done = bare.setup(TESTBED_KERNEL_SOURCE="/usr/src/linux.tar.xz")
    assert done.returncode == 0, done.stderr
    assert "to build the guest kernel: gcc" in done.stdout
    assert "testbed guest build source=/usr/src/linux.tar.xz" in bare.asked
