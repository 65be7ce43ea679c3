"""Offer the backend "nccl" to torch.distributed; native/backend.cpp is the backend."""

from __future__ import annotations

import atexit
import functools
import importlib.machinery
import importlib.util
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from testbed.runfolder.records import GLOO
from testbed.workers.gpu.device_library import (
    CARD_RATE,
    COMMUNICATION,
    LIBRARIES,
    SCALE,
    gpu_figures,
)

MODULE = "testbed_nccl"
DEFAULT_TIMEOUT = timedelta(minutes=10)  # torch's for NCCL
# As NCCL: two channels between hosts, buffers of 4 MiB, and one socket of one thread, unless the
# PCI identity of a cloud's network card asks for more, which an emulated card does not have.
CHANNELS = 2
BUFFER_BYTES = 4 * 2**20
HONOURED = (
    "NCCL_MIN_NCHANNELS",
    "NCCL_MAX_NCHANNELS",
    "NCCL_MIN_CTAS",
    "NCCL_MAX_CTAS",
    "NCCL_BUFFSIZE",
    "NCCL_SOCKET_NTHREADS",
    "NCCL_NSOCKS_PERTHREAD",
    "NCCL_ALGO",
    "NCCL_PROTO",
)
ALGORITHMS = ("ring", "tree")
PROTOCOLS = ("ll", "simple")  # LL128 needs more of the way to a network card than sockets give
CARD_BPS = 10**10  # of a network card whose rate is not known
HOSTS = "TESTBED_HOSTS"  # the host of each rank
WITHOUT_EFFECT = ("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG_FILE")

_named: list[bool] = []


def offer_nccl(groups: ModuleType) -> None:
    """Let torch.distributed find NCCL.

    Args:
        groups: the module torch.distributed.distributed_c10d, just imported.
    """
    backend = _compiled_backend()
    _set_network_first(backend)
    module: Any = groups
    module.ProcessGroupNCCL = backend.ProcessGroupNCCL
    module._NCCL_AVAILABLE = True
    module.default_pg_nccl_timeout = DEFAULT_TIMEOUT
    distributed: Any = sys.modules["torch.distributed"]
    distributed.ProcessGroupNCCL = backend.ProcessGroupNCCL
    # It compares the shapes that other ranks report, which are values.
    distributed._verify_params_across_processes = _trust_shapes
    atexit.register(backend.drain)


def _compiled_backend() -> Any:
    path = str(Path(os.environ[LIBRARIES]) / f"{MODULE}.so")
    loader = importlib.machinery.ExtensionFileLoader(MODULE, path)
    spec = importlib.util.spec_from_loader(MODULE, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _set_network_first(backend: Any) -> None:
    """Set the network before the first group is made: a zygote imports torch before it forks."""
    group_class = backend.ProcessGroupNCCL
    initialise = group_class.__init__

    @functools.wraps(initialise)
    def initialised(self: Any, store: Any, rank: int, size: int, *options: Any) -> None:
        backend.set_network(_network(backend, os.environ))
        initialise(self, store, rank, size, *options)
        if os.environ.get(COMMUNICATION) == GLOO and size > 1:
            self.use_gloo(_gloo_group(store, rank, size, *options))

    group_class.__init__ = initialised


def _gloo_group(store: Any, rank: int, size: int, options: Any = None) -> Any:
    """Return a process group of gloo for the ranks of a group of NCCL."""
    distributed: Any = sys.modules["torch.distributed"]
    timeout = DEFAULT_TIMEOUT if options is None else options._timeout
    prefixed = distributed.PrefixStore("gloo", store)
    return distributed.ProcessGroupGloo(prefixed, rank, size, timeout)


def _network(backend: Any, environment: Mapping[str, str]) -> Any:
    """Return addresses and sizes by NCCL's variables; name those that are ignored."""
    threads = int(environment.get("NCCL_SOCKET_NTHREADS", "1"))
    gpus = gpu_figures()
    network = backend.NetworkSettings()
    network.address = socket.gethostbyname(socket.gethostname())
    network.channels = used_channels(CHANNELS, environment)
    network.buffer_bytes = int(environment.get("NCCL_BUFFSIZE", BUFFER_BYTES))
    network.sockets = threads * int(environment.get("NCCL_NSOCKS_PERTHREAD", "1"))
    network.local_bytes_per_ns = gpus.local_bytes_per_ns
    network.local_channels = used_channels(gpus.model.channels, environment)
    network.scale = int(environment.get(SCALE, "1"))
    network.card_gbytes = int(environment.get(CARD_RATE, CARD_BPS)) / 8e9
    network.major = gpus.model.capability[0]
    network.hosts = [host for host in environment.get(HOSTS, "").split(",") if host]
    algorithms = allowed(environment.get("NCCL_ALGO", ""), ALGORITHMS)
    protocols = allowed(environment.get("NCCL_PROTO", ""), PROTOCOLS)
    network.may_ring = "ring" in algorithms
    network.may_tree = "tree" in algorithms
    network.may_simple = "simple" in protocols
    network.may_ll = "ll" in protocols
    _name_ignored(environment)
    return network


def used_channels(found: int, environment: Mapping[str, str]) -> int:
    """Return how many channels NCCL uses: a maximum applies first, then a minimum.

    Args:
        found: number of channels that NCCL has found.
        environment: variables; a block of threads (CTA) is a channel.
    """
    channels = found
    for name in ("NCCL_MAX_NCHANNELS", "NCCL_MAX_CTAS"):
        channels = min(channels, int(environment.get(name, channels)))
    for name in ("NCCL_MIN_NCHANNELS", "NCCL_MIN_CTAS"):
        channels = max(channels, int(environment.get(name, channels)))

    return channels


def allowed(text: str, known: Sequence[str]) -> set[str]:
    """Return which names a variable of NCCL allows; all if it allows none of those modelled.

    Args:
        text: a list of names with commas between, after ``^`` of those that are not allowed.
        known: the names that are modelled.
    """
    names = {name.strip().lower() for name in text.lstrip("^").split(",")}
    chosen = set(known) & names
    if text.startswith("^"):
        chosen = set(known) - names

    return chosen or set(known)


def _name_ignored(environment: Mapping[str, str]) -> None:
    if _named:
        return

    _named.append(True)
    ignored = []
    for name in environment:
        if name.startswith("NCCL_") and name not in (*HONOURED, *WITHOUT_EFFECT):
            ignored.append(name)

    if ignored:
        names = ", ".join(sorted(ignored))
        print(f"testbed: the modelled NCCL ignores {names}", file=sys.stderr, flush=True)


def _trust_shapes(*_arguments: object) -> None:
    return None
