"""The examples of docs/topologies.md: files load, programs and commands (but `run`) run.

Of docs/changing-links.md, docs/leaf-spine.md, README.md and examples/: every topology loads.
"""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.spec.topology import Topology

PROJECT = Path(__file__).parents[3]
TEXT = (PROJECT / "docs/topologies.md").read_text(encoding="utf-8")
CHANGING = (PROJECT / "docs/changing-links.md").read_text(encoding="utf-8")
LEAF_SPINE = (PROJECT / "docs/leaf-spine.md").read_text(encoding="utf-8")
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def fences(language: str, text: str = TEXT) -> list[str]:
    """The texts of code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def tables(text: str) -> list[tuple[str, str]]:
    """Names and texts of the CSV files."""
    return re.findall(r"`(\w+\.csv)`:\n\n```csv\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", fences("yaml"), ids=lambda text: text.splitlines()[0])
def test_files_load(text: str, folder: Path) -> None:
    (folder / "mine.yaml").write_text(text)
    assert Topology.load("mine.yaml").sites


@pytest.mark.parametrize(
    "text", [*fences("yaml", CHANGING), *fences("yaml", LEAF_SPINE), *fences("yaml", README)]
)
def test_files_of_other_pages(text: str, folder: Path) -> None:
    for name, table in tables(CHANGING):
        (folder / name).write_text(table)

    whole = text if "wan:" in text else f"extends: two-sites\n{text}"
    (folder / "mine.yaml").write_text(whole)
    assert Topology.load("mine.yaml").sites


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "examples").glob("*.yaml")), ids=lambda path: path.name
)
def test_topologies_of_examples_load(path: Path) -> None:
    assert Topology.load(path).name == path.stem


def test_commands_run(folder: Path) -> None:
    (folder / "mine.yaml").write_text(fences("yaml")[0])
    for name, text in tables(TEXT):
        (folder / name).write_text(text)

    for line in "".join(fences("sh")).splitlines():
        _program, *words = shlex.split(line)
        if words[0] == "run":
            continue

        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output

    three = Topology.load("three.yaml")
    same = Topology.load("same.yaml")
    assert three.links == same.links
    delays = [(link.forward.delay, link.backward.delay) for link in three.links]
    assert delays == [(8_200_000, 8_200_000), (43_000_000, 45_000_000)]


def test_programs_run(folder: Path) -> None:
    programs = fences("python")
    assert programs
    for program in programs:
        exec(compile(program, "docs/topologies.md", "exec"), {})

    assert len(list(folder.glob("delay-*.yaml"))) == 3


def test_claims_of_the_guide(folder: Path) -> None:
    def load(index: int) -> Topology:
        (folder / "mine.yaml").write_text(fences("yaml")[index])
        return Topology.load("mine.yaml")

    directions = load(2).links[0]
    assert directions.backward.loss == 0.0001
    assert directions.backward.rate == 10**9

    many = load(3)
    assert {link.key: link.forward.rate // 10**9 for link in many.links} == {
        "oregon-iowa": 50,
        "oregon-ohio": 50,
        "iowa-ohio": 100,
        "london-ohio": 10,
        "london-iowa": 10,
    }

    over = load(6)
    assert {name: site.hosts for name, site in over.sites.items()} == {
        "palo-alto": 2,
        "giga-texas": 2,
        "buffalo": 8,
    }
    assert [link.forward.rate // 10**9 for link in over.links] == [10, 1, 10]
