"""Bundles of modules: they hold what the files held, and notice when a file has changed."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testbed.core import code_bundle
from testbed.execution.guest_code import python_for_guests

PROJECT = Path(code_bundle.__file__).parent.parent.parent
PROGRAM = """
import json, sys
from bundled import value
from bundled.inner import part
import bundled
from testbed.core import code_bundle
code_bundle.remove()
import bundled.late
print(json.dumps({
    "name": __name__,
    "arguments": sys.argv,
    "first folder": sys.path[0],
    "value": value,
    "part": part,
    "file": bundled.__file__,
    "folders": bundled.__path__,
    "loader": type(bundled.__spec__.loader).__name__,
    "late": bundled.late.value,
}))
"""
FILES = {
    "__init__": "value = 1",
    "inner": "part = 2",
    "late": "value = 3",
    "program": PROGRAM,
}
MODULES = ["bundled", "bundled.inner", "bundled.late"]


def package_of(module: str) -> str:
    return module.partition(".")[0]


def imported_modules() -> dict[str, ModuleType]:
    """Give the modules of the package `bundled` that have been imported."""
    return {name: module for name, module in sys.modules.items() if package_of(name) == "bundled"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package `bundled`, imported."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in MODULES:
        importlib.import_module(name)
    yield folder
    for name in imported_modules():
        del sys.modules[name]


@pytest.fixture
def bundle(package: Path, tmp_path: Path) -> Path:
    """A bundle of the package."""
    path = tmp_path / "bundle"
    code_bundle.write(path, imported_modules())
    assert sorted(code_bundle.Finder(path).index) == MODULES
    assert sorted(tmp_path.iterdir()) == [path, package]
    return path


def run_program(bundle: Path, package: Path) -> dict[str, Any]:
    """Run the module `bundled.program` from a bundle; give what it found."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{package.parent}:{PROJECT}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    python = [sys.executable, str(code_bundle.BUNDLE), str(bundle)]
    result = subprocess.run(
        [*python, "bundled.program", "an", "argument"],
        cwd="/usr",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    outcome: dict[str, Any] = json.loads(result.stdout)
    return outcome


def test_modules_come_from_the_bundle(bundle: Path, package: Path) -> None:
    """And not from the files, which have changed since; until `remove` the files do not count.

    The program is run as `python -m` runs it.
    """
    for name in ("__init__", "inner", "late"):
        (package / f"{name}.py").write_text("value = part = 'changed'")
    assert run_program(bundle, package) == {
        "name": "__main__",
        "arguments": [str(package / "program.py"), "an", "argument"],
        "first folder": "/usr",
        "value": 1,
        "part": 2,
        "file": str(package / "__init__.py"),
        "folders": [str(package)],
        "loader": "_Loader",
        "late": "changed",
    }


def test_changed_file(bundle: Path, package: Path) -> None:
    assert code_bundle.is_fresh(bundle)
    file = package / "inner.py"
    before = file.stat()
    file.write_text("part = 9")  # as long as before
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert code_bundle.is_fresh(bundle)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert not code_bundle.is_fresh(bundle)


def test_missing_file(bundle: Path, package: Path) -> None:
    (package / "inner.py").unlink()
    assert not code_bundle.is_fresh(bundle)


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
    """And again when it is damaged. It has torch and Mininet, and nothing of this project."""
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    environment = {"PYTHONPATH": str(PROJECT), "PATH": os.environ["PATH"]}
    calls: list[str] = []

    def python_words() -> list[str]:
        return python_for_guests(environment, lambda: calls.append("made"))

    words = python_words()
    python, program, path = words
    assert (python, program) == (sys.executable, str(code_bundle.BUNDLE))
    assert python_words() == words
    assert calls == ["made"]
    names = set(code_bundle.Finder(Path(path)).index)
    assert {"torch", "mininet.net", "docker", "torch.distributed", "torch._export"} <= names
    packages = {package_of(name) for name in names}
    assert not packages & {"testbed", "workloads", "__main__"}
    Path(path).write_bytes(b"damaged")
    assert python_words() == words
    assert calls == ["made", "made"]
