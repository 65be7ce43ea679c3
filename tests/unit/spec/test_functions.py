"""Functions as workloads: whose source is enough, whose module is imported, who is refused."""

import functools
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from testbed.core.errors import InputError
from testbed.spec.functions import script_of

MODULE = """
from pathlib import Path

FILE = Path("answer")

def train(answer: str = "42") -> None:
    FILE.write_text(answer)

def loose():
    return FILE

del Path
"""


def self_contained() -> None:
    from pathlib import Path

    def write(text: str) -> None:
        names = [name.strip() for name in text.split()]
        Path("answer").write_text(" ".join(names))

    write("42")


def uses_the_module() -> Path:
    return Path(sys.argv[0])


@functools.cache
def decorated() -> None:
    return None


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """``module(name, text)``: make a module, and import it."""

    def make(name: str, text: str) -> ModuleType:
        file = tmp_path / "src" / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "src")
        return __import__(name, fromlist=["train"])

    return make


def run(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a script in `folder`, and give what it wrote."""
    script = folder / "script.py"
    script.write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(script))
    return (folder / "answer").read_text()


def test_source_of_a_self_contained_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = script_of(self_contained)
    assert (script.name, script.readable) == ("self_contained.py", ())
    assert run(script.text, tmp_path, monkeypatch) == "42"


def test_import_of_a_function(
    module: Callable[[str, str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = module("package_of_test.inner", MODULE).train
    script = script_of(train)
    assert script.readable == (tmp_path / "src",)
    assert "from package_of_test.inner import train" in script.text
    assert run(script.text, tmp_path, monkeypatch) == "42"


def test_nested_function_with_its_own_names(tmp_path: Path) -> None:
    def inner() -> int:
        return len("four")

    assert script_of(inner).text == 'def inner() -> int:\n    return len("four")\n\n\ninner()\n'


def test_function_of_the_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses_the_module, "__module__", "__main__")
    with pytest.raises(InputError) as caught:
        script_of(uses_the_module)
    assert "the function uses_the_module depends on Path, sys, which ranks do not" in str(
        caught.value
    )
    assert "imports what it uses in its body" in str(caught.value)


def test_closure() -> None:
    outside = 3

    def inner() -> int:
        return outside

    with pytest.raises(InputError, match="the function inner depends on outside, which ranks"):
        script_of(inner)


def needs(argument: int) -> None:
    del argument


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: None, "is not a plain function"),
        (functools.partial(print, 1), "is not a plain function"),
        (decorated, "is not a plain function"),
        (needs, "the function needs needs the argument 'argument'"),
    ],
)
def test_refused(function: Callable[[], object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        script_of(function)
