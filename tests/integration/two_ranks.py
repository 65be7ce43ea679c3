"""What two ranks do for test_interception.py: python two_ranks.py RANK PORT RECORDS."""

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.fsdp import fully_shard
from torch.nn import Linear, Sequential
from torch.nn.parallel import DistributedDataParallel

from testbed.runfolder.records import Operation
from testbed.workers.dispatcher import Interception

LAYERS, WIDTH, STEPS = 6, 500, 5  # a layer has 1 MB of weights
LATE_S = 0.5


def collectives(rank: int) -> None:
    x = torch.ones(256)
    dist.all_reduce(x)
    dist.broadcast(x, 0)
    dist.reduce(x, 1)
    dist.all_gather([torch.empty(256), torch.empty(256)], x)
    dist.all_gather_into_tensor(torch.empty(512), x)
    out = torch.empty(128)
    dist.reduce_scatter_tensor(out, torch.arange(256.0))
    assert out.equal(2 * torch.arange(256.0)[128 * rank : 128 * (rank + 1)])
    dist.all_to_all_single(torch.empty(256), x)
    dist.gather(x, [torch.empty(256), torch.empty(256)] if rank == 0 else None)
    dist.scatter(torch.empty(256), [x, x] if rank == 0 else None)
    dist.barrier()
    dist.monitored_barrier()
    with torch.inference_mode():
        dist.all_reduce(torch.ones(2, dtype=torch.int8))
        dist.reduce_scatter_tensor(torch.empty(1), torch.ones(2))
    world = dist.group.WORLD
    assert world is not None
    assert functional.all_reduce(torch.ones(3), "sum", world).tolist() == [2, 2, 2]
    assert functional.reduce_scatter_tensor(torch.ones(4), "sum", 0, world).tolist() == [2, 2]
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1]]), torch.tensor([1.0]), (4,), check_invariants=True
    )
    dist.all_reduce(sparse)


def messages(rank: int) -> None:
    x = torch.full((64,), float(rank))
    if rank == 0:
        dist.send(x, 1)
        dist.send(x, 1)
    else:
        dist.recv(x, 0)
        assert dist.recv(x) == 0
        assert x[0] == 0
    got = torch.empty(64)
    other = 1 - rank
    both = [
        dist.P2POp(dist.isend, torch.full((64,), float(rank)), other),
        dist.P2POp(dist.irecv, got, other),
    ]
    for work in dist.batch_isend_irecv(both):
        work.wait()
    assert got[0] == other


def groups(rank: int) -> None:
    alone = [dist.new_group([0]), dist.new_group([1])]
    pair = dist.new_group([0, 1], timeout=timedelta(seconds=20))
    dist.all_reduce(torch.ones(10, dtype=torch.float64), group=alone[rank])
    dist.all_reduce(torch.ones(10, dtype=torch.float64), group=pair)
    dist.all_reduce(torch.ones(10, dtype=torch.float64), group=pair)


def rooted(rank: int) -> None:
    """Rank 1 is the root, in each way that a call can say so."""
    x = torch.ones(8)
    pair = dist.new_group([0, 1], group_desc="pair")
    whole = [torch.empty(8), torch.empty(8)] if rank == 1 else None
    dist.broadcast(x, 1)
    dist.broadcast(x, src=1, group=pair)
    dist.broadcast(x, group=pair, group_src=1)
    dist.reduce(x, group_dst=1)
    dist.gather(x, whole, dst=1)
    dist.scatter(x, whole, group=pair, group_src=1)
    options = torch._C._distributed_c10d.BroadcastOptions()
    options.rootRank = 1
    pair.broadcast([x], options).wait()
    objects = ["one", "two"] if rank == 1 else [None, None]
    dist.broadcast_object_list(objects, src=1)
    dist.gather_object("x" * rank, [None, None] if rank == 1 else None, group_dst=1, group=pair)
    dist.scatter_object_list([None], objects if rank == 1 else None, src=1)


def unequal(rank: int) -> None:
    """Rank 0 keeps 1 row and sends 2; rank 1 sends 3 and keeps 4. A row has two floats."""
    sent, received = ([1, 2], [1, 3]) if rank == 0 else ([3, 4], [2, 4])
    rows = torch.ones(sum(sent), 2)
    dist.all_to_all_single(torch.empty(sum(received), 2), rows, received, sent)
    dist.all_gather_object([None, None], "x" * 100 * rank)


def ddp(rank: int) -> None:
    """A bucket is full with the second layer. DDP has a single bucket until it has seen a step's
    order of gradients.
    """
    torch.manual_seed(rank)
    model = DistributedDataParallel(
        Sequential(*(Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))), bucket_cap_mb=1.5
    )
    for _ in range(STEPS):
        model(torch.ones(1, WIDTH)).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    total = torch.stack([gradient.sum() for gradient in gradients if gradient is not None]).sum()
    totals = [torch.empty(()), torch.empty(())]
    dist.all_gather(totals, total)
    assert totals[0] == totals[1]


def fsdp(rank: int) -> None:
    model = Linear(100, 100, bias=False)
    fully_shard(model)
    model(torch.ones(1, 100)).sum().backward()


def late(rank: int) -> None:
    """Rank 1 comes late. Rank 0 starts at once, and asks for nothing until long after the end."""
    if rank == 1:
        time.sleep(LATE_S)
    work = dist.all_reduce(torch.ones(7), async_op=True)
    got = dist.irecv(torch.empty(7), 1) if rank == 0 else dist.isend(torch.ones(7), 0)
    time.sleep(2 * LATE_S)
    assert work is not None
    assert got is not None
    assert work.is_completed()
    assert got.is_completed()
    work.wait()
    got.wait()


def lonely(rank: int) -> None:
    """A receive that never gets anything fails as it does without a recording, and is not
    recorded.
    """
    short = dist.new_group([0, 1], timeout=timedelta(seconds=1))
    if rank == 0:
        try:
            dist.recv(torch.empty(3), 1, group=short)
        except RuntimeError as error:
            assert "imed out" in str(error), error
        else:
            raise AssertionError("nothing was sent")


def own_world(rank: int) -> None:
    """Each rank makes a world of its own, in which both are rank 0."""
    del rank
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()


def unnamed(rank: int) -> None:
    """Two groups at once, made without torch.distributed's functions, as torchft makes them."""
    outer = dist.PrefixStore("quorum", dist.distributed_c10d._get_default_store())  # type: ignore[attr-defined]
    for name in ("replica/0", "replica/1"):
        store = dist.PrefixStore(name, outer)  # type: ignore[attr-defined]
        group = dist.ProcessGroup(store, rank, 2)
        backend = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=20))
        kind = dist.ProcessGroup.BackendType.GLOO
        group._set_default_backend(kind)
        group._register_backend(torch.device("cpu"), kind, backend)
        for _ in range(2):
            group.allreduce([torch.ones(4)]).wait()


def write_record(file: TextIO, part: str, operation: Operation) -> None:
    print(json.dumps({"part": part, **operation.model_dump()}), file=file)


def main(rank: int, port: str, records: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with Path(records).open("w", buffering=1) as file:

        def record(part: Callable[[int], None]) -> None:
            interception = Interception(partial(write_record, file, part.__name__), "script", 2)
            part(rank)
            interception.close()

        parts = (collectives, messages, groups, rooted, unequal, ddp, fsdp, late, lonely, unnamed)
        for part in parts:
            record(part)
            dist.all_reduce(torch.ones(99))  # not recorded

        dist.destroy_process_group()
        record(own_world)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
