"""Find the shards of operators on lists of DTensors; print them and the work it took, as JSON.

usage: list_operators.py plain|quick     quick: with the changes of testbed.core.compat
"""

import importlib
import json
import sys
from collections import Counter
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from testbed.core.compat import torch_sharding

dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402  # needs a group
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard  # noqa: E402
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta  # noqa: E402
from torch.distributed.tensor._op_schema import OpSchema  # noqa: E402
from torch.distributed.tensor.placement_types import _StridedShard  # noqa: E402

ATEN = torch.ops.aten
MESH = init_device_mesh("cpu", (2, 4), mesh_dim_names=("outer", "inner"))
SHAPES = ((64, 32), (128, 64))
PLACEMENTS = {
    "hybrid": (Replicate(), Shard(0)),
    "strided": (_StridedShard(0, split_factor=4), Shard(0)),
    "tensor parallel": (Shard(0), Shard(1)),
    "replicated": (Replicate(), Replicate()),
    "partial": (Partial(), Shard(0)),
}
MIXTURES = (
    *((name,) for name in PLACEMENTS),
    ("strided", "hybrid"),
    ("replicated", "strided", "tensor parallel"),
)

work: Counter[str] = Counter()


def spec(name: str, shape: tuple[int, ...]) -> DTensorSpec:
    stride = torch.empty(shape, device="meta").stride()
    meta = TensorMeta(torch.Size(shape), stride, torch.float32)
    return DTensorSpec(MESH, PLACEMENTS[name], tensor_meta=meta)


def specs(names: tuple[str, ...], count: int) -> list[DTensorSpec]:
    return [spec(names[index % len(names)], SHAPES[index % 2]) for index in range(count)]


def shards(operator: Any, *arguments: Any, **options: Any) -> list[str]:
    propagator = DTensor._op_dispatcher.sharding_propagator
    info = propagator.op_to_schema_info.get(operator)
    info = info or propagator.op_to_schema_info_for_single_dim_strategy.get(operator)
    schema = OpSchema(operator, arguments, options, schema_info=info)
    try:
        found = propagator.propagate_op_sharding_non_cached(schema)
    except RuntimeError as error:
        return [str(operator), str(error)]

    needed = str(found.needs_redistribute)
    return [str(operator), *texts(found.output_spec), *texts(found.redistribute_schema), needed]


def texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return list(chain.from_iterable(map(texts, value)))
    if isinstance(value, OpSchema):
        return texts(value.args_schema)
    if isinstance(value, DTensorSpec):
        flag = value.use_strided_shard_as_shard_order
        return [f"{value} {value.tensor_meta} {value.shard_order} {flag}"]
    return [str(value)]


def adam(names: tuple[str, ...], count: int) -> list[str]:
    parts = [specs(names, count) for _ in range(4)]
    steps = [spec("replicated", ()) for _ in range(count)]
    rates = {"lr": 1.0, "beta1": 0.9, "beta2": 0.9, "weight_decay": 0.0, "eps": 1e-8}
    ways = {"amsgrad": False, "maximize": False}
    return shards(ATEN._fused_adamw_.default, *parts, [], steps, **rates, **ways)


def count_calls(owner: Any, name: str) -> None:
    method = getattr(owner, name)
    function: Any = method.fget if isinstance(method, property) else method

    def counted(instance: Any) -> Any:
        work[name] += 1
        return function(instance)

    setattr(owner, name, property(counted) if isinstance(method, property) else counted)


def main() -> None:
    if sys.argv[1] == "quick":
        torch_sharding.look_once(importlib.import_module(torch_sharding.PROPAGATION))
        strategies = importlib.import_module(torch_sharding.EXPANSION)
        torch_sharding.expand_once(strategies)

    count_calls(OpSchema, "args_spec")
    count_calls(DTensorSpec, "__post_init__")
    found = []
    for names in MIXTURES:
        found.append(shards(ATEN._foreach_norm.Scalar, specs(names, 3)))
        found.append(shards(ATEN._foreach_mul_.Scalar, specs(names, 3), 2.0))
        found.append(shards(ATEN._foreach_add.List, specs(names, 3), specs(("hybrid",), 3)))
        found.append(shards(ATEN._foreach_add.List, specs(("strided",), 3), specs(names, 3)))
        found.append(shards(ATEN.add.Tensor, *specs(names, 1), spec("hybrid", SHAPES[0])))
        found.append(shards(ATEN.stack.default, specs(names, 1) * 3))
        found.append(adam(names, 3))

    used = []
    for count in (20, 40):
        work.clear()
        adam(("hybrid",), count)
        used.append(dict(work))

    print(json.dumps({"found": found, "work": used}))


main()
