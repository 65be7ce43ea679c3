"""No thread finds the FP registers of another, which the guest kernel leaves in their process."""

import subprocess
from pathlib import Path

import pytest

from testbed.guest.boot import Clock, GuestSpec, start_guest
from testbed.guest.kernel import Kernel
from tests.support.guests import INSIDE, MEMORY_BYTES, WAYS, console, finish, kernel_that_stops


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled, and right on the machine's own kernel."""
    path = tmp_path_factory.mktemp("program") / "fp_registers"
    source = INSIDE / "fp_registers.c"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", path, source, "-lm"],
        check=True,
    )
    subprocess.run([path], check=True, timeout=60)
    return path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_fp_registers_stay(
    kernel: Kernel, program: Path, clock: Clock, way: str, tmp_path: Path
) -> None:
    """Through system calls, page faults, signals, other threads, forks and other programs."""
    folder = tmp_path / "shared"
    (folder / "raw").mkdir(parents=True)
    spec = GuestSpec(
        kernel=kernel_that_stops(kernel, way),
        command=[str(program)],
        writable=folder,
        memory_bytes=MEMORY_BYTES,
        clock=clock,
        console=folder / "console.log",
        clock_file=folder / "raw/clock",
        readable=[program.parent],
    )
    with start_guest(spec) as guest:
        assert finish(guest) == 0, console(folder)
    assert ", 0 wrong" in console(folder)
