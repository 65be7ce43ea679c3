"""What the options of launchers come to: ranks, hosts, filled-in options, and what is refused."""

from pathlib import Path

import pytest
from testbed.workloads.script.host_programs import HOST_FILE
from testbed.workloads.script.launchers import Launch, launch_of
from testbed.workloads.script.settings import Script

from testbed.core.errors import InputError
from testbed.core.units import UnitError
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.spec.topology import Topology

HOSTS = {"west-h0": "10.0.0.1", "east-h0": "10.1.0.1"}


def launched(text: str) -> Launch:
    launch = launch_of(text.split())
    assert launch is not None
    return launch


def planned(text: str, **settings: object) -> Plan:
    """The plan on two sites with two hosts each."""
    script = Script.model_validate({"command": text.split(), **settings})
    return resolve(Topology.load("two-sites"), script, machine_memory_bytes=2**40)


@pytest.mark.parametrize(
    "text",
    [
        "env A=1",
        "env A=1 python x.py",
        "train.py",
        "-m json.tool",
        "sh -c ls",
        "python train.py",
        "python -u -m json.tool",
        "ls",
    ],
)
def test_no_launcher(text: str) -> None:
    assert launch_of(text.split()) is None


@pytest.mark.parametrize(
    "text",
    [
        "torchrun x.py",
        "/venv/bin/torchrun --max-restarts 3 x.py",
        "-m torch.distributed.run x.py",
        "-m torch.distributed.launch x.py",
        "-m torch.distributed.launch --use_env x.py",
        "python -m torch.distributed.run x.py",
        "python3.11 -u -X dev -m torch.distributed.run -- x.py",
        "python -u /venv/bin/torchrun x.py",
        "env OMP_NUM_THREADS=1 nohup torchrun x.py",
        "env A=1 B=2 python -m torch.distributed.run x.py",
    ],
)
def test_torchrun_runs_once_on_each_host(text: str) -> None:
    launch = launched(text)
    assert launch.words[-1] == "x.py"
    assert (launch.ranks_per_host, launch.hosts, launch.separate) == (None, None, "")
    assert not launch.from_first_host
    launch.check_hosts(HOSTS)
    plan = planned(text)
    assert (len(plan.workers.ranks), len(plan.workers.processes)) == (4, 4)
    assert (plan.workers.once_per_host, plan.workers.remote_shells) == (True, False)
    assert plan.workers.settings["kind"] == "command"


@pytest.mark.parametrize(
    "option",
    [
        "--nproc-per-node 2",
        "--nproc_per_node=2",
        "--nproc-per-node=2",
        "--nproc_per 2",
        "--nproc 2",
    ],
)
def test_ranks_per_host_are_those_of_torchrun(option: str) -> None:
    plan = planned(f"torchrun --nnodes 4 {option} -r 3 x.py --nproc-per-node 7")
    assert len(plan.workers.ranks) == 8
    assert plan.workers.settings["ranks_per_host"] == 2
    with pytest.raises(InputError, match="would start 2 ranks on each host, but the run has 3"):
        planned(f"torchrun {option} x.py", ranks_per_host=3)


@pytest.mark.parametrize("device", ["auto", "gpu", "cpu"])
def test_a_rank_for_each_device(device: str) -> None:
    """A host has as many devices as the run has ranks on a host."""
    for option in (f"--nproc-per-node={device}", f"--nproc_per_node {device}"):
        launch = launched(f"torchrun {option} x.py")
        (place,) = launch.added
        assert launch.words[place:] == ("$TESTBED_RANKS_PER_HOST", "x.py")
        assert launch.words[place - 1].startswith("--nproc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchrun --standalone x.py", "with --standalone, torchrun would start a separate job"),
        ("-m torch.distributed.run --standalone x.py", "with --standalone, python -m torch"),
        ("env A=1 torchrun --standalone x.py", "with --standalone, torchrun would start"),
        ("torchrun --stand --nproc_per_node 2 x.py", "with --standalone"),
        ("torchrun --nnodes 1 x.py", "torchrun asks for 1 host, but the topology has 2"),
        ("torchrun --nnodes=3:4 x.py", "asks for 3 to 4 hosts, but the topology has 2"),
        ("torchrun --node-rank 0 x.py", "with --node-rank 0, torchrun would start a separate job"),
        ("torchrun --master-addr 127.0.0.1 x.py", "the master of torchrun is 127.0.0.1, which the"),
        ("torchrun --master_addr=localhost x.py", "the master of torchrun is localhost"),
        ("torchrun --master_addr node7 x.py", "the master of torchrun is node7"),
        ("torchrun --master_addr east-h0 x.py", "is east-h0, but node 0 is west-h0"),
        ("torchrun --rdzv-backend c10d --rdzv-endpoint localhost:0 x.py", "is localhost, which"),
        ("accelerate launch --num_machines 3 x.py", "asks for 3 hosts"),
        ("accelerate launch --machine_rank 0 x.py", "with --machine_rank 0"),
        ("accelerate launch --num_processes 3 x.py", "which 2 hosts cannot share"),
        ("accelerate-launch --main_process_ip 127.0.0.1 x.py", "the master of accelerate launch"),
        ("deepspeed --no_ssh --node_rank 0 x.py", "with --node_rank 0, deepspeed"),
    ],
)
def test_separate_jobs_are_refused(text: str, message: str) -> None:
    with pytest.raises(UnitError, match=message):
        launched(text).check_hosts(HOSTS)


@pytest.mark.parametrize(
    "text",
    [
        "torchrun --nnodes 2 x.py",
        "torchrun --nnodes 1:4 --max-restarts 3 x.py",
        "torchrun --master-addr west-h0 --master-port 1234 x.py",
        "torchrun --master-addr 10.0.0.1 x.py",
        "torchrun --rdzv-backend c10d --rdzv-endpoint east-h0:29400 --rdzv-id 7 x.py",
        "torchrun --rdzv-backend c10d --node-rank 0 x.py",
        "torchrun x.py --standalone --nnodes 7",
        "mpirun -np 3 python x.py",
    ],
)
def test_jobs_of_all_hosts_are_accepted(text: str) -> None:
    launched(text).check_hosts(HOSTS)


def test_one_host_may_be_alone() -> None:
    text = "torchrun --standalone --nnodes 1 --node-rank 0 --master-addr localhost x.py"
    launched(text).check_hosts({"west-h0": "10.0.0.1"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchrun --nnodes two x.py", "--nnodes: 'two' is not a number"),
        ("torchrun --nproc-per-node 0 x.py", "--nproc-per-node: '0' is not a number of ranks"),
        ("accelerate launch --config_file none.yaml x.py", "cannot read none.yaml"),
    ],
)
def test_wrong_values(text: str, message: str) -> None:
    with pytest.raises(UnitError, match=message):
        launch_of(text.split())


def test_rendezvous_without_an_endpoint() -> None:
    launch = launched("torchrun --rdzv-backend c10d x.py")
    assert launch.environment == {
        "PET_RDZV_ENDPOINT": "$TESTBED_MASTER:$TESTBED_MASTER_PORT",
    }


def test_a_module_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's module lies where the command is given, so hosts must see and find that folder."""
    monkeypatch.chdir(tmp_path)
    script = Script(command=["torchrun", "-m", "package.train"])
    program = script.program()
    assert (program.kind, program.folder, program.readable) == ("command", tmp_path, (tmp_path,))


def test_accelerate_is_filled_in() -> None:
    plan = planned("accelerate launch --mixed_precision no x.py --num_machines 9", ranks_per_host=2)
    settings = plan.workers.settings
    command = settings["command"]
    assert command[:2] == ["accelerate", "launch"]
    added = [command[place] for place in settings["added"]]
    assert added == [
        *("--num_machines", "$TESTBED_NODES"),
        *("--machine_rank", "$TESTBED_NODE_RANK"),
        *("--num_processes", "$TESTBED_RANKS"),
        *("--main_process_ip", "$TESTBED_MASTER"),
        *("--main_process_port", "$TESTBED_MASTER_PORT"),
        "--multi_gpu",
    ]
    assert command[-5:] == ["--mixed_precision", "no", "x.py", "--num_machines", "9"]
    assert settings["environment"] == {"ACCELERATE_USE_CPU": "true"}


def test_accelerate_with_options_of_the_users(tmp_path: Path) -> None:
    launch = launched("accelerate launch --cpu --num_processes=8 --use_fsdp x.py --cpu")
    assert "--multi_gpu" not in launch.words
    assert launch.words[-3:] == ("--use_fsdp", "x.py", "--cpu")
    assert launch.ranks_on_each(4) == 2
    config = tmp_path / "config.yaml"
    config.write_text("num_machines: 2\nnum_processes: 4\ndistributed_type: FSDP\n")
    launch = launched(f"accelerate launch --config_file {config} x.py")
    assert "--multi_gpu" not in launch.words
    assert (launch.hosts, launch.ranks) == ((2, 2), 4)


def test_accelerate_with_a_single_rank() -> None:
    """accelerate refuses --multi_gpu with one rank."""
    script = Script(command=["accelerate", "launch", "x.py"])
    assert script.settings(1)["command"] == ["accelerate", "launch", "x.py"]
    assert script.settings(1)["environment"] == {}


@pytest.mark.parametrize("launcher", ["mpirun", "/opt/mpi/bin/mpiexec", "mpiexec.hydra"])
def test_mpi_starts_from_the_first_host(launcher: str) -> None:
    plan = planned(f"{launcher} -np 8 python x.py")
    workers = plan.workers
    assert (len(workers.ranks), [rank.rank for rank in workers.processes]) == (8, [0])
    assert (workers.from_first_host, workers.remote_shells) == (True, True)
    assert len(planned(f"{launcher} python x.py").workers.ranks) == 4
    assert len(planned(f"{launcher} -np 5 python x.py").workers.ranks) == 8


def test_deepspeed_gets_the_hosts() -> None:
    launch = launched("deepspeed --num_gpus 2 x.py")
    assert launch.words[1:5] == ("--hostfile", str(HOST_FILE), "--master_addr", "$TESTBED_MASTER")
    assert (launch.from_first_host, launch.ranks_per_host) == (True, 2)
    own = launched("deepspeed -H hosts --master_addr west-h0 --no_ssh x.py")
    assert own.words[1:3] == ("--node_rank", "$TESTBED_NODE_RANK")
    assert not own.from_first_host


def test_any_command_may_reach_other_hosts() -> None:
    workers = planned("sh -c ls").workers
    assert (workers.remote_shells, workers.from_first_host) == (True, False)
    assert len(workers.processes) == 4
