"""Errors of torch for scripts that need a GPU, as the installed torch gives them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.workers.gpu_hint import gpu_hint

BEGIN = """
import os, torch, torch.distributed as dist
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
"""
DEVICE = 'hosts have no GPU: model GPUs with --gpu H100, or use device "cpu"'
BACKEND = 'hosts have no GPU: model GPUs with --gpu H100, or use the backend "gloo"'
LINES = {
    'torch.ones(2, device="cuda:0")': DEVICE,
    "torch.nn.Linear(2, 2).cuda()": DEVICE,
    "torch.cuda.set_device(0)": DEVICE,
    "torch.cuda.Stream()": DEVICE,
    "torch.cuda.Event().record()": DEVICE,
    'dist.init_process_group("nccl")': BACKEND,
    '1 / 0  # "cuda"': "",
}
ALL = """
import json, traceback
logs = {}
for line in LINES:
    try:
        exec(compile("\\n" * 6 + line, "/my/train.py", "exec"))
    except BaseException:
        logs[line] = traceback.format_exc()
print(json.dumps(logs))
"""


@pytest.fixture(scope="module")
def logs() -> dict[str, str]:
    """The traceback of each line, by the line."""
    program = f"LINES = {list(LINES)!r}\n{BEGIN}{ALL}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("line", LINES)
def test_what_to_do(line: str, logs: dict[str, str]) -> None:
    expected = LINES[line]
    assert gpu_hint(logs[line]) == (f"{expected} in /my/train.py, line 7" if expected else "")


def test_a_line_of_a_library_is_not_named() -> None:
    library = f'  File "{Path(sys.prefix)}/lib/python3.11/site-packages/x.py", line 3'
    error = "AssertionError: Torch not compiled with CUDA enabled"
    log = f'  File "/my/a.py", line 2\n{library}\n{error}'
    assert gpu_hint(log) == f"{DEVICE} in /my/a.py, line 2"
