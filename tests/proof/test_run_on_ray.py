"""A run on two Ray nodes does what one guest does; a loss ends the run, and nothing stays.

Both nodes are on this machine; each has a folder for temporary files, so a cache, of its own.
"""

import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.support.runs import PAIR, Command, Need, records_of_ranks, set_options

SHORT = {"ops": "[all_reduce,broadcast]", "sizes": "[64 KiB,256 KiB]", "iterations": 2}
LONG = {"ops": "[all_reduce]", "sizes": "[64 KiB]", "iterations": 5000}

# Starts two nodes; then a run to its end, two that are interrupted, while the nodes prepare and
# later, one whose guest is killed, and one whose node is.
SCRIPT = """
    import json, os, signal, subprocess, sys, time
    from pathlib import Path
    from ray.cluster_utils import Cluster

    folder, short, long = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    os.environ["TMPDIR"] = str(folder / "first")
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    os.environ["TMPDIR"] = str(folder / "second")
    second = cluster.add_node(**node)
    del os.environ["TMPDIR"]
    cluster.wait_for_nodes()

    def start(name, settings):
        words = ["run", folder / "pair.yaml", "collectives", *settings, "--guests", "2"]
        words += ["--isolation", "process", "--ray", cluster.address, "--out", folder / name]
        return subprocess.Popen([sys.executable, "-m", "testbed", *words])

    def await_operations(name, run):
        records = folder / name / "raw/ops-0.jsonl"
        while run.poll() is None:
            if records.exists() and records.read_text().count("\\n") > 3:
                return
            time.sleep(0.1)

    def await_part(run):
        while run.poll() is None and not any("machine_part" in text for text in commands()):
            time.sleep(0.02)

    def what_is_left():
        time.sleep(20)
        left = []
        for text in commands():
            if "machine_part" in text or "TESTBED_GUEST=" + str(folder) in text:
                left.append(text)
        for name in ("first", "second"):
            for kind in ("notes", "parts"):
                left += map(str, folder.glob(f"{name}/testbed-*/{kind}/*"))
        return left

    def commands():
        texts = []
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            if command.parent.name == str(os.getpid()):
                continue
            try:
                text = command.read_text()
            except OSError:
                continue
            texts.append(text)
        return texts

    found = {}
    run = start("whole", short)
    found["whole"] = [run.wait(), what_is_left()]
    run = start("early", long)
    await_part(run)
    run.send_signal(signal.SIGINT)
    found["early"] = [run.wait(), what_is_left()]
    run = start("late", long)
    await_operations("late", run)
    run.send_signal(signal.SIGINT)
    found["late"] = [run.wait(), what_is_left()]
    run = start("guest", long)
    await_operations("guest", run)
    guests = [int(file.read_text()) for file in folder.glob("second/testbed-*/notes/*/pid")]
    os.kill(guests[0], signal.SIGKILL)
    found["guest"] = [run.wait(), what_is_left()]
    run = start("node", long)
    await_operations("node", run)
    cluster.remove_node(second, allow_graceful=False)
    found["node"] = [run.wait(), what_is_left()]
    cluster.shutdown()
    print("found:", json.dumps(found))
"""


@pytest.mark.proof
@pytest.mark.alone  # Ray's memory is in /dev/shm, where other tests look for what is left
def test_two_nodes(
    command: Command,
    need: Need,
    kernel: Kernel,
    tmp_path: Path,
    command_environment: dict[str, str],
) -> None:
    need(importlib.util.find_spec("ray"), "Ray")
    (tmp_path / "pair.yaml").write_text(PAIR)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    short, long = (json.dumps(set_options(settings)) for settings in (SHORT, LONG))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), tmp_path, short, long],
        env=command_environment
        | {
            "RAY_TMPDIR": "/tmp",  # sockets need short paths
            "RAY_worker_niceness": "0",
            "TESTBED_KERNEL": str(kernel.path),
        },
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("found:")]
    assert lines, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(lines[0].removeprefix("found:"))
    outcomes = {"whole": 0, "early": 130, "late": 130, "guest": 4, "node": 4}
    assert found == {name: [status, []] for name, status in outcomes.items()}, done.stderr

    words = ["run", tmp_path / "pair.yaml", "collectives", *set_options(SHORT)]
    command(*words, "--isolation", "process", "--out", tmp_path / "one")
    expected = records_of_ranks(tmp_path / "one")
    assert len(expected) == 2
    assert records_of_ranks(tmp_path / "whole") == expected
    for name in ("guest", "node"):
        status = json.loads((tmp_path / name / "status.json").read_text())
        assert (status["state"], status["exit_status"]) == ("failed", 4)
        for rank in range(2):
            records = (tmp_path / name / f"raw/ops-{rank}.jsonl").read_text()
            assert records.count("\n") >= 3 - rank
        assert not (tmp_path / name / "guests").exists()
