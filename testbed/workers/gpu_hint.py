"""Advice on errors of scripts that need a GPU, which hosts do not have."""

from __future__ import annotations

import re

# Parts of the messages of torch built for CPUs, and of torch built for GPUs on a machine without.
GPU_ERRORS = (
    "Torch not compiled with CUDA enabled",
    "torch.cuda.Stream requires CUDA support",
    "Tried to instantiate dummy base class",
    "has no attribute '_cuda_",
    "Found no NVIDIA driver",
    "No CUDA GPUs are available",
    "no NVIDIA GPU",
    "Attempting to deserialize object on a CUDA device",
    "Cannot access accelerator device when none is available",
    "ProcessGroupNCCL is only supported with GPUs",
    "No backend type associated with device type cuda",
)
BACKEND_ERRORS = (
    "Distributed package doesn't have NCCL built in",
    "ProcessGroupNCCL is only supported with GPUs",
)
LIBRARIES = ("/site-packages/", "/dist-packages/", "<frozen ", "/lib/python")
LINE_OF_TRACEBACK = re.compile(r'File "([^"]+)", line (\d+)')


def gpu_hint(log: str) -> str:
    """Return what to change in a script that failed because it needs a GPU; empty if it did not.

    Args:
        log: output of the rank, with a traceback.
    """
    lines = log.splitlines()
    for number in reversed(range(len(lines))):
        is_backend = any(text in lines[number] for text in BACKEND_ERRORS)
        if not is_backend and not any(text in lines[number] for text in GPU_ERRORS):
            continue

        advice = 'model GPUs with --gpu H100, or use device "cpu"'
        if is_backend:
            advice = 'model GPUs with --gpu H100, or use the backend "gloo"'

        return f"hosts have no GPU: {advice}{_place(lines[:number])}"

    return ""


def _place(lines: list[str]) -> str:
    """Return the last line of the script in a traceback, as ``in FILE, line N``."""
    for line in reversed(lines):
        found = LINE_OF_TRACEBACK.search(line)
        if found and not any(part in found.group(1) for part in LIBRARIES):
            return f" in {found.group(1)}, line {found.group(2)}"

    return ""
