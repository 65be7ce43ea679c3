"""What tests of real processes share."""

from pathlib import Path
from typing import Any

import pytest

from testbed.workers.gpu.build import gpu_libraries, why_no_gpus
from tests.support.gpus import run_on_gpus
from tests.support.shared import Need


@pytest.fixture(scope="session")
def libraries() -> Path:
    """Return the compiled libraries; the first time takes a minute or two."""
    return gpu_libraries()


@pytest.fixture
def on_gpus(need: Need, request: pytest.FixtureRequest) -> Any:
    """Return a function that runs code with two modelled H100 (`tests.support.gpus`)."""
    need(not why_no_gpus(), "a C++ compiler and Python's headers")
    compiled: Path = request.getfixturevalue("libraries")

    def run(code: str) -> tuple[Any, str]:
        return run_on_gpus(code, compiled)

    return run
