"""What the next command does about a process of the testbed that was killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.guest.boot import remove_stale_guests

KILLED = """
import os, signal
from pathlib import Path
from testbed.guest.boot import returned_if_killed, temporary_folder
with returned_if_killed(Path({run!r})), temporary_folder("testbed-killed-") as folder:
    (folder / "file").write_text("large")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_its_temporary_folder_is_removed_and_its_run_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = KILLED.format(run=str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    left = Path(done.stdout.strip())
    assert (done.returncode, left.parent, (left / "file").exists()) == (
        -signal.SIGKILL,
        tmp_path,
        True,
    )
    assert remove_stale_guests() == [tmp_path / "run"]
    assert not left.exists()
    assert remove_stale_guests() == []
