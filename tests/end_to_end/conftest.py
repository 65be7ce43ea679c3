"""Runs that several tests look at."""

from pathlib import Path

import pytest

from tests.support.runs import PAIR


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The topology file of two hosts, 1 Gbit/s and 10 ms one way between them."""
    path = tmp_path_factory.mktemp("topology") / "pair.yaml"
    path.write_text(PAIR)
    return path
