"""Train a Llama 3 with FSDP2, or with HSDP: shards in groups of ranks, replicas between the groups.

usage: llama_fsdp.py SIZE REPLICAS STEPS     SIZE: a name of `SIZES`
"""

import os
import sys
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

VOCABULARY = 128256
LENGTH = 8192
HEAD = 128


class Size(NamedTuple):
    """A size of Llama 3 (arXiv 2407.21783, table 3)."""

    layers: int
    width: int
    hidden: int
    heads: int
    shared_heads: int = 8


SIZES = {
    "2-layers": Size(2, 1024, 3584, 8),
    "8B": Size(32, 4096, 14336, 32),
    "70B": Size(80, 8192, 28672, 64),
}


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs of numbers by their position."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cosines + turned * sines


class Block(nn.Module):
    """Attention and a gated feed-forward network."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, shared_width = size.width, size.shared_heads * HEAD
        self.size = size
        self.attention_norm = nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, shared_width, bias=False)
        self.value = nn.Linear(width, shared_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.hidden_norm = nn.RMSNorm(width)
        self.gate = nn.Linear(width, size.hidden, bias=False)
        self.up = nn.Linear(width, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, width, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        batch, length, _width = x.shape
        normed = self.attention_norm(x)
        query = self.query(normed).view(batch, length, -1, HEAD).transpose(1, 2)
        key = self.key(normed).view(batch, length, -1, HEAD).transpose(1, 2)
        value = self.value(normed).view(batch, length, -1, HEAD).transpose(1, 2)
        groups = self.size.heads // self.size.shared_heads
        query = rotated(query, cosines, sines)
        key = rotated(key, cosines, sines).repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        normed = self.hidden_norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


class Llama(nn.Module):
    """The model; each block is computed again in the backward pass."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, size.width)
        self.layers = nn.ModuleList([Block(size) for _ in range(size.layers)])
        self.norm = nn.RMSNorm(size.width)
        self.output = nn.Linear(size.width, VOCABULARY, bias=False)
        self.register_buffer("cosines", torch.ones(LENGTH, HEAD), persistent=False)
        self.register_buffer("sines", torch.zeros(LENGTH, HEAD), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        cosines, sines = self.cosines.to(x.dtype), self.sines.to(x.dtype)
        for layer in self.layers:
            x = checkpoint(layer, x, cosines, sines, use_reentrant=False)
        return self.output(self.norm(x))


def sharded_model(size: Size, replicas: int) -> Llama:
    """Return the model, whose blocks are sharded one by one."""
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cuda", (ranks,), mesh_dim_names=("shard",))
    if replicas > 1:
        shape = (replicas, ranks // replicas)
        mesh = init_device_mesh("cuda", shape, mesh_dim_names=("replicate", "shard"))

    with torch.device("meta"):
        model = Llama(size)

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to_empty(device="cuda")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)

    return model


def main() -> None:
    """Train for some steps."""
    size, replicas, steps = SIZES[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    model = sharded_model(size, replicas)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for step in range(steps):
        tokens = torch.randint(VOCABULARY, (1, LENGTH + 1)).to("cuda")
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        if dist.get_rank() == 0:
            print(f"step {step} done", flush=True)

    dist.destroy_process_group()


main()
