"""In a guest: sleep for long, try to change the host's files, look for its interfaces, end with a
status.

usage: machine.py WRITABLE SLEEP_S FILE_OF_THE_HOST ...
"""

import json
import os
import socket
import sys
import time
from pathlib import Path


def attempt(path: Path) -> str:
    """Try to add a line to a file of the host."""
    try:
        with path.open("a") as file:
            file.write("changed by a guest\n")
    except OSError as error:
        return type(error).__name__
    return "written"


def main(folder: Path, sleep_s: float, files: list[Path]) -> int:
    (folder / "before-sleep").write_text("")
    unix_s, begin = time.time(), time.monotonic_ns()
    time.sleep(sleep_s)
    slept_ns = time.monotonic_ns() - begin
    (folder / "after-sleep").write_text("")
    names = [name for _index, name in socket.if_nameindex()]
    found = {
        "unix_s": unix_s,
        "slept_ns": slept_ns,
        "attempts": {str(path): attempt(path) for path in files},
        "interfaces_up": [
            name for name in names if int(Path("/sys/class/net", name, "flags").read_text(), 16) & 1
        ],
        "hardware": [
            name for name in names if "/virtual/" not in str(Path("/sys/class/net", name).resolve())
        ],
        "release": os.uname().release,
    }
    (folder / "result.json").write_text(json.dumps(found))
    return 7


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), [Path(name) for name in sys.argv[3:]]))
