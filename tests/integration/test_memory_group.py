"""The soak's account of memory with the control groups of this machine."""

import os
from pathlib import Path

from tests.support.memory_group import memory_group
from tests.support.memory_trial import LOST_BYTES, MIB, try_group
from tests.support.shared import Need


def test_only_lost_memory_counts(need: Need, tmp_path: Path) -> None:
    """A file in memory counts within 1 MiB; memory of ended processes and files do not."""
    name = f"testbed-test-{os.getpid()}"
    with memory_group(name) as group:
        need(group is not None, "memory control groups that this user can make")
        assert group is not None
        found = try_group(group, tmp_path / "file", Path("/dev/shm") / name)
    assert abs(found["left"] - found["before"] - LOST_BYTES) < MIB
    assert abs(found["removed"] - found["before"]) < MIB
    assert not group.path.exists()


def test_a_taken_name_gives_no_group(need: Need) -> None:
    """An existing group is neither used nor removed."""
    name = f"testbed-test-taken-{os.getpid()}"
    with memory_group(name) as group:
        need(group is not None, "memory control groups that this user can make")
        assert group is not None
        with memory_group(name) as second:
            assert second is None or second.path != group.path
        assert group.path.exists()
