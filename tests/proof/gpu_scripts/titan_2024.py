"""Run torchtitan with the RMSNorm of torch in 2024, which had no kernel for it.

The norm of an input in half precision was computed in float32 by a kernel for each step.
"""

import runpy

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    exact = x.float()
    dimensions = [-1 - place for place in range(len(shape))]
    squares = exact.pow(2).mean(dim=dimensions, keepdim=True)
    least = torch.finfo(x.dtype).eps if eps is None else eps
    normed = (exact * torch.rsqrt(squares + least)).to(x.dtype)
    return normed if weight is None else normed * weight


functional.rms_norm = rms_norm
runpy.run_module("torchtitan.train", run_name="__main__")
