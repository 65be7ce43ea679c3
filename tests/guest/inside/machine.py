"""In a guest: sleep for long, try to change the host's files, and look for its interfaces.

usage: machine.py WRITABLE SLEEP_S FILE_OF_THE_HOST ...
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

INTERFACES = Path("/sys/class/net")
UP = 1  # flag of an interface
STATUS = 7


def attempt(path: Path) -> str:
    """Try to add a line to a file of the host."""
    try:
        with path.open("a") as file:
            file.write("changed by a guest\n")
    except OSError as error:
        return type(error).__name__
    return "written"


def is_up(interface: str) -> bool:
    flags = int((INTERFACES / interface / "flags").read_text(), 16)
    return bool(flags & UP)


def is_hardware(interface: str) -> bool:
    return "/virtual/" not in str((INTERFACES / interface).resolve())


def main(folder: Path, sleep_s: float, files: list[Path]) -> int:
    (folder / "before-sleep").write_text("")
    unix_s = time.time()
    begin_ns = time.monotonic_ns()
    time.sleep(sleep_s)
    slept_ns = time.monotonic_ns() - begin_ns
    (folder / "after-sleep").write_text("")
    interfaces = [name for _index, name in socket.if_nameindex()]
    measured = {
        "unix_s": unix_s,
        "slept_ns": slept_ns,
        "attempts": {str(path): attempt(path) for path in files},
        "interfaces_up": [name for name in interfaces if is_up(name)],
        "hardware": [name for name in interfaces if is_hardware(name)],
        "release": os.uname().release,
    }
    (folder / "result.json").write_text(json.dumps(measured))
    return STATUS


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), [Path(name) for name in sys.argv[3:]]))
