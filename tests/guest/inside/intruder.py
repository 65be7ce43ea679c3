"""In a guest, as its root: try to change this machine's files and to reach its network, in several
ways.

usage: intruder.py FOLDER OUTSIDE PORT    OUTSIDE: a folder of this machine's that is not shared;
PORT: it listens there
"""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except subprocess.CalledProcessError as error:
        return error.stderr.decode(errors="replace").strip()
    except OSError as error:
        return error.strerror or type(error).__name__
    return "done"


def mount(what: str, options: str, where: Path) -> None:
    where.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", what, "-o", options, "none", str(where)], check=True, capture_output=True
    )


def main(folder: Path, outside: Path, port: int) -> int:
    whole, part = Path("/root/whole"), Path("/root/part")
    whole.parent.mkdir(exist_ok=True)
    found = {
        "mount the whole machine": attempt(lambda: mount("hostfs", "/", whole)),
        "mount a folder": attempt(lambda: mount("hostfs", str(outside), part)),
        "remount the root": attempt(
            lambda: subprocess.run(
                ["mount", "-o", "remount,rw", "/"], check=True, capture_output=True
            )
        ),
        "new file": attempt(lambda: (part / "made").write_text("by a guest")),
        "old file": attempt(lambda: (part / "file").write_text("by a guest")),
        "old file, whole": attempt(
            lambda: whole.joinpath(*outside.parts[1:], "file").write_text("by a guest")
        ),
        "remove": attempt((part / "file").unlink),
        "mode": attempt(lambda: (part / "file").chmod(0o777)),
        "link": attempt(lambda: os.link(part / "file", folder / "hard")),
        "kernel": attempt(lambda: (whole / "proc/sys/kernel/hostname").write_text("guest")),
        "memory": attempt(lambda: (whole / "dev/shm/made-by-a-guest").write_text("by a guest")),
        "through a link": attempt(lambda: through(folder / "out", outside / "made")),
        "a disk": attempt(lambda: device(folder / "disk")),
        "this machine's port": attempt(
            lambda: socket.create_connection(("127.0.0.1", port), 5).close()
        ),
        "a network": attempt(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("10.255.255.1", 9))
        ),
    }
    # What the shared folder may hold when the guest has ended.
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
    (folder / "result.json").write_text(json.dumps(found))
    return 0


def through(link: Path, target: Path) -> None:
    link.symlink_to(target)
    link.write_text("by a guest")


def device(path: Path) -> None:
    """A node with the numbers of this machine's first disk, to read from."""
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(254, 0))
    with path.open("rb") as file:
        file.read(512)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
