"""Kernel sources that the user names: what is refused, what makes a new kernel, what is remembered."""

import shutil
import tarfile
from pathlib import Path

import pytest

from testbed.errors import InputError
from testbed.guest import kernel
from testbed.guest.source import LINUX, PARTS, Source, choose, chosen_source, find_source, linux_version, named_source

MAKEFILE = "# SPDX-License-Identifier: GPL-2.0\nVERSION = 5\nPATCHLEVEL = 10\nSUBLEVEL = 7\nEXTRAVERSION =\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TESTBED_KERNEL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The top of a kernel source of another version, with a git history and a forgotten object file."""
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


def test_a_folder_is_copied_without_history_and_objects(tree: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    assert unpacked(named_source(tree), tmp_path / "copy") == {"Makefile", "arch/um/Kconfig"}
    assert linux_version(tmp_path / "copy") == "5.10.7"
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_a_tarball(tree: Path, tmp_path: Path) -> None:
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
    first = min(path.name for path in PARTS.glob("*.patch"))
    assert text.startswith(f"{tree}: the project's {first} does not apply to this source, which is Linux 5.10.7")
    assert text.endswith(f"the edits are for Linux {LINUX}: name a source of that version")


def test_what_is_no_source_is_refused(tree: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no kernel")
    with pytest.raises(InputError, match=r"no folder and no tarball"):
        named_source(text)
    shutil.rmtree(tree / "arch")
    with pytest.raises(InputError, match=r"this is no source of Linux: it has no Makefile of a kernel, or no arch/um"):
        unpacked(named_source(tree), tmp_path / "copy")
    source = named_source(tree)
    shutil.rmtree(tree)
    with pytest.raises(InputError, match=r"the kernel source is not there any more\n  name another with --source"):
        unpacked(source, tmp_path / "other")


def test_the_key_has_the_source(tree: Path, tmp_path: Path) -> None:
    """A change of any file, or of the edits, is another kernel; a look at it is not."""
    one = kernel._key(named_source(tree))
    assert kernel._key(named_source(tree)) == one
    (tree / ".git/HEAD").write_text("ref: refs/heads/other\n")
    assert kernel._key(named_source(tree)) == one
    (tree / "arch/um/Kconfig").write_text("config UML_X86\n")
    assert kernel._key(named_source(tree)) != one
    assert kernel._key(Source(tree, "a")) != kernel._key(Source(tree, "b"))


def test_the_choice_is_remembered_and_taken_back(tree: Path) -> None:
    distribution = find_source()
    chosen = named_source(tree)
    choose(chosen)
    shutil.rmtree(tree)  # a kernel that was built from it stays of use
    assert find_source() == chosen
    choose(None)
    assert find_source() == distribution


def test_a_source_that_fails_is_not_remembered(tree: Path) -> None:
    for before in (None, Source(tree.parent, "of an earlier time")):
        choose(before)
        with pytest.raises(InputError, match="does not apply"):
            kernel.kernel_from(tree, lambda what, part: None)
        assert chosen_source() == before
