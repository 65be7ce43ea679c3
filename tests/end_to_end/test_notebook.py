"""The notebook in examples: from a question to a figure, without a browser."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.support.shared import PROJECT

NOTEBOOK = PROJECT / "examples/first_question.py"


def _load_app() -> Any:
    spec = importlib.util.spec_from_file_location("first_question", NOTEBOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture(scope="module")
def results(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the notebook's cells define, by name."""
    del kernel
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        _outputs, definitions = _load_app().run()
        page = Path(definitions["page"]).resolve()
    return {**definitions, "page": page}


def test_figure_obeys_physics(results: dict[str, Any]) -> None:
    lines = {line.name: line for line in results["figure"].data}
    measured, bounds, rtts = (list(lines[name].y) for name in ("measured", "bound", "RTT"))
    assert list(lines["measured"].x) == [100, 1000, 6000]
    for time_ms, bound_ms, rtt_ms in zip(measured, bounds, rtts, strict=True):
        assert time_ms >= bound_ms >= rtt_ms / 2
        assert time_ms >= rtt_ms
    assert measured == sorted(measured)
    assert measured[2] - measured[1] >= rtts[2] - rtts[1]


def test_answer_and_page(results: dict[str, Any]) -> None:
    assert results["sentence"].startswith("The distance dominates: at 6000 km the all-reduce takes")
    assert "measured" in results["page"].read_text()
