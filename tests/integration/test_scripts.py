"""Scripts start: each can be imported, and those with options say which."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shared import PROJECT

SCRIPTS = sorted((PROJECT / "scripts").glob("*.py"))
WITH_OPTIONS = [script for script in SCRIPTS if "import argparse" in script.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_import(script: Path) -> None:
    """In a separate process: bench_captures.py confines the process to one CPU."""
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('script', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['script'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(module.__doc__ is not None)\n"
    )
    command = [sys.executable, "-c", program, str(script)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"


@pytest.mark.parametrize("script", WITH_OPTIONS, ids=lambda script: script.name)
def test_help(script: Path) -> None:
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script.name}")


def test_scripts_are_found() -> None:
    assert {"bench.py", "bench_captures.py", "clocks.py", "soak.py"} <= {
        script.name for script in SCRIPTS
    }
