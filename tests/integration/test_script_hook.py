"""Python processes that a script starts are recorded, and do not notice by what."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import testbed
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Operation, read
from testbed.workers.observer import HOOK, HOSTS, RUN, TIMEOUT

SCRIPT = """
import sys
import torch
import torch.distributed as dist
import testbed

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(4))
dist.destroy_process_group()
import pydantic_settings
import random

assert (testbed.VALUE, pydantic_settings.VALUE, random.VALUE) == (7, 8, 9)
assert "pydantic" in sys.modules and sys.modules["testbed"] is testbed
assert not [name for name in sys.modules if name.startswith("testbed.")]
assert not [folder for folder in sys.path if folder.startswith(sys.argv[1])], sys.path
print("done")
"""
RPC = """
from pathlib import Path
import torch
import torch.distributed.rpc as rpc

rpc.init_rpc("alone", rank=0, world_size=1)
assert rpc.rpc_sync("alone", torch.add, args=(torch.ones(1), 1)).item() == 2
for task in Path("/proc/self/task").iterdir():
    print((task / "comm").read_text().strip())
rpc.shutdown()
"""
# A module that another package needs too: it has to have what torch takes from it.
RANDOM = """
import importlib.util, os, sys
_spec = importlib.util.spec_from_file_location("_random_of_python", os.__file__[:-5] + "random.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
globals().update({name: value for name, value in vars(_module).items() if name[:2] != "__"})
VALUE = 9
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def run_python(folder: Path, *words: str) -> str:
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join([str(HOOK), str(folder / "more")]),
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        RUN: str(folder),
        HOSTS: socket.gethostname(),
        TIMEOUT: "60",
    }
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_of_a_script_win(tmp_path: Path) -> None:
    """Of `testbed`, of what its recorder imports, and of the standard library."""
    (tmp_path / "more").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "testbed.py").write_text("VALUE = 7\n")
    (tmp_path / "more/pydantic_settings.py").write_text("VALUE = 8\n")
    (tmp_path / "random.py").write_text(RANDOM)
    assert run_python(tmp_path, "script.py", str(HOOK)) == "done\n"
    operations, _ = read(RunDir(tmp_path).rank_ops(0), Operation)
    assert [(row.op, row.bytes, row.phase) for row in operations] == [("all_reduce", 16, "script")]


def test_rpc_has_no_thread_that_polls(tmp_path: Path) -> None:
    """By torch's names of its threads: those of `shm` and `cma` poll, that of `uv` waits."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "script.py").write_text(RPC)
    names = run_python(tmp_path, "script.py").split()
    assert "TP_UV_loop" in names
    assert not [name for name in names if name.startswith(("TP_SHM", "TP_CMA"))]


def test_the_hook_is_not_seen(tmp_path: Path) -> None:
    """Neither in the path nor among the modules; another `sitecustomize` takes its place."""
    program = "import sys; print(sys.path[1:], 'sitecustomize' in sys.modules)"
    (tmp_path / "more").mkdir()
    seen = run_python(tmp_path, "-c", program)
    assert str(tmp_path / "more") in seen
    assert str(HOOK) not in seen
    assert seen.endswith("False\n")
    (tmp_path / "more/sitecustomize.py").write_text("VALUE = 3\n")
    program = "import sitecustomize; print(sitecustomize.VALUE)"
    assert run_python(tmp_path, "-c", program) == "3\n"


def test_the_testbed_can_be_imported(tmp_path: Path) -> None:
    """By scripts that model compute time, even where it is not installed, as in an image."""
    program = "import testbed.spec; print(testbed.__file__)"
    assert run_python(tmp_path, "-S", "-c", f"import sys\n{HOOK_BY_HAND}\n{program}") == (
        f"{testbed.__file__}\n"
    )


HOOK_BY_HAND = f"""
sys.path.insert(0, {str(HOOK)!r})
try:
    import sitecustomize
except ImportError:
    pass
assert {str(HOOK)!r} not in sys.path
"""
