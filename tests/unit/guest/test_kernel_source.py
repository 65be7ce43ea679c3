"""Kernel sources: what is refused, what makes a new kernel, what is remembered."""

import shutil
import tarfile
from pathlib import Path

import pytest

from testbed.core.errors import InputError, MachineError
from testbed.guest import kernel, linux_source
from testbed.guest.linux_source import (
    PARTS,
    Source,
    choose,
    chosen_source,
    edits,
    find_source,
    linux_version,
    named_source,
)

MAKEFILE = """\
# SPDX-License-Identifier: GPL-2.0
VERSION = 5
PATCHLEVEL = 10
SUBLEVEL = 7
EXTRAVERSION =
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TESTBED_KERNEL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The top of another version's source, with a git history and a forgotten object file."""
    path = tmp_path / "linux-5.10.7"
    (path / "arch/um").mkdir(parents=True)
    (path / "Makefile").write_text(MAKEFILE)
    (path / "arch/um/Kconfig").write_text("config UML\n")
    (path / "arch/um/old.o").write_text("of an x86 kernel")
    (path / ".git").mkdir()
    (path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    return path


def unpacked(source: Source, target: Path) -> set[str]:
    target.mkdir()
    source.unpack(target)
    return {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}


def test_folder_is_copied_without_history_and_objects(tree: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    assert unpacked(named_source(tree), tmp_path / "copy") == {"Makefile", "arch/um/Kconfig"}
    assert linux_version(tmp_path / "copy") == "5.10.7"
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_tarball_is_unpacked(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "linux-5.10.7.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        archive.add(tree, tree.name)
    assert "arch/um/Kconfig" in unpacked(named_source(path), tmp_path / "copy")


def test_edits_that_do_not_apply(tree: Path, tmp_path: Path) -> None:
    source = named_source(tree)
    unpacked(source, tmp_path / "copy")
    with pytest.raises(InputError) as caught:
        source.patch(tmp_path / "copy")
    text = str(caught.value)
    first = min(path.name for path in PARTS.glob("linux-6.12/*.patch"))
    assert text.startswith(
        f"{tree}: the project's {first} does not apply to this source of Linux 5.10.7"
    )
    assert text.endswith("use a source of Linux 6.12 or 7.2")


@pytest.mark.parametrize(
    ("version", "folder"),
    [
        ("5.10.7", "6.12"),
        ("6.12.94", "6.12"),
        ("6.18", "6.12"),
        ("7.2.11", "7.2"),
        ("7.10", "7.2"),
        (None, "6.12"),
    ],
)
def test_edits_by_version(version: str | None, folder: str) -> None:
    patches = edits(version)
    assert patches == sorted((PARTS / f"linux-{folder}").glob("*.patch"))
    assert patches[0].name.startswith("1-")


def test_newest_distribution_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_source, "SOURCES", tmp_path)
    assert find_source() is None
    for name in (
        "linux-source-6.12.tar.xz",
        "linux-source-6.1.tar.xz",
        "linux-source-7.2.tar.xz",
        "linux-source-8.0.tar.xz",
    ):
        (tmp_path / name).write_text("")
    newest = find_source()
    assert newest is not None
    assert newest.path.name == "linux-source-7.2.tar.xz"
    newest.path.unlink()
    older = find_source()
    assert older is not None
    assert older.path.name == "linux-source-6.12.tar.xz"


def test_no_kernel_source(tree: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no kernel")
    with pytest.raises(InputError, match=r"not a folder or tarball"):
        named_source(text)
    shutil.rmtree(tree / "arch")
    with pytest.raises(
        InputError,
        match=r"not a Linux source: no kernel Makefile or no arch/um",
    ):
        unpacked(named_source(tree), tmp_path / "copy")
    source = named_source(tree)
    shutil.rmtree(tree)
    with pytest.raises(
        InputError,
        match=r"the kernel source no longer exists\n  choose another with --source, or return to "
        r"the default with: testbed guest build \(/\S+/kernel/source\.json holds the choice\)",
    ):
        unpacked(source, tmp_path / "other")


def test_cache_key_depends_on_source(tree: Path, tmp_path: Path) -> None:
    """A change of any file, or of the edits, is another kernel; a look at it is not."""
    one = kernel._key(named_source(tree))
    assert kernel._key(named_source(tree)) == one
    (tree / ".git/HEAD").write_text("ref: refs/heads/other\n")
    assert kernel._key(named_source(tree)) == one
    (tree / "arch/um/Kconfig").write_text("config UML_X86\n")
    assert kernel._key(named_source(tree)) != one
    assert kernel._key(Source(tree, "a")) != kernel._key(Source(tree, "b"))


def test_choice_is_remembered_and_taken_back(tree: Path) -> None:
    distribution = find_source()
    chosen = named_source(tree)
    choose(chosen)
    shutil.rmtree(tree)  # a kernel that was built from it stays of use
    assert find_source() == chosen
    choose(None)
    assert find_source() == distribution


def test_failed_source_is_not_remembered(tree: Path) -> None:
    for before in (None, Source(tree.parent, "of an earlier time")):
        choose(before)
        with pytest.raises(InputError, match="does not apply"):
            kernel.kernel_from(tree, lambda what, part: None)
        assert chosen_source() == before


@pytest.mark.parametrize(
    ("programs", "packages"),
    [
        (set(kernel.TOOLS), "linux-source-6.12"),
        (set(kernel.TOOLS) - {"flex", "xz"}, "linux-source-6.12 flex xz-utils"),
    ],
)
def test_missing_packages_are_named(
    programs: set[str], packages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux_source, "SOURCES", tmp_path)
    monkeypatch.setattr(kernel, "_installed", lambda: None)
    monkeypatch.setattr(
        shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None
    )
    with pytest.raises(MachineError) as caught:
        kernel.ensure_kernel()
    assert str(caught.value) == (
        "the guest kernel is not built yet, and building it needs missing Debian packages: "
        f"{packages}\n  run `make setup`, or `apt-get install {packages}`"
    )
