"""Offer the backend "nccl" to torch.distributed; native/backend.cpp is the backend."""

from __future__ import annotations

import atexit
import functools
import importlib.machinery
import importlib.util
import os
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from testbed.workers.gpu.device_library import LIBRARIES, gpu_figures

MODULE = "testbed_nccl"
DEFAULT_TIMEOUT = timedelta(minutes=10)  # torch's for NCCL
# As NCCL: two channels between hosts, buffers of 4 MiB, and one socket of one thread, unless the
# PCI identity of a cloud's network card asks for more, which an emulated card does not have.
CHANNELS = 2
BUFFER_BYTES = 4 * 2**20
HONOURED = (
    "NCCL_MIN_NCHANNELS",
    "NCCL_MAX_NCHANNELS",
    "NCCL_BUFFSIZE",
    "NCCL_SOCKET_NTHREADS",
    "NCCL_NSOCKS_PERTHREAD",
)
WITHOUT_EFFECT = ("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG_FILE")


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
    def initialised(self: Any, *arguments: Any) -> None:
        _set_network(backend, os.environ)
        initialise(self, *arguments)

    group_class.__init__ = initialised


def _set_network(backend: Any, environment: Mapping[str, str]) -> None:
    """Set addresses and sizes by NCCL's variables; name those that are ignored."""
    channels = max(CHANNELS, int(environment.get("NCCL_MIN_NCHANNELS", CHANNELS)))
    channels = min(channels, int(environment.get("NCCL_MAX_NCHANNELS", channels)))
    buffer_bytes = int(environment.get("NCCL_BUFFSIZE", BUFFER_BYTES))
    threads = int(environment.get("NCCL_SOCKET_NTHREADS", "1"))
    sockets = threads * int(environment.get("NCCL_NSOCKS_PERTHREAD", "1"))
    address = socket.gethostbyname(socket.gethostname())
    local_rate = gpu_figures().local_bytes_per_ns
    backend.set_network(address, channels, buffer_bytes, sockets, local_rate)

    ignored = []
    for name in environment:
        if name.startswith("NCCL_") and name not in (*HONOURED, *WITHOUT_EFFECT):
            ignored.append(name)

    if ignored:
        names = ", ".join(sorted(ignored))
        print(f"testbed: the modelled NCCL ignores {names}", file=sys.stderr, flush=True)


def _trust_shapes(*_arguments: object) -> None:
    return None
