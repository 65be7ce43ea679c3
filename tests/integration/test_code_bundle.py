"""Bundles of modules: they hold what files held, notice changes, and can be left behind."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.core import code_bundle
from testbed.execution.guest_code import python_for_guests

PROGRAM = """
import json, sys
from bundled import value
from bundled.inner import part
import bundled
from testbed.core import code_bundle
code_bundle.remove()
import bundled.late
print(json.dumps([__name__, sys.argv, sys.path[0], value, part, bundled.__file__, bundled.__path__,
                  type(bundled.__spec__.loader).__name__, bundled.late.value]))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package `bundled`, imported."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    for name, text in {
        "__init__": "value = 1",
        "inner": "part = 2",
        "late": "value = 3",
        "program": PROGRAM,
    }.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("bundled", "bundled.inner", "bundled.late"):
        importlib.import_module(name)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "bundled"]:
        del sys.modules[name]


@pytest.fixture
def made(package: Path, tmp_path: Path) -> Path:
    """A bundle of it."""
    path = tmp_path / "bundle"
    code_bundle.write(
        path,
        {name: module for name, module in sys.modules.items() if name.split(".")[0] == "bundled"},
    )
    assert sorted(code_bundle.Finder(path).index) == ["bundled", "bundled.inner", "bundled.late"]
    assert sorted(tmp_path.iterdir()) == [path, package]
    return path


def test_modules_come_from_the_bundle(made: Path, package: Path) -> None:
    """And not from the changed files; the program is run as `python -m` runs it."""
    for name in ("__init__", "inner", "late"):
        (package / f"{name}.py").write_text("value = part = 'changed'")
    words: list[str | Path] = [sys.executable, code_bundle.BUNDLE, made]
    words += ["bundled.program", "an", "argument"]
    project = Path(code_bundle.__file__).parent.parent.parent
    environment = {
        **os.environ,
        "PYTHONPATH": f"{package.parent}:{project}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        words, cwd="/usr", env=environment, capture_output=True, text=True, check=True
    )
    name, argv, first, value, part, file, folders, loader, late = json.loads(done.stdout)
    assert (name, argv, first) == (
        "__main__",
        [str(package / "program.py"), "an", "argument"],
        "/usr",
    )
    assert (value, part, file, folders) == (1, 2, str(package / "__init__.py"), [str(package)])
    assert loader == "_Loader"
    assert late == "changed", "after remove() the files count"


def test_changed_file(made: Path, package: Path) -> None:
    assert code_bundle.is_fresh(made)
    file = package / "inner.py"
    before = file.stat()
    file.write_text("part = 9")  # as long as before
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert code_bundle.is_fresh(made)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert not code_bundle.is_fresh(made)


def test_missing_file(made: Path, package: Path) -> None:
    (package / "inner.py").unlink()
    assert not code_bundle.is_fresh(made)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"12345678",
        b"\xff" * 8,
        b"no bundle at all, but longer than its head",
        code_bundle.FORMAT,
        code_bundle.FORMAT + b"\xff" * 8,
        code_bundle.FORMAT + (4).to_bytes(8, "little") + b"\xff" * 4,
    ],
)
def test_not_a_bundle(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    assert not code_bundle.is_fresh(path)
    path.write_bytes(content)
    assert not code_bundle.is_fresh(path)


def test_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And again when something has changed. It has torch and Mininet, not this project."""
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    project = str(Path(code_bundle.__file__).parent.parent.parent)
    calls: list[str] = []

    def words() -> list[str]:
        return python_for_guests(
            {"PYTHONPATH": project, "PATH": os.environ["PATH"]}, lambda: calls.append("made")
        )

    python, program, path = words()
    assert (python, program) == (sys.executable, str(code_bundle.BUNDLE))
    assert words() == [python, program, path]
    assert calls == ["made"]
    names = set(code_bundle.Finder(Path(path)).index)
    assert {"torch", "mininet.net", "docker", "torch.distributed", "torch._export"} <= names
    assert not {
        name for name in names if name.split(".")[0] in {"testbed", "workloads", "__main__"}
    }
    Path(path).write_bytes(b"damaged")
    assert words() == [python, program, path]
    assert calls == ["made", "made"]
