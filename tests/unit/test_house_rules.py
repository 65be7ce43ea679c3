"""Rules of CONTRIBUTING.md that hold for every file of Python, checked in its syntax tree."""

import ast
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CODE = ("testbed", "workloads", "scripts", "examples")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# A test asserts, expects an error, or lets the browser expect something of a page.
ASSERTING_CALLS = frozenset({"raises", "warns", "expect", "assert_close"})
# The same noun before and after a plan is made: `testbed.spec` has it as written, `testbed.plan`
# in base units.
WRITTEN_AND_PLANNED = {"Datacenter", "LeafSpine", "Tcp", "Transfer"}
# Each method of training is a class `Train` in its module, which is named as the method.
METHOD = "Train"


def files(*folders: str) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        found += sorted((PROJECT / folder).rglob("*.py"))
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def comprehensions_inside(node: ast.AST) -> Iterator[ast.AST]:
    for inner in ast.walk(node):
        if inner is not node and isinstance(inner, COMPREHENSIONS):
            yield inner


@pytest.mark.parametrize("folder", [*CODE, "tests"])
def test_no_comprehension_is_inside_another(folder: str) -> None:
    nested: list[str] = []
    for path in files(folder):
        for node in ast.walk(tree(path)):
            if isinstance(node, COMPREHENSIONS) and any(comprehensions_inside(node)):
                nested.append(f"{path.relative_to(PROJECT)}:{node.lineno}")
    assert nested == []


def test_comprehensions_have_one_clause() -> None:
    long: list[str] = []
    for path in files(*CODE, "tests"):
        for node in ast.walk(tree(path)):
            if isinstance(node, COMPREHENSIONS) and len(node.generators) > 1:
                long.append(f"{path.relative_to(PROJECT)}:{node.lineno}")
    assert long == []


def test_the_formatter_is_never_switched_off() -> None:
    switch = "# fmt" + ":"
    assert [path for path in files(*CODE, "tests") if switch in path.read_text()] == []


def names_of_calls(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node.func, ast.Attribute):
            yield node.func.attr


def asserts(function: ast.AST, helpers: Collection[str] = ASSERTING_CALLS) -> bool:
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    return any(name in helpers for name in names_of_calls(function))


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            yield node


def imported_from_tests(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tests."):
            yield from (alias.name for alias in node.names)


def test_every_test_has_an_assertion() -> None:
    """In itself, or in a function of its file or of tests/ that the test calls."""
    asserting: set[str] = set()
    for path in files("tests"):
        asserting.update(function.name for function in functions(path) if asserts(function))

    without: list[str] = []
    for path in files("tests"):
        known = {function.name for function in functions(path)}
        known.update(imported_from_tests(path))
        helpers = known & asserting | ASSERTING_CALLS
        for function in functions(path):
            if function.name.startswith("test_") and not asserts(function, helpers):
                without.append(f"{path.relative_to(PROJECT)}:{function.lineno} {function.name}")
    assert without == []


def test_no_two_public_classes_share_a_name() -> None:
    counts: Counter[str] = Counter()
    for path in files("testbed", "workloads"):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                counts[node.name] += 1
    repeated = {name for name, count in counts.items() if count > 1}
    assert repeated == {*WRITTEN_AND_PLANNED, METHOD}
