"""A sweep on two Ray nodes, of which one is lost in the middle, gives the same as without Ray."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
import pytest

from tests.support.runs import PAIR, Command, Need

# Starts two nodes of one CPU each, and the sweep; kills the second node once both have a guest.
SCRIPT = """
    import shutil, subprocess, sys, time
    from pathlib import Path
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    cluster.wait_for_nodes()
    guests = Path(sys.argv[1], "notes")
    command = [sys.executable, "-m", "testbed", "sweep", *sys.argv[2:], "--ray", cluster.address]
    sweep = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    seen = 0
    while seen < 2 and time.monotonic() < deadline and sweep.poll() is None:
        time.sleep(0.1)
        seen = len(list(guests.glob("*/pid")))
    cluster.remove_node(second, allow_graceful=False)
    status = sweep.wait()
    cluster.shutdown()
    print("guests:", seen, "status:", status)
    sys.exit(status)
"""


def durations(ops: pl.DataFrame) -> list[int]:
    """ns of each operation, by rank and start."""
    ops = ops.sort("rank", "start_ns")
    return (ops["end_ns"] - ops["start_ns"]).to_list()


@pytest.mark.alone  # Ray's memory is in /dev/shm, where other tests look for what is left
def test_lost_node(
    command: Command, need: Need, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    need(importlib.util.find_spec("ray"), "Ray")
    (tmp_path / "pair.yaml").write_text(PAIR)
    experiment = tmp_path / "tiny.yaml"
    workload = "workload.ops: [all_reduce], workload.sizes: [4 KiB], workload.iterations: 2"
    settings = f"{workload}, run.isolation: process"
    axis = "topology.wan.west-east.delay: [5 ms, 10 ms]"
    experiment.write_text(
        f"topology: pair.yaml\nsettings: {{{settings}}}\nsweep: {{grid: {{{axis}}}}}\n"
    )
    node = tmp_path / "node"  # its temporary folder, below which guests of tasks have theirs
    node.mkdir()
    environment = command_environment | {
        "TMPDIR": str(node),
        "RAY_TMPDIR": "/tmp",
    }  # sockets need short paths
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(SCRIPT),
            node / f"testbed-{os.getuid()}",
            experiment,
            "--out",
            tmp_path / "ray",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "guests: 2" in done.stdout
    assert "failed, retrying: the worker was lost (" in done.stderr
    command("sweep", experiment, "--out", tmp_path / "here", "--jobs", 2)
    folders = sorted(path.name for path in (tmp_path / "ray/points").iterdir())
    assert len(folders) == 2
    for name in folders:
        remote, local = (
            pl.read_parquet(tmp_path / place / "points" / name / "ops.parquet")
            for place in ("ray", "here")
        )
        assert remote.height == local.height > 0
        for a, b in zip(durations(remote), durations(local), strict=True):
            assert a == pytest.approx(b, abs=20_000, rel=1e-3)  # as between any two runs
