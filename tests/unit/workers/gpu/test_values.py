"""Zeros in place of values: decisions by them are reported, and nothing else."""

import inspect

import pytest

from testbed.workers.gpu import values
from testbed.workers.gpu.values import ModelledFloat


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the reported places; the classes are new ones in each test."""
    found: list[tuple[str, int]] = []
    monkeypatch.setattr(values, "_watch_tensors", lambda reporter: None)
    for name, base in (("ModelledFloat", float), ("ModelledInt", int)):
        kind = type(name, (base,), {"__hash__": base.__hash__})
        monkeypatch.setattr(values, name, kind)

    values.watch_values(lambda file, line: found.append((file, line)))
    return found


def test_printing_and_arithmetic_are_not_reported(reports: list[tuple[str, int]]) -> None:
    loss = values.ModelledFloat(0.0)
    total = 1 + loss * 2 - 1
    assert f"{loss} {loss:.3f} {total}" == "0.0 0.000 0.0"
    assert reports == []


def test_a_decision_is_reported_once(reports: list[tuple[str, int]]) -> None:
    loss = values.ModelledFloat(0.0)
    frame = inspect.currentframe()
    assert frame is not None
    best = loss + 1 < 5
    line = frame.f_lineno - 1
    worst = loss > 7
    assert best and not worst
    assert reports == [(__file__, line)]


def test_a_decision_of_a_package_is_not_reported(reports: list[tuple[str, int]]) -> None:
    """As GradScaler decides whether to skip a step."""
    code = compile("decision = value > 0", "/venv/lib/site-packages/torch/amp.py", "exec")
    exec(code, {"value": values.ModelledInt(0)})
    assert reports == []


def test_numbers_are_numbers() -> None:
    assert isinstance(ModelledFloat(0.0), float)
    assert {ModelledFloat(0.0): 1} == {0.0: 1}
