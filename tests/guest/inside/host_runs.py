"""In a guest on the real clock: run the testbed in its kernel, and count what is left.

Things that belong to others are there before.

usage: host_runs.py FOLDER CASE ...

A CASE is ISOLATION-MODE; MODE is complete, change, interrupt or kill.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import docker

sys.path.append(str(Path(__file__).parents[3]))
from tests.support.census import Census, census

TOPOLOGY = """
name: pair
datacenters:
  west: {hosts: 1, nic: {delay: 0 ms}}
  east: {hosts: 1, nic: {delay: 0 ms}}
wan:
  - {between: [west, east], rate: 1 Gbit/s, delay: 10 ms}
"""
CHANGES = """
events:
  - {at: 500 ms, duration: 1 s, links: west-east, delay: 40 ms}
"""
JOB = ["--where", "here", "--set", "workload.ops=[all_reduce]"]
JOB += ["--set", "workload.sizes=[4 KiB, 256 KiB]"]
TESTBED = [sys.executable, "-m", "testbed"]
ITERATIONS = {"complete": 2, "change": 20, "interrupt": 1_000_000, "kill": 1_000_000}
SIGNALS = {"interrupt": signal.SIGINT, "kill": signal.SIGKILL}
ENVIRONMENT = {**os.environ, "TESTBED_CACHE": "/run/cache", "COLUMNS": "200"}
LONGEST_S = 240
SOCKET = "/run/docker.sock"
LAB = Path("/run/lab")
USERLAND = ("bin", "lib", "lib64", "usr")
DECOYS = (
    "ip link add testbed-br type bridge",
    "ip link set testbed-br up",
    "ip netns add testbed-lab",
    "ip link add d0h0-sw type dummy",
    "tc qdisc add dev d0h0-sw root netem delay 7ms",
)


def make_decoys() -> None:
    """Make a bridge, a link with a queue, a namespace, and a process that looks like a rank."""
    for command in DECOYS:
        subprocess.run(command.split(), check=True)
    group = Path("/sys/fs/cgroup/testbed-1-abc")
    group.mkdir()
    program = "import time; time.sleep(9999)"
    rank = subprocess.Popen(
        [sys.executable, "-c", program, "testbed.execution.inside", "mininet:h0"]
    )
    (group / "cgroup.procs").write_text(str(rank.pid))
    Path("/run/testbed-other").mkdir()
    Path("/run/mount").mkdir(exist_ok=True)  # of util-linux, on every machine that has been booted


def start_docker() -> docker.DockerClient:
    """Start somebody else's Docker daemon."""
    options = ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
    options += ["--data-root", str(LAB / "data"), "--storage-driver", "overlay2"]
    with (LAB / "log").open("w") as log:
        daemon = subprocess.Popen(["dockerd", *options], stdout=log, stderr=log)
    while not Path(SOCKET).exists():
        assert daemon.poll() is None, (LAB / "log").read_text()[-2000:]
        time.sleep(0.1)
    return docker.DockerClient(base_url=f"unix://{SOCKET}", version="1.41")


def make_container() -> None:
    """Start somebody else's container, which has the names that the testbed uses."""
    skeleton = LAB / "root"
    for name in (*USERLAND, "etc", "dev", "proc", "sys"):
        (skeleton / name).mkdir(parents=True)
    client = start_docker()
    image = shutil.make_archive(str(LAB / "image"), "tar", skeleton)
    client.api.import_image_from_file(image, repository="testbed-userland", tag="latest")
    mounts = {f"/{name}": {"bind": f"/{name}", "mode": "ro"} for name in USERLAND}
    client.containers.run(
        "testbed-userland",
        ["sleep", "9999"],
        detach=True,
        name="testbed-lab",
        network_mode="none",
        volumes=mounts,
    )
    client.close()


def count() -> Census:
    return census(docker=SOCKET)


def try_case(folder: Path, case: str) -> dict[str, Any]:
    """Run one case.

    Returns:
        What there was before, during, and after the run; its exit status; and, if it was killed,
        what there was then.
    """
    isolation, mode = case.split("-")
    folder.mkdir()
    topology = folder / "pair.yaml"
    topology.write_text(TOPOLOGY + CHANGES if mode == "change" else TOPOLOGY)
    command = [*TESTBED, "run", str(topology), "collectives", *JOB, "--isolation", isolation]
    command += ["--set", f"workload.iterations={ITERATIONS[mode]}", "--out", str(folder / "run")]
    observed: dict[str, Any] = {"before": count(), "during": None}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            ["env", "--default-signal=INT", *command], env=ENVIRONMENT, stdout=out, stderr=err
        )
        observed["during"] = count_during(process, folder / "run/raw/ops-0.jsonl", mode)
        process.kill()
        observed["status"] = process.wait()
    if mode == "kill":
        time.sleep(1)
        observed["killed"] = count()
        next_command = [*TESTBED, "topo", "list"]
        subprocess.run(next_command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    observed["after"] = count()
    return observed


def count_during(process: subprocess.Popen[bytes], records: Path, mode: str) -> Census | None:
    """Wait for the end of a run.

    Args:
        process: the command of the run, which gets the signal of `mode` in its operations.
        records: the operations of rank 0.
        mode: how the run is to end.

    Returns:
        What there was during the operations; None if there were none.
    """
    during: Census | None = None
    deadline = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        if during is None and records.exists() and records.stat().st_size:
            during = count()
            if mode in SIGNALS:
                process.send_signal(SIGNALS[mode])
    return during


def main(folder: Path, cases: list[str]) -> int:
    make_decoys()
    make_container()
    Path("/run/cache").mkdir()
    time.sleep(1)
    observed: dict[str, Any] = {}
    for case in cases:
        try:
            observed[case] = try_case(folder / case, case)
        except Exception:
            observed[case] = {"error": traceback.format_exc()}
        (folder / "result.json").write_text(json.dumps(observed, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
