"""Hundreds of ranks on one machine: all operations end with right results, in the given memory.

A run takes as long as its packets and messages (docs/performance.md): up to an hour on two cores.
"""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.runs import Command, Folder, set_options

pytestmark = [pytest.mark.proof, pytest.mark.alone]

OPERATIONS = {"all_reduce", "all_gather", "broadcast", "barrier"}  # the workload's default


class Size(NamedTuple):
    """How much one machine carries.

    Attributes:
        ranks: each on a host, half of them in each datacenter.
        sizes: of the operations.
        payload: real or folded buffers.
        memory: of the guest; empty: as estimated.
    """

    ranks: int
    sizes: str
    payload: str
    memory: str = ""


SIZES = [
    Size(64, "[4 KiB, 1 MiB]", "real"),
    Size(32, "[128 MiB]", "folded", "12 GiB"),
    Size(64, "[64 MiB]", "folded"),
    Size(256, "{from: 4 KiB, to: 1 MiB}", "real"),
]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.ranks} ranks, {size.sizes}")
def test_all_operations_end(command: Command, tmp_path: Path, size: Size) -> None:
    values = {"sizes": size.sizes, "payload": size.payload, "warmup": 0, "iterations": 1}
    words = set_options(values)
    for site in ("iowa", "ohio"):
        words += ["--set", f"topology.datacenters.{site}.hosts={size.ranks // 2}"]
    if size.payload == "folded":  # 17 GB on the wire: in large packets
        words += ["--set", "topology.mtu=9000"]
    if size.memory:
        words += ["--guest-memory", size.memory]

    out = tmp_path / "run"
    command("run", "two-sites", "collectives", *words, "--isolation", "process", "--out", out)
    folder = Folder(out)
    assert folder.status["state"] == "completed"
    rows = folder.summary["collectives"]
    assert {row["op"] for row in rows} == OPERATIONS
    for row in rows:
        assert row["ranks"] == size.ranks
        assert not row["below_bound"]
        assert not row["wrong"]  # null where contents are not checked
