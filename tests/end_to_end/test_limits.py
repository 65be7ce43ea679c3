"""Limits of the kernel that all hosts of a guest share: figures do not depend on its memory."""

import shutil

import polars as pl
import pytest

from testbed.guest.boot import memory_folder
from tests.support.runs import Command, Folder, Need

LONG = """
name: long
datacenters:
  west: {hosts: 1, nic: {rate: 20 Gbit/s, delay: 0 ms}}
  east: {hosts: 1, nic: {rate: 20 Gbit/s, delay: 0 ms}}
wan:
  - {between: [west, east], rate: 10 Gbit/s, delay: 100 ms}
tcp: {offload: on}
"""
BYTES = 256_000_000
MEMORY_GIB = (3, 6)


@pytest.fixture(scope="module")
def runs(
    command: Command, need: Need, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, pl.DataFrame]:
    """Operations of one broadcast on a long path, by the guest's memory in GiB.

    By Linux's defaults TCP's send buffers would stop growing at 4.7 % of the memory: 151 and
    302 MB. The window needs 250 MB, and a buffer twice as much.
    """
    free_bytes = shutil.disk_usage(memory_folder()).free
    need(free_bytes > max(MEMORY_GIB) * 2**30, f"{max(MEMORY_GIB)} GiB for a guest")
    folder = tmp_path_factory.mktemp("limits")
    (folder / "long.yaml").write_text(LONG)
    operations = {}
    for gib in MEMORY_GIB:
        words = ["--set", "workload.ops=[broadcast]", "--set", f"workload.sizes=[{BYTES} B]"]
        words += ["--set", "workload.iterations=1", "--set", "workload.warmup=0"]
        words += ["--isolation", "process", "--guest-memory", f"{gib} GiB"]
        command("run", folder / "long.yaml", "collectives", *words, "--out", folder / f"{gib}")
        run = Folder(folder / f"{gib}")
        assert run.status["faithful"], run.status
        operations[gib] = run.ops.sort("rank", "op", "iteration")
    return operations


def test_memory_of_the_guest_changes_nothing(runs: dict[int, pl.DataFrame]) -> None:
    """Every operation of every rank begins and ends at the same nanosecond."""
    small, large = (runs[gib] for gib in MEMORY_GIB)
    assert small.height > 0
    assert small.equals(large)


def test_the_broadcast_is_not_limited_by_buffers(runs: dict[int, pl.DataFrame]) -> None:
    """Slow start doubles the window in each round trip of 200 ms, from 10 packets of 1448 bytes.

    The sender has sent it all in the 15th round trip (10 x 1448 x (2^15 - 1) = 474 MB); hystart may
    end slow start some round trips earlier. With buffers of 151 MB at most it took longer.
    """
    broadcast = runs[MEMORY_GIB[0]].filter(pl.col("op") == "broadcast")
    durations_ns = (broadcast["end_ns"] - broadcast["start_ns"]).to_list()
    assert 1e8 < max(durations_ns) < 3.2e9
