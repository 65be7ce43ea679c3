"""In a guest, which has control groups version 2: try a memory control group.

usage: memory.py WRITABLE
"""

import json
import sys
from pathlib import Path

from testbed.workers import cgroups
from tests.support.memory_group import memory_group
from tests.support.memory_trial import try_group


def main(folder: Path) -> int:
    cgroups.delegate_root()
    with memory_group("trial") as group:
        assert group is not None
        found = try_group(group, folder / "file", Path("/dev/shm/file"))
        measured = {"version": group.version, **found}
    (folder / "result.json").write_text(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
