"""Launchers of a user's command: what their options mean for a run, and what hosts fill in.

On a cluster somebody starts a launcher on every node with the node's rank and the master's address,
or on one node with a list of nodes. The testbed does this for the launchers of this module, and
refuses options with which every host would start a separate job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import yaml
from testbed.workloads.script.command_line import LauncherOptions, read_options
from testbed.workloads.script.host_programs import HOST_FILE

from testbed.core.units import UnitError

PYTHON = re.compile(r"(.*/)?python[0-9.]*")
PYTHON_FLAGS_WITH_VALUE = ("-X", "-W")
TORCHRUN_MODULES = ("torch.distributed.run", "torch.distributed.launch")
ACCELERATE_TOOLS = ("accelerate", "accelerate.commands.accelerate_cli")  # launch is their command
ACCELERATE = ("accelerate-launch", "accelerate.commands.launch")
WRAPPERS = ("env", "nohup")
DEEPSPEED_MODULES = ("deepspeed.launcher.runner",)
MPI = ("mpirun", "mpiexec", "mpiexec.hydra", "mpirun.openmpi", "mpirun.mpich", "orterun", "prterun")
# Programs that one node starts for all nodes.
FROM_ONE_NODE = ("horovodrun", "pdsh", "ssh", "rsh", "pssh", "parallel-ssh", "clush")

TORCHRUN_FLAGS = ("standalone", "module", "no-python", "run-path", "use-env", "virtual-local-rank")
TORCHRUN_VALUES = (
    "nnodes",
    "nproc-per-node",
    "node-rank",
    "master-addr",
    "master-port",
    "rdzv-backend",
    "rdzv-endpoint",
    "rdzv-id",
    "rdzv-conf",
    "max-restarts",
    "monitor-interval",
    "start-method",
    "event-log-handler",
    "role",
    "log-dir",
    "redirects",
    "tee",
    "local-ranks-filter",
    "duplicate-stdout-filters",
    "duplicate-stderr-filters",
    "local-addr",
    "logs-specs",
    "numa-binding",
    "signals-to-handle",
    "shutdown-timeout",
)
TORCHRUN_SHORT = {"m": "module", "r": "redirects", "t": "tee"}
ACCELERATE_FLAGS = (
    "cpu",
    "debug",
    "downcast-bf16",
    "dynamo-use-dynamic",
    "dynamo-use-fullgraph",
    "dynamo-use-regional-compilation",
    "enable-cpu-affinity",
    "fp8-use-autocast-during-eval",
    "module",
    "multi-gpu",
    "no-python",
    "no-tpu-cluster",
    "quiet",
    "same-network",
    "tpu",
    "tpu-cluster",
    "tpu-use-sudo",
    "use-deepspeed",
    "use-fsdp",
    "use-megatron-lm",
    "use-parallelism-config",
)
DEEPSPEED_FLAGS = (
    "module",
    "no-python",
    "no-local-rank",
    "no-ssh",
    "no-ssh-check",
    "force-multi",
    "save-pid",
    "elastic-training",
    "bind-cores-to-rank",
)
DEVICES = ("auto", "cpu", "gpu", "cuda")
# Types of accelerate's configuration file for which torchrun is to start plain ranks.
PLAIN_TYPES = ("NO", "MULTI_CPU", "MULTI_GPU")


@dataclass(frozen=True)
class Launch:
    """How the testbed starts a launcher.

    Attributes:
        name: name of the launcher for people.
        words: the command; a name of an environment variable with ``$`` in an added word is
            replaced by the host's value.
        added: positions of the added words.
        environment: additional environment variables, whose values may name others with ``$``.
        ranks_per_host: ranks of each host that the options ask for; None: not given.
        ranks: ranks of all hosts that the options ask for; None: not given.
        hosts: least and largest number of hosts that the options ask for; None: not given.
        master: name or address of the master in the options; None: not given.
        any_master: whether the master may be any host, not only the first.
        separate: the option with which every host starts a separate job; empty: none.
        from_first_host: whether only the first host starts the launcher, which reaches the others.
        is_module: whether the launcher runs a module, which may be in the working folder.
        only_for_several_ranks: whether words are added only if the run has several ranks.
    """

    name: str
    words: tuple[str, ...]
    added: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ranks_per_host: int | None = None
    ranks: int | None = None
    hosts: tuple[int, int] | None = None
    master: str | None = None
    any_master: bool = False
    separate: str = ""
    from_first_host: bool = False
    is_module: bool = False
    only_for_several_ranks: bool = False

    def ranks_on_each(self, hosts: int) -> int | None:
        """Return the ranks of each host that the options ask for; None: not given.

        Args:
            hosts: number of hosts of the run.
        """
        if self.ranks_per_host is not None or self.ranks is None:
            return self.ranks_per_host

        return -(-self.ranks // hosts)

    def check_hosts(self, addresses: Mapping[str, str]) -> None:
        """Check that the options fit the hosts of a run.

        Args:
            addresses: the address of each host, by name, in the order of ranks.

        Raises:
            UnitError: hosts would start separate jobs, or wait for a host that does not exist.
        """
        count = len(addresses)
        if self.hosts is not None and not self.hosts[0] <= count <= self.hosts[1]:
            raise UnitError(
                f"{self.name} asks for {_count(self.hosts)}, but the topology has {count}",
                "leave the number of hosts out: the testbed fills it in",
            )

        if self.same_on_all_hosts and self.ranks is not None and self.ranks % count:
            raise UnitError(
                f"{self.name} would start {self.ranks} ranks, which {count} hosts cannot share "
                "equally",
                f"use a multiple of {count}, or leave the number out and use --nproc-per-host",
            )

        if count == 1:
            return

        if self.separate:
            raise UnitError(
                f"with {self.separate}, {self.name} would start a separate job on each of the "
                f"{count} hosts",
                f"leave {self.separate} out: the testbed fills in the hosts and the node ranks",
            )

        if self.master is not None:
            self._check_master(self.master, addresses)

    @property
    def same_on_all_hosts(self) -> bool:
        """Whether every host starts the launcher, with the same number of ranks."""
        return not self.from_first_host

    def _check_master(self, master: str, addresses: Mapping[str, str]) -> None:
        first, *others = addresses
        is_first = master in (first, addresses[first])
        is_other = master in others or master in [addresses[name] for name in others]
        if is_first or (is_other and self.any_master):
            return

        if is_other:
            raise UnitError(
                f"the master of {self.name} is {master}, but node 0 is {first}",
                f"leave the master out, or use {first}",
            )

        raise UnitError(
            f"the master of {self.name} is {master}, which the other hosts cannot reach",
            f"leave the master out, or use {first}",
        )


def launch_of(command: Sequence[str]) -> Launch | None:
    """Return how to start a command that is a launcher, otherwise None.

    Args:
        command: the words after ``--``, which may begin with ``-m``.

    Raises:
        UnitError: an option of the launcher is wrong.
    """
    words, name, start = _program(command)
    if name == "torchrun" or name in TORCHRUN_MODULES:
        return _torchrun(name, words, start)

    if name in ACCELERATE:
        return _accelerate(words, start)

    if name == "deepspeed" or name in DEEPSPEED_MODULES:
        return _deepspeed(words, start)

    if name in MPI:
        return _mpirun(name, words, start)

    return Launch(name, words, from_first_host=True) if name in FROM_ONE_NODE else None


def _program(command: Sequence[str]) -> tuple[tuple[str, ...], str, int]:
    """Return a command, the name of its program or module, and the position after the name."""
    words = tuple(command)
    if words[0] == "-m":
        words = ("python3", *words)

    first = _after_wrappers(words)
    if first == len(words):
        return words, "", first

    if PYTHON.fullmatch(words[first]) is None:
        return _command_of_tool(words, Path(words[first]).name, first + 1)

    position = first + 1
    while position + 1 < len(words) and words[position].startswith("-"):
        if words[position] == "-m":
            return _command_of_tool(words, words[position + 1], position + 2)

        position += 2 if words[position] in PYTHON_FLAGS_WITH_VALUE else 1

    if position == len(words):
        return words, "", position

    return _command_of_tool(words, Path(words[position]).name, position + 1)


def _after_wrappers(words: Sequence[str]) -> int:
    """Return the position of the program that `env` with variables, or `nohup`, starts."""
    position = 0
    while position < len(words) and Path(words[position]).name in WRAPPERS:
        position += 1
        while position < len(words) and "=" in words[position]:
            position += 1

    return position


def _command_of_tool(
    words: tuple[str, ...], name: str, start: int
) -> tuple[tuple[str, ...], str, int]:
    """Return what `_program` returns, for ``accelerate launch`` as for ``accelerate-launch``."""
    if name in ACCELERATE_TOOLS and words[start : start + 1] == ("launch",):
        return words, ACCELERATE[0], start + 1

    return words, name, start


def _torchrun(name: str, words: tuple[str, ...], start: int) -> Launch:
    options = read_options(
        words, start, flags=TORCHRUN_FLAGS, known=TORCHRUN_VALUES, short=TORCHRUN_SHORT
    )
    values = options.values
    backend = values.get("rdzv-backend", "static")
    endpoint = values.get("rdzv-endpoint")
    environment: dict[str, str] = {}
    if backend != "static" and endpoint is None:
        environment["PET_RDZV_ENDPOINT"] = "$TESTBED_MASTER:$TESTBED_MASTER_PORT"

    master = values.get("master-addr") if backend == "static" else None
    if endpoint:
        master = endpoint.rpartition(":")[0] or endpoint

    separate = ""
    if "standalone" in options:
        separate = "--standalone"
    elif "node-rank" in options and backend == "static":
        separate = f"--node-rank {values['node-rank']}"

    added: tuple[int, ...] = ()
    per_node = values.get("nproc-per-node")
    if per_node in DEVICES:
        words, place = _with_value(words, options, "nproc-per-node", "$TESTBED_RANKS_PER_HOST")
        added = (place,)
        per_node = None

    return Launch(
        "torchrun" if name == "torchrun" else f"python -m {name}",
        words,
        added=added,
        environment=environment,
        ranks_per_host=_whole(per_node, "--nproc-per-node"),
        hosts=_hosts(values.get("nnodes")),
        master=master,
        any_master=backend != "static",
        separate=separate,
        is_module="module" in options,
    )


def _with_value(
    words: tuple[str, ...], options: LauncherOptions, name: str, value: str
) -> tuple[tuple[str, ...], int]:
    """Return words with another value of an option, and the position of the value."""
    place = options.places[name]
    written, has_value, _old = words[place].partition("=")
    before = words[:place]
    value_place = place + 1
    rest_place = value_place if has_value else value_place + 1
    rest = words[rest_place:]
    return (*before, written, value, *rest), value_place


def _hosts(nnodes: str | None) -> tuple[int, int] | None:
    """Return the least and the largest number of hosts of ``--nnodes``."""
    if nnodes is None:
        return None

    numbers = nnodes.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise UnitError(f"--nnodes: {nnodes!r} is not a number", "use 2 or 1:2, or leave it out")

    return int(numbers[0]), int(numbers[-1])


def _whole(value: str | None, option: str) -> int | None:
    if value is None:
        return None

    if not value.isdecimal() or int(value) == 0:
        raise UnitError(
            f"{option}: {value!r} is not a number of ranks", "use a whole number from 1, such as 2"
        )

    return int(value)


def _accelerate(words: tuple[str, ...], start: int) -> Launch:
    options = read_options(
        words,
        start,
        flags=ACCELERATE_FLAGS,
        known=(
            "num-machines",
            "num-processes",
            "machine-rank",
            "main-process-ip",
            "main-process-port",
        ),
        short={"m": "module", "q": "quiet", "t": "tee"},
    )
    config = _accelerate_config(options.values.get("config-file"))
    given = {**config, **options.values}
    hosts = _whole(given.get("num-machines"), "--num_machines")
    ranks = _whole(given.get("num-processes"), "--num_processes")
    environment: dict[str, str] = {}
    filled = {
        "num-machines": "$TESTBED_NODES",
        "machine-rank": "$TESTBED_NODE_RANK",
        "num-processes": "$TESTBED_RANKS",
        "main-process-ip": "$TESTBED_MASTER",
        "main-process-port": "$TESTBED_MASTER_PORT",
    }
    added_words: list[str] = []
    for name, value in filled.items():
        if name not in options.values:
            added_words += [f"--{name.replace('-', '_')}", value]

    special = {"use-fsdp", "use-deepspeed", "use-megatron-lm", "tpu", "multi-gpu"}
    is_plain = given.get("distributed-type", "NO") in PLAIN_TYPES
    if is_plain and not special & options.flags:
        # accelerate starts several ranks on CPUs as it does on GPUs, by torchrun
        added_words.append("--multi_gpu")
        environment["ACCELERATE_USE_CPU"] = "true"

    kept = list(words[start : options.end])
    if "cpu" in options.flags:  # contradicts --multi_gpu
        kept.remove("--cpu")

    separate = ""
    if "machine-rank" in options:
        separate = f"--machine_rank {options.values['machine-rank']}"

    return Launch(
        "accelerate launch",
        (*words[:start], *added_words, *kept, *words[options.end :]),
        added=tuple(range(start, start + len(added_words))),
        environment=environment,
        ranks=ranks,
        hosts=None if hosts is None else (hosts, hosts),
        master=options.values.get("main-process-ip"),
        separate=separate,
        is_module="module" in options,
        only_for_several_ranks=True,
    )


def _accelerate_config(path: str | None) -> dict[str, str]:
    """Return the values of a configuration file of accelerate that concern the hosts."""
    if path is None:
        return {}

    try:
        document = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UnitError(f"cannot read {path}: {error}", "check --config_file") from error
    except yaml.YAMLError as error:
        raise UnitError(f"{path} is not valid YAML", "check --config_file") from error

    if not isinstance(document, dict):
        return {}

    values = {}
    for name in ("num_machines", "num_processes", "distributed_type"):
        if name in document:
            values[name.replace("_", "-")] = str(document[name])

    return values


def _deepspeed(words: tuple[str, ...], start: int) -> Launch:
    options = read_options(
        words,
        start,
        flags=DEEPSPEED_FLAGS,
        known=("hostfile", "num-nodes", "num-gpus", "master-addr", "master-port", "node-rank"),
        short={"H": "hostfile", "i": "include", "e": "exclude"},
    )
    added_words: list[str] = []
    if "hostfile" not in options:
        added_words += ["--hostfile", str(HOST_FILE)]
    if "master-addr" not in options:
        added_words += ["--master_addr", "$TESTBED_MASTER"]

    from_first_host = "no-ssh" not in options
    if not from_first_host and "node-rank" not in options:
        added_words += ["--node_rank", "$TESTBED_NODE_RANK"]

    separate = ""
    if not from_first_host and "node-rank" in options:
        separate = f"--node_rank {options.values['node-rank']}"

    return Launch(
        "deepspeed",
        (*words[:start], *added_words, *words[start:]),
        added=tuple(range(start, start + len(added_words))),
        ranks_per_host=_whole(options.values.get("num-gpus"), "--num_gpus"),
        master=options.values.get("master-addr"),
        separate=separate,
        from_first_host=from_first_host,
        is_module="module" in options,
    )


def _mpirun(name: str, words: tuple[str, ...], start: int) -> Launch:
    return Launch(
        name,
        words,
        ranks=_number_after(words[start:], ("-np", "-n", "--np", "--n", "-c")),
        ranks_per_host=_number_after(words[start:], ("-N", "-npernode", "--npernode", "-ppn")),
        from_first_host=True,
    )


def _number_after(words: Sequence[str], options: Sequence[str]) -> int | None:
    """Return the number after the first of `options`; None: there is none."""
    for option, value in pairwise(words):
        if option in options and value.isdecimal():
            return max(1, int(value))

    return None


def _count(hosts: tuple[int, int]) -> str:
    least, most = hosts
    if least == most:
        return "1 host" if least == 1 else f"{least} hosts"

    return f"{least} to {most} hosts"
