"""In a guest on the real clock: run the testbed `here`, beside things that belong to others, and
count what is left.

usage: here.py FOLDER CASE ...    a CASE is ISOLATION-MODE; MODE: complete, change, interrupt, kill
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

import docker

sys.path.append(str(Path(__file__).parents[3]))
from tests.support.census import census

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
JOB = [
    "--where",
    "here",
    "--set",
    "workload.ops=[all_reduce]",
    "--set",
    "workload.sizes=[4 KiB, 256 KiB]",
]
LONGEST_S = 240
SOCKET = "/run/docker.sock"
LAB = Path("/run/lab")
USERLAND = ("bin", "lib", "lib64", "usr")


def make_decoys() -> None:
    """A bridge, a link with a queue, a named namespace, a control group with a process that looks
    like a rank.
    """
    for words in (
        "ip link add testbed-br type bridge",
        "ip link set testbed-br up",
        "ip netns add testbed-lab",
        "ip link add d0h0-eth0 type dummy",
        "tc qdisc add dev d0h0-eth0 root netem delay 7ms",
    ):
        subprocess.run(words.split(), check=True)
    group = Path("/sys/fs/cgroup/testbed-1-abc")
    group.mkdir()
    rank = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; time.sleep(9999)",
            "testbed.execution.inside",
            "mininet:h0",
        ]
    )
    (group / "cgroup.procs").write_text(str(rank.pid))
    Path("/run/testbed-other").mkdir()
    Path("/run/mount").mkdir(exist_ok=True)  # of util-linux, on every machine that has been booted


def make_container() -> None:
    """Somebody else's Docker daemon, with a container that runs and has the names that the testbed
    uses.
    """
    skeleton = LAB / "root"
    for name in (*USERLAND, "etc", "dev", "proc", "sys"):
        (skeleton / name).mkdir(parents=True)
    options = [
        "--bridge",
        "none",
        "--iptables=false",
        "--ip6tables=false",
        "--data-root",
        str(LAB / "data"),
    ]
    with (LAB / "log").open("w") as log:
        daemon = subprocess.Popen(
            ["dockerd", *options, "--storage-driver", "overlay2"], stdout=log, stderr=log
        )
    while not Path(SOCKET).exists():
        assert daemon.poll() is None, (LAB / "log").read_text()[-2000:]
        time.sleep(0.1)
    client = docker.DockerClient(base_url=f"unix://{SOCKET}", version="1.41")
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


def counted() -> dict[str, list[str]]:
    return census(docker=SOCKET)


def try_case(folder: Path, case: str) -> dict:
    isolation, mode = case.split("-")
    folder.mkdir()
    topology = folder / "pair.yaml"
    topology.write_text(TOPOLOGY + CHANGES * (mode == "change"))
    environment = {**os.environ, "TESTBED_CACHE": "/run/cache", "COLUMNS": "200"}
    iterations = {"complete": 2, "change": 20}.get(mode, 1_000_000)
    testbed = [sys.executable, "-m", "testbed"]
    run = [*testbed, "run", str(topology), "collectives", *JOB, "--isolation", isolation]
    run += ["--set", f"workload.iterations={iterations}", "--out", str(folder / "run")]
    found: dict = {"before": counted(), "during": None}
    records, deadline = folder / "run/raw/ops-0.jsonl", time.monotonic() + LONGEST_S
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            ["env", "--default-signal=INT", *run], env=environment, stdout=out, stderr=err
        )
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if found["during"] is None and records.exists() and records.stat().st_size:
                found["during"] = counted()
                if mode in ("interrupt", "kill"):
                    process.send_signal(signal.SIGINT if mode == "interrupt" else signal.SIGKILL)
        process.kill()
        found["status"] = process.wait()
    if mode == "kill":
        time.sleep(1)
        found["killed"] = counted()
        subprocess.run(
            [*testbed, "topo", "list"], env=environment, check=True, stdout=subprocess.DEVNULL
        )
    found["after"] = counted()
    return found


def main(folder: Path, cases: list[str]) -> int:
    make_decoys()
    make_container()
    Path("/run/cache").mkdir()
    time.sleep(1)
    found = {}
    for case in cases:
        try:
            found[case] = try_case(folder / case, case)
        except Exception:
            found[case] = {"error": traceback.format_exc()}
        (folder / "result.json").write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
