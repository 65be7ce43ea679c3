"""The soak's account of memory with control groups version 2, which the guest has."""

from pathlib import Path

from testbed.guest.kernel import Kernel
from tests.support.guests import console, finish, guest_with, result
from tests.support.memory_trial import LOST_BYTES, MIB


def test_only_lost_memory_counts(kernel: Kernel, tmp_path: Path) -> None:
    """A file in memory counts within 1 MiB; memory of ended processes and files do not."""
    folder = tmp_path / "shared"
    with guest_with(kernel, "memory.py", folder) as guest:
        assert finish(guest) == 0, console(folder)
    found = result(folder)
    assert found["version"] == 2
    assert abs(found["left"] - found["before"] - LOST_BYTES) < MIB
    assert abs(found["removed"] - found["before"]) < MIB
