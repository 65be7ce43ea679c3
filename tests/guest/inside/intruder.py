"""In a guest, as its root: try to change this machine's files, or to reach its network.

usage: intruder.py FOLDER OUTSIDE PORT

OUTSIDE is a folder of this machine's that is not shared; on PORT this machine listens.
"""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TEXT = "by a guest"
WHOLE = Path("/root/whole")  # where the whole machine is mounted
PART = Path("/root/part")  # where OUTSIDE is mounted


def attempt(action: Callable[[], object]) -> str:
    """Give "done", or why an action failed."""
    try:
        action()
    except subprocess.CalledProcessError as error:
        message: bytes = error.stderr
        return message.decode(errors="replace").strip()
    except OSError as error:
        return error.strerror or type(error).__name__
    return "done"


def mount(source: str, target: Path) -> None:
    """Mount a folder of this machine."""
    target.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "hostfs", "-o", source, "none", str(target)]
    subprocess.run(command, check=True, capture_output=True)


def remount_root() -> None:
    command = ["mount", "-o", "remount,rw", "/"]
    subprocess.run(command, check=True, capture_output=True)


def write_through(link: Path, target: Path) -> None:
    link.symlink_to(target)
    link.write_text(TEXT)


def read_disk(path: Path) -> None:
    """Make a node with the numbers of this machine's first disk, and read from it."""
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(254, 0))
    with path.open("rb") as file:
        file.read(512)


def connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 5).close()


def reach_network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.connect(("10.255.255.1", 9))


def options_of(folder: Path) -> str:
    """Return the options of the mount at a folder (proc(5): mountinfo)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(folder):
            return fields[5]
    return ""


def leave_traps(folder: Path, outside: Path) -> None:
    """Put into the shared folder what this machine's programs should not follow, open or run."""
    (folder / "status.json").unlink(missing_ok=True)
    (folder / "status.json").symlink_to(outside / "file")
    (folder / "ops.parquet").symlink_to(outside / "file")
    (folder / "raw/events.jsonl").unlink(missing_ok=True)
    os.mkfifo(folder / "raw/events.jsonl")
    (folder / "logs").symlink_to(outside)
    (folder / "tool").write_text("#!/bin/sh\nid\n")
    (folder / "tool").chmod(0o6755)
    (folder / "work").mkdir()
    (folder / "work/latest").symlink_to("step-10")


def main(folder: Path, outside: Path, port: int) -> int:
    whole_file = WHOLE.joinpath(*outside.parts[1:], "file")
    part_file = PART / "file"
    actions: dict[str, Callable[[], object]] = {
        "mount the whole machine": lambda: mount("/", WHOLE),
        "mount a folder": lambda: mount(str(outside), PART),
        "remount the root": remount_root,
        "new file": lambda: (PART / "made").write_text(TEXT),
        "old file": lambda: part_file.write_text(TEXT),
        "old file, whole": lambda: whole_file.write_text(TEXT),
        "remove": part_file.unlink,
        "mode": lambda: part_file.chmod(0o777),
        "link": lambda: os.link(part_file, folder / "hard"),
        "kernel": lambda: (WHOLE / "proc/sys/kernel/hostname").write_text("guest"),
        "memory": lambda: (WHOLE / "dev/shm/made-by-a-guest").write_text(TEXT),
        "through a link": lambda: write_through(folder / "out", outside / "made"),
        "a disk": lambda: read_disk(folder / "disk"),
        "this machine's port": lambda: connect(port),
        "a network": reach_network,
    }
    outcomes = {name: attempt(action) for name, action in actions.items()}
    outcomes["options of the mount"] = options_of(folder)
    leave_traps(folder, outside)
    (folder / "result.json").write_text(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
