"""What a memory control group counts while a command leaves files, memory and shared memory."""

import subprocess
import sys
from pathlib import Path

from tests.support.memory_group import MemoryGroup

MIB = 2**20
FILE_BYTES = 64 * MIB
LOST_BYTES = 16 * MIB
PROGRAM = f"""
import pathlib, sys
memory = bytearray({FILE_BYTES})
memory[::4096] = bytes([1]) * len(memory[::4096])
pathlib.Path(sys.argv[1]).write_bytes(memory)
pathlib.Path(sys.argv[2]).write_bytes(memory[:{LOST_BYTES}])
"""


def try_group(group: MemoryGroup, disk: Path, shared: Path) -> dict[str, int]:
    """Run a command that leaves a file on disk and a file in shared memory.

    Args:
        group: the group of the command.
        disk: a file to make on a disk; it is not removed.
        shared: a file to make in a file system in memory; it is removed.

    Returns:
        The retained bytes: before the command, left by the command, and with the file in memory
        removed.
    """
    found = {"before": group.retained_bytes()}
    words = [sys.executable, "-c", PROGRAM, str(disk), str(shared)]
    subprocess.run(group.joined(words), check=True)
    found["left"] = group.retained_bytes()
    shared.unlink()
    found["removed"] = group.retained_bytes()
    return found
