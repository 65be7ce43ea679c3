"""Patched private interfaces exist, in versions that were checked."""

import atexit
import importlib
import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
import threading

import pytest
from pyroute2.netlink.rtnl import tcmsg

from testbed.core import compat
from testbed.core.compat import (
    interpreter_exit,
    mininet_shell,
    pyroute2_plugins,
    torch_imports,
    versions,
)

PATCHES = [
    module.name for module in pkgutil.iter_modules(compat.__path__) if module.name != "versions"
]


@pytest.mark.parametrize("name", PATCHES)
def test_checked_version(name: str) -> None:
    patch = importlib.import_module(f"{compat.__name__}.{name}")
    assert versions.unchecked(patch.CHECKED) == [], (
        "check the patch with this version, then add the version to CHECKED"
    )


def test_unchecked_version() -> None:
    lines = versions.unchecked(
        {"python": ("2.7",), "pyroute2": pyroute2_plugins.CHECKED["pyroute2"]}
    )
    installed = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert lines == [f"python {installed} is installed; checked: 2.7"]


def test_package_imports_no_torch() -> None:
    program = "import sys, testbed.core.compat; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 0


def test_interpreter_exit() -> None:
    assert callable(getattr(threading, "_shutdown", None))
    assert callable(getattr(atexit, "_run_exitfuncs", None))
    assert callable(interpreter_exit.end_program)


def test_torch_imports() -> None:
    """The patched function takes these parameters; the postponed modules exist."""
    assert list(inspect.signature(inspect.getmodule).parameters) == ["object", "_filename"]
    for name in (*torch_imports.POSTPONED, torch_imports.REQUIRED):
        assert importlib.util.find_spec(name) is not None, name


def test_getmodule_is_restored() -> None:
    before = inspect.getmodule
    with torch_imports.quick_imports():
        assert inspect.getmodule is not before
        assert inspect.getmodule(inspect.currentframe()) is sys.modules[__name__]
    assert inspect.getmodule is before


def test_python_locks() -> None:
    """Properties have no lock, as in Python 3.12 and later, and work as before."""
    program = """
import contextlib, functools, types
from testbed.core.compat import python_locks
python_locks.leave_out_property_locks()
class Thing:
    calls = 0
    @functools.cached_property
    def figure(self):
        self.calls += 1
        return 7
thing = Thing()
assert (thing.figure, thing.figure, thing.calls) == (7, 7, 1)
lock = getattr(Thing.__dict__["figure"], "lock", None)
assert lock is None or isinstance(lock, contextlib.nullcontext)
cuda = types.SimpleNamespace(_initialization_lock=None)
python_locks.leave_out_cuda_lock(cuda)
with cuda._initialization_lock, cuda._initialization_lock:
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 0

    import torch

    assert hasattr(torch.cuda, "_initialization_lock")


def test_torch_dispatcher() -> None:
    import torch

    assert callable(torch.ops.c10d.allreduce_.default._op_dk)
    assert callable(torch._C._dispatch_key_for_device)
    assert "CPU" in torch._C.DispatchKey.__members__
    assert "SparseCPU" in torch._C.DispatchKey.__members__
    assert callable(torch.library.Library._destroy)


def test_torch_process_groups() -> None:
    import torch.distributed.distributed_c10d as c10d

    from testbed.core.compat import torch_process_groups

    assert hasattr(c10d, "default_pg_timeout")
    assert callable(torch_process_groups.reduce_scatter_single)


def test_pyroute2_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        pass

    plugins = dict(tcmsg.plugins)
    monkeypatch.setattr(pyroute2_plugins, "plugins", plugins)
    assert "netem" in plugins
    pyroute2_plugins.register_plugins(netem=Plugin)
    assert plugins["netem"] is Plugin


def test_mininet_log() -> None:
    from mininet.log import lg

    handler = lg.handlers[0]
    stream = handler.stream
    try:
        mininet_shell.print_to(sys.stderr)
        assert handler.stream is sys.stderr
    finally:
        mininet_shell.print_to(stream)


def test_mininet_shell() -> None:
    """A shell is attached without a new namespace; the node keeps its process.

    Lines end as programs write them.
    """
    agents, childs = os.openpty()

    class Node:
        pid = 7
        inNamespace = True
        stdin = os.fdopen(agents)

    node = Node()

    def start_shell(options: str) -> None:
        assert options == "-cda7"
        assert not node.inNamespace
        node.pid = 8

    mininet_shell.start_attached_shell(node, start_shell)
    assert (node.pid, node.inNamespace) == (7, True)
    os.write(childs, b"one\ntwo\n")
    assert os.read(agents, 100) == b"one\ntwo\n"
    os.close(childs)
    node.stdin.close()
