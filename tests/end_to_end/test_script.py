"""The user's own scripts, unchanged, on two hosts 10 ms apart: what they see, what they write, what
is recorded.
"""

import importlib.util
import json
from collections import Counter
from itertools import product
from pathlib import Path

import polars as pl
import pytest

from tests.support.runs import Command, Folder, Need

# Buckets that DDP sends at once fill a queue of one bandwidth-delay product; drops are not the
# matter here.
ROOMY = ["--set", "topology.wan.west-east.queue=500 ms"]
STEPS = 4
LAYER = 4 * 500 * 500  # bytes of a layer's weights
TRAIN = f"""
import argparse, os, sys, time
import torch
import torch.distributed as dist
from model import build

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    arguments = parser.parse_args()
    dist.init_process_group()
    rank = dist.get_rank()
    host, local_rank = os.uname().nodename, os.environ["LOCAL_RANK"]
    print("lr", arguments.lr, "in", os.getcwd(), "on", host, "local", local_rank)
    model = torch.nn.parallel.DistributedDataParallel(build(), bucket_cap_mb=1.5)
    optimiser = torch.optim.SGD(model.parameters(), lr=arguments.lr)
    for step in range({STEPS}):
        optimiser.zero_grad()
        model(torch.ones(1, 500)).sum().backward()
        optimiser.step()
    torch.save(model.module.state_dict(), f"model-{{rank}}.pt")
    assert len(torch.load(f"model-{{rank}}.pt")) == 6
    pair = dist.new_group([0, dist.get_world_size() - 1])
    if rank in (0, dist.get_world_size() - 1):
        dist.all_reduce(torch.ones(3), group=pair)
    other = dist.get_world_size() - 1 - rank
    got = torch.empty(8)
    both = [dist.P2POp(dist.isend, torch.ones(8), other), dist.P2POp(dist.irecv, got, other)]
    for work in dist.batch_isend_irecv(both):
        work.wait()
    dist.barrier()
    dist.destroy_process_group()
    sys.exit(0)
"""
MODEL = "from torch.nn import Linear, Sequential\n\n\ndef build():\n"
MODEL += "    return Sequential(*(Linear(500, 500, bias=False) for _ in range(6)))\n"
SMALL = """
import sys
import torch
import torch.distributed as dist

dist.init_process_group()
for _ in range(6):
    dist.barrier()
    dist.all_reduce(torch.ones(1000))
print("arguments", sys.argv[1:])
"""
FAILING = """
import torch.distributed as dist

dist.init_process_group()
if dist.get_rank() == 1:
    print("about to fail")
    raise LookupError("no such batch")
print("still well")
dist.barrier()
"""
NAMES = """
import os
import socket
import time

# as scripts written for containers do
os.environ.update(GLOO_SOCKET_IFNAME="eth0", NCCL_SOCKET_IFNAME="eth0", TP_SOCKET_IFNAME="eth0")
import torch.distributed as dist
import extra

assert [name for _, name in socket.if_nameindex()] == ["lo", "eth0"]
peers = {"west-h0": "10.0.0.1", "east-h0": "10.1.0.1"}
me = socket.gethostname()
assert socket.gethostbyname(me) == peers[me]
assert {name: socket.gethostbyname(name) for name in peers} == peers
assert socket.gethostbyname("localhost") == "127.0.0.1"
assert socket.getfqdn(peers["east-h0"]) == "east-h0"
start = time.monotonic()
try:
    socket.gethostbyname("example.org")
    raise AssertionError("resolved")
except OSError:
    print("unknown after", time.monotonic() - start)
    assert time.monotonic() - start < 0.1
dist.init_process_group(init_method="tcp://west-h0:29600", rank=int(me == "east-h0"), world_size=2)
if me == "west-h0":  # as many servers do: an address of IPv6 that serves IPv4, too
    with socket.create_server(("::", 29700), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        dist.barrier()
        connection, address = server.accept()
        assert address[0] == "::ffff:10.1.0.1", address
else:
    dist.barrier()
    with socket.create_connection(("west-h0", 29700)) as connection:
        pass
dist.barrier()
print(extra.FOUND)
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder below /tmp, of which a guest has its own."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "train.py").write_text(TRAIN)
    (folder / "model.py").write_text(MODEL)
    (folder / "small.py").write_text(SMALL)
    (folder / "failing.py").write_text(FAILING)
    (folder / "names.py").write_text(NAMES)
    (folder / "more").mkdir()
    (folder / "more/extra.py").write_text("FOUND = 'found by PYTHONPATH'\n")
    return folder


def check_training(folder: Folder, ranks: int) -> None:
    """What every rank of train.py leaves behind."""
    assert folder.status["state"] == "completed"
    assert folder.status["faithful"], folder.status["warnings"]
    assert folder.summary["problems"] == []
    ops = folder.ops
    assert set(ops["phase"]) == {"script"}
    for rank in range(ranks):
        mine = ops.filter(pl.col("rank") == rank).sort("end_ns")
        reduced = mine.filter((pl.col("op") == "all_reduce") & (pl.col("bytes") > 12))[
            "bytes"
        ].to_list()
        assert reduced == [
            6 * LAYER,
            *([2 * LAYER] * 3 * (STEPS - 1)),
        ]  # three buckets, once DDP knows their order
        counts = Counter(mine["op"])
        in_pair = rank in (0, ranks - 1)
        assert (counts["send"], counts["recv"], counts["barrier"]) == (1, 1, 1)
        assert counts["all_reduce"] == len(reduced) + in_pair
        of_pair = mine.filter((pl.col("op") == "all_reduce") & (pl.col("bytes") == 12))
        assert of_pair["group_size"].to_list() == [2] * in_pair
    crossing = ops.filter((pl.col("op") == "all_reduce") & (pl.col("group_size") == ranks))
    two_one_way_trips_ns = 20_000_000
    assert min(crossing["end_ns"] - crossing["start_ns"]) >= two_one_way_trips_ns


def test_a_script(command: Command, pair: Path, scripts: Path, tmp_path: Path) -> None:
    words = [*ROOMY, "--isolation", "process", "--out", tmp_path / "run"]
    command("run", pair, *words, "--", scripts / "train.py", "--lr", "3e-4")
    folder = Folder(tmp_path / "run")
    check_training(folder, 2)
    for rank, host in enumerate(["west-h0", "east-h0"]):
        work = folder.path / "work" / host
        assert [file.name for file in work.iterdir()] == [f"model-{rank}.pt"]
        log = (folder.path / f"logs/rank-{rank}.log").read_text()
        assert f"lr 0.0003 in {work} on {host} local 0" in log
        assert "process groups time out after" in log
    assert folder.json("plan.json")["workers"]["settings"]["command"][1:] == ["--lr", "3e-4"]
    assert "train.py" in (folder.path / "spec.yaml").read_text()


def test_a_module_in_containers(
    command: Command, pair: Path, scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks on each host; the module lies in the folder where the command is given."""
    monkeypatch.chdir(scripts)
    words = [
        "run",
        pair,
        *ROOMY,
        "--nproc-per-host",
        2,
        "--out",
        tmp_path / "run",
        "--",
        "-m",
        "train",
        "--lr",
        "1e-3",
    ]
    command(*words)
    folder = Folder(tmp_path / "run")
    check_training(folder, 4)
    assert {file.name for file in (folder.path / "work/east-h0").iterdir()} == {
        "model-2.pt",
        "model-3.pt",
    }
    assert "on east-h0 local 1" in (folder.path / "logs/rank-3.log").read_text()


def test_torchrun_inside(command: Command, pair: Path, scripts: Path, tmp_path: Path) -> None:
    """Each host starts it once, as a module without options. Its ranks import torch by themselves,
    and are recorded all the same. The terminal shows what rank 0 prints, and the steps.
    """
    words = ["--isolation", "process", "--out", tmp_path / "run"]
    launcher = ["-m", "torch.distributed.run"]
    done = command("run", pair, *words, "--", *launcher, scripts / "small.py", "--lr", "1e-3")
    assert "rank 0: arguments ['--lr', '1e-3']" in done.stderr
    assert "s on the run's clock" in done.stderr
    assert "A step of 2 operations takes" in done.stdout
    folder = Folder(tmp_path / "run")
    assert folder.status["faithful"], folder.status["warnings"]
    assert folder.summary["problems"] == []
    reduced = folder.ops.filter(pl.col("op") == "all_reduce").sort("rank", "iteration")
    rows = reduced.select("rank", "bytes", "phase", "iteration").rows()
    assert rows == [(rank, 4000, "script", number) for rank, number in product((0, 1), range(6))]
    assert folder.ops.height == 2 * reduced.height  # as many barriers
    # As in test_two_hosts.py, where `collectives` takes the times around its calls: four one-way
    # trips.
    assert (reduced["end_ns"] - reduced["start_ns"]).median() == pytest.approx(40.05e6, rel=0.015)
    assert "arguments ['--lr', '1e-3']" in (folder.path / "logs/rank-1.log").read_text()
    exits = [
        json.loads(line) for line in (folder.path / "raw/exits.jsonl").read_text().splitlines()
    ]
    assert sorted((exit["rank"], exit["status"]) for exit in exits) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("isolation", ["process", "container"])
def test_names_sockets_and_modules(
    command: Command, pair: Path, scripts: Path, tmp_path: Path, isolation: str
) -> None:
    """Hosts find each other by name, serve IPv4 on addresses of IPv6, and modules on a PYTHONPATH
    of the user's.
    """
    more = scripts / "more"
    words = [
        "--isolation",
        isolation,
        "--readable",
        more,
        "--env",
        f"PYTHONPATH={more}",
        "--out",
        tmp_path / "run",
    ]
    command("run", pair, *words, "--", scripts / "names.py")
    folder = Folder(tmp_path / "run")
    assert folder.status["faithful"], folder.status["warnings"]
    assert (folder.path / "logs/rank-1.log").read_text().splitlines()[-1] == "found by PYTHONPATH"


def test_a_failing_script(command: Command, pair: Path, scripts: Path, tmp_path: Path) -> None:
    """The message has the script's own traceback, and what the others printed is kept."""
    words = [
        "run",
        pair,
        "--isolation",
        "process",
        "--out",
        tmp_path / "run",
        "--",
        scripts / "failing.py",
    ]
    said = command(*words, status=1).stderr
    assert "rank 1 on east-h0 exited with 1" in said
    assert f'File "{scripts}/failing.py", line 7, in <module>' in said
    assert "LookupError: no such batch" in said
    assert "runpy" not in said
    folder = Folder(tmp_path / "run")
    assert folder.status["state"] == "failed"
    assert "about to fail" in (folder.path / "logs/rank-1.log").read_text()
    assert "still well" in (folder.path / "logs/rank-0.log").read_text()


def test_a_script_without_memory(
    command: Command, pair: Path, scripts: Path, tmp_path: Path
) -> None:
    (scripts / "greedy.py").write_text("import torch\ntorch.ones(100_000_000)\n")
    words = ["--isolation", "process", "--memory", "200 MiB", "--out", tmp_path / "run"]
    said = command("run", pair, *words, "--", scripts / "greedy.py", status=1).stderr
    assert "was ended by signal 9: out of memory (the limit of a host is 200 MiB)" in said
    assert "raise it with --memory" in said


@pytest.mark.parametrize(
    "name", ["test_sync", pytest.param("test_script", marks=pytest.mark.proof)]
)
def test_scripts_of_others(
    name: str, need: Need, command: Command, pair: Path, tmp_path: Path
) -> None:
    """Of Hugging Face Accelerate, as installed: they train under DDP, and compare the result with
    one process's.

    The second one expects a file that one rank writes to be there for the other.
    """
    found = importlib.util.find_spec("accelerate")
    need(found, "the Python package accelerate")
    script = Path(found.origin).parent / f"test_utils/scripts/{name}.py"  # type: ignore[union-attr, arg-type]
    words = ["--isolation", "process", "--shared-folder", "--env", "ACCELERATE_USE_CPU=true"]
    command("run", pair, *words, "--out", tmp_path / "run", "--", script, timeout_s=600)
    folder = Folder(tmp_path / "run")
    assert folder.status["state"] == "completed"
    reduced = folder.ops.filter((pl.col("op") == "all_reduce") & (pl.col("group_size") == 2))
    assert (
        reduced.filter(pl.col("rank") == 0).height == reduced.filter(pl.col("rank") == 1).height > 0
    )


RPC = """
import os, time
import torch
import torch.distributed.rpc as rpc

rank = int(os.environ["RANK"])
rpc.init_rpc(f"worker{rank}", rank=rank, world_size=2)
if rank == 0:
    for _ in range(5):
        rpc.rpc_sync("worker1", torch.add, args=(torch.ones(4), 1))
    for _ in range(5):
        began = time.monotonic()
        rpc.rpc_sync("worker1", torch.add, args=(torch.ones(4), 1))
        print("call", time.monotonic() - began)
rpc.shutdown()
if rank == 0:
    time.sleep(1)  # its store ends with it, and the other rank still reads
"""


@pytest.mark.parametrize("words", [[], ["python"]])
def test_rpc(command: Command, pair: Path, words: list[str], tmp_path: Path) -> None:
    """A call with a small tensor takes one round trip of 20 ms, in a rank and in a command."""
    script = tmp_path / "remote.py"
    script.write_text(RPC)
    out = tmp_path / "run"
    command("run", pair, "--isolation", "process", "--out", out, "--", *words, script)
    folder = Folder(out)
    assert folder.status["faithful"], folder.status
    log = (out / "logs/rank-0.log").read_text()
    calls_s = [float(line.split()[1]) for line in log.splitlines() if line.startswith("call ")]
    assert len(calls_s) == 5
    assert all(0.02 <= call_s < 0.0215 for call_s in calls_s), calls_s
