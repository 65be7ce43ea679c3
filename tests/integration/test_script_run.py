"""A script in a process that has imported torch before: to the script it is a fresh interpreter of
its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import testbed

# Forks for each script, as the parent of ranks does, and tells the exit statuses.
PARENT = """
import json, os, sys
from testbed.workloads.script.main import run_as_main
statuses = {}
for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        log = os.open(path + ".log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.argv, sys.path[0] = [path, "--lr", "1"], os.path.dirname(path)
        status = run_as_main("file", path)
        sys.stdout.flush()
        os._exit(status)
    statuses[os.path.basename(path)] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(statuses))
"""
SCRIPTS = {
    "well.py": (0, "print('done')"),
    "exit.py": (3, "import sys; sys.exit(3)"),
    "text.py": (1, "import sys; sys.exit('no data')"),
    "killed.py": (-15, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
    "raises.py": (1, "def inner():\n    raise LookupError('nothing')\n\ninner()\n"),
    "main.py": (
        0,
        "import pickle, sys\nimport beside\n\n\nclass Thing:\n    pass\n\n\n"
        "assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)\n"
        "assert sys.argv == [__file__, '--lr', '1'], sys.argv\n"
        "assert __name__ == '__main__'\nassert sys.modules['__main__'].Thing is Thing\n",
    ),
    "later.py": (
        0,
        "import atexit, threading, time\natexit.register(print, 'at the end')\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "print('script')\n",
    ),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The folder of the scripts and their logs, and the exit statuses."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "beside.py").write_text("")
    for name, (_, text) in SCRIPTS.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PARENT, *(folder / name for name in SCRIPTS)],
        env={"PYTHONPATH": str(Path(testbed.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return folder, json.loads(done.stdout)


def test_exit_statuses(ran: tuple[Path, dict[str, int]]) -> None:
    folder, statuses = ran
    said = {name: (folder / f"{name}.log").read_text() for name in SCRIPTS}
    assert statuses == {name: status for name, (status, _) in SCRIPTS.items()}, said


def test_the_traceback_begins_with_the_script(ran: tuple[Path, dict[str, int]]) -> None:
    folder, _ = ran
    first, second, *_, last = (folder / "raises.py.log").read_text().splitlines()
    assert first == "Traceback (most recent call last):"
    assert second == f'  File "{folder}/raises.py", line 4, in <module>'
    assert last == "LookupError: nothing"
    assert (folder / "text.py.log").read_text() == "no data\n"


def test_threads_and_exit_handlers_come_to_their_end(ran: tuple[Path, dict[str, int]]) -> None:
    folder, _ = ran
    assert (folder / "later.py.log").read_text().split("\n") == [
        "script",
        "thread",
        "at the end",
        "",
    ]
