"""torch as ranks find it: with parts left out until somebody asks for them, then whole."""

import subprocess
import sys

PLAIN = "import torch, torch.distributed"
QUICK = f"""
from testbed.core.compat.torch_imports import POSTPONED, quick_imports
from testbed.workers.zygote import prepare_torch
with quick_imports():
    {PLAIN}
assert not any(name in sys.modules for name in POSTPONED)
assert not hasattr(torch, "export")
torch.randint(0, 9, (9,), generator=torch.Generator().manual_seed(1))
with quick_imports():
    pass
prepare_torch("collectives")
assert not hasattr(torch, "export")
prepare_torch("train")
assert torch.export.export and torch.distributions.Normal
"""  # after `import sys`
LIST = """
import torch._dynamo
print(sorted(name for name in sys.modules if name.startswith("torch")))
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    print(torch.linalg.svd(torch.empty(4, 3))[1].shape)
print(torch.nn.Linear(3, 4, device="meta")(torch.empty(2, 3, device="meta")).shape)
"""


def _output(program: str) -> str:
    command = [sys.executable, "-c", f"import sys\n{program}\n{LIST}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_was_postponed_can_be_had() -> None:
    plain = _output(PLAIN)
    assert "torch._meta_registrations" in plain
    assert _output(QUICK) == plain
