"""Code in a new interpreter with modelled GPUs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.device_library import LIBRARIES, gpu_environment

BEGIN = """
import json, sys
from testbed.workers.gpu.install import install
install()
import torch
from torch import nn

def ms(work):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)
"""


def run_on_gpus(code: str, libraries: Path, kind: str = "H100") -> tuple[Any, str]:
    """Run code with two GPUs; return what the code prints as JSON, and its standard error.

    Args:
        code: Python code, which finds torch, nn and json imported, and a function `ms` that
            returns the time of a function's work on the GPU in ms.
        libraries: folder with the compiled libraries.
        kind: kind of the GPUs.
    """
    result = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code)],
        env={**os.environ, LIBRARIES: str(libraries), **gpu_environment(modelled_gpu(kind), 2)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr
