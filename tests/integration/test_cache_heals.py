"""What is cached is checked: a damaged kernel or bundle is noticed, removed and made again."""

import os
import shutil
from pathlib import Path

import pytest

from testbed.core.seals import is_whole, remove_sealed, seal
from testbed.execution import guest_code
from testbed.guest import kernel as kernels
from testbed.guest.linux_source import Source

SCRIPT = "#!/bin/sh\necho 6.12.0\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TESTBED_KERNEL", raising=False)
    return tmp_path / "cache"


def flip_a_bit(path: Path, *, keep_time: bool) -> None:
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_seals(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not is_whole(path)
    path.write_bytes(b"x" * 1000)
    assert is_whole(path)  # of a cache of an earlier version
    seal(path)
    assert is_whole(path, thoroughly=True)
    os.utime(path, ns=(1, 1))  # as by a copy of the cache
    assert is_whole(path)
    seal(path)
    flip_a_bit(path, keep_time=True)
    assert is_whole(path)
    assert not is_whole(path, thoroughly=True)
    flip_a_bit(path, keep_time=False)
    assert is_whole(path)  # the bit is back
    path.write_bytes(b"x" * 999)
    assert not is_whole(path)
    remove_sealed(path)
    assert list(tmp_path.glob("file*")) == []


@pytest.fixture
def builds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders in which kernels were built; a script takes the place of ten minutes of gcc."""
    built: list[Path] = []

    def build(source: Source, work: Path, progress: kernels.Progress) -> Path:
        path = work / "linux"
        path.write_text(SCRIPT)
        path.chmod(0o755)
        built.append(work)
        return path

    source = Source(path=cache / "linux.tar", fingerprint="a source")
    monkeypatch.setattr(kernels, "_build", build)
    monkeypatch.setattr(kernels, "_installed", lambda: None)
    monkeypatch.setattr(kernels, "find_source", lambda: source)
    monkeypatch.setattr(kernels, "missing_tools", list)
    return built


def test_damaged_kernel_is_built_again(builds: list[Path]) -> None:
    said: list[str] = []

    def note(what: str, part: float) -> None:
        said.append(what)

    kernel = kernels.ensure_kernel(note)
    assert kernels.ensure_kernel(note) == kernel
    assert len(builds) == 1
    flip_a_bit(kernel.path, keep_time=False)
    assert kernels.ensure_kernel(note) == kernel
    assert len(builds) == 2
    assert said == ["the kernel in the cache is damaged, building it again"]
    assert kernel.path.read_text() == SCRIPT


def test_kernel_that_cannot_run_is_built_again(builds: list[Path]) -> None:
    """Size and time are as before, so the hash is compared only after the failure."""
    kernel = kernels.ensure_kernel()
    state = kernel.path.stat()
    kernel.path.write_bytes(b"\0" * state.st_size)
    os.utime(kernel.path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert kernels.ensure_kernel() == kernel
    assert len(builds) == 2
    flip_a_bit(kernel.path, keep_time=True)
    assert kernels.remove_damaged_kernel()
    assert not kernels.remove_damaged_kernel()
    assert not kernel.path.exists()


def test_leftovers_of_a_killed_build_are_removed(builds: list[Path], cache: Path) -> None:
    left = cache / "kernel/build-dead/linux"
    left.mkdir(parents=True)
    (left / "vmlinux").write_text("large")
    kernels.ensure_kernel()
    assert not left.parent.exists()
    assert list((cache / "kernel").glob("build-*")) == []


def test_damaged_modules_are_collected_again(cache: Path) -> None:
    made: list[str] = []

    def collect() -> list[str]:
        return guest_code.python_for_guests({}, lambda: made.append("made"))

    bundle = Path(collect()[-1])
    assert collect()[-1] == str(bundle)
    assert len(made) == 1
    flip_a_bit(bundle, keep_time=False)
    collect()
    assert len(made) == 2
    flip_a_bit(bundle, keep_time=True)
    assert guest_code.remove_damaged_bundles()
    assert not guest_code.remove_damaged_bundles()
    collect()
    assert len(made) == 3
    shutil.rmtree(cache)
