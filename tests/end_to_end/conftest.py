"""Runs that several tests look at."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import PAIR


@pytest.fixture
def load() -> Iterator[None]:
    """Processes that want all of the machine's CPUs."""
    spin = [sys.executable, "-ISc", "while True: pass"]
    spinners = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    yield
    for spinner in spinners:
        spinner.kill()
        spinner.wait()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The topology file of two hosts, 1 Gbit/s and 10 ms one way between them."""
    path = tmp_path_factory.mktemp("topology") / "pair.yaml"
    path.write_text(PAIR)
    return path
