"""A guest's root cannot change this machine's files outside its folder, nor reach its network."""

import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.doctor.machine import try_namespaces
from testbed.guest.kernel import Kernel
from testbed.runfolder.folder import RunDir
from testbed.runfolder.harmless import harmful_entries
from tests.support.guests import console, finish, guest_with, result

REFUSED = ("new file", "old file", "old file, whole", "remove", "mode", "link", "kernel", "a disk")
TRAPS = {
    "status.json": "a symbolic link",
    "ops.parquet": "a symbolic link",
    "logs": "a symbolic link",
    "raw/events.jsonl": "a FIFO",
    "out": "a symbolic link",
}
UNREACHED = ("this machine's port", "a network")
CONTENT = "of this machine\n"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "file").write_text(CONTENT)
    (folder / "file").chmod(0o640)
    return folder


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        yield server


@pytest.fixture(scope="module")
def folder(
    kernel: Kernel,
    need: Callable[[object, str], None],
    outside: Path,
    listener: socket.socket,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The shared folder, after the guest has tried."""
    need(try_namespaces() == "", "namespaces that keep a guest to its folder")
    path = tmp_path_factory.mktemp("intruder") / "shared"
    with guest_with(kernel, "intruder.py", path, outside, listener.getsockname()[1]) as guest:
        assert finish(guest) == 0, console(path)
    return path


def test_it_could_mount_what_it_wanted(folder: Path) -> None:
    """The attempts mean something: outside the sandbox, what was mounted could be written to."""
    outcomes = result(folder)
    assert outcomes["mount the whole machine"] == "done"
    assert outcomes["mount a folder"] == "done"


@pytest.mark.parametrize("attempt", REFUSED)
def test_attempts_are_refused(folder: Path, attempt: str) -> None:
    assert result(folder)[attempt] != "done"


def test_files_of_this_machine_are_as_they_were(folder: Path, outside: Path) -> None:
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == CONTENT
    assert stat.S_IMODE((outside / "file").stat().st_mode) == 0o640
    assert not Path("/dev/shm/made-by-a-guest").exists()


def test_it_reached_no_network(folder: Path, listener: socket.socket) -> None:
    outcomes = {result(folder)[attempt] for attempt in UNREACHED}
    assert outcomes <= {"Connection refused", "Network is unreachable"}
    with pytest.raises(TimeoutError):
        listener.accept()


def test_its_folder_has_no_programs_of_other_users_and_no_devices(folder: Path) -> None:
    assert {"nosuid", "nodev"} <= set(result(folder)["options of the mount"].split(","))


def test_what_it_left_is_made_harmless(folder: Path, outside: Path) -> None:
    """Nothing that this machine's programs would follow, wait for, or run with another's rights."""
    run = RunDir(folder)
    removed = "\n".join(run.settle())
    for name, kind in TRAPS.items():
        assert f"{name} was {kind}, and was removed" in removed
        assert not (folder / name).is_symlink()
    assert list(harmful_entries(run.path, [run.work(None)])) == []
    assert stat.S_IMODE((folder / "tool").stat().st_mode) == 0o755
    assert (folder / "work/latest").is_symlink()
    assert (outside / "file").read_text() == CONTENT
