"""Operators on lists of DTensors: the same shards as torch finds, in less work."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "list_operators.py"


def _printed(way: str) -> Any:
    command = [sys.executable, str(PROGRAM), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain() -> Any:
    return _printed("plain")


@pytest.fixture(scope="module")
def quick() -> Any:
    return _printed("quick")


def test_same_shards(plain: Any, quick: Any) -> None:
    """Lists with one placement, with several, with strided shards, and that have to move."""
    assert quick["found"] == plain["found"]
    text = json.dumps(plain["found"])
    assert "_S(0, 4)" in text
    assert '"True"' in text, "something has to move"


def test_less_work(plain: Any, quick: Any) -> None:
    """A list is looked through once for all elements, and each shape is expanded once."""
    assert [each["args_spec"] for each in plain["work"]] == [20, 40]
    assert [each["args_spec"] for each in quick["work"]] == [1, 1]
    few, many = (each["__post_init__"] for each in plain["work"])
    assert many == 2 * few
    few_quickly, many_quickly = (each["__post_init__"] for each in quick["work"])
    assert many_quickly - few_quickly < few / 4
