"""Sums over the WAN with JAX: CPU processes, one per host, connected by gloo.

testbed run TOPOLOGY -- python3 examples/jax_psum.py
"""

import os
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

SIZES, REPEATS = (4096, 1 << 20), 4  # bytes of each process's part

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
jax.distributed.initialize(f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", world, rank)

mesh = jax.make_mesh((world,), ("hosts",))
parts = PartitionSpec("hosts")
total = jax.jit(
    jax.shard_map(
        lambda x: jax.lax.psum(x, "hosts"), mesh=mesh, in_specs=parts, out_specs=PartitionSpec()
    )
)
for size in SIZES:
    mine = np.full((size // 4,), rank + 1, np.float32)
    values = jax.make_array_from_process_local_data(NamedSharding(mesh, parts), mine)
    for _ in range(REPEATS):  # gloo connects in the first one; TCP's window grows in the next
        start = time.time()
        result = total(values).block_until_ready()
        took_ms = 1000 * (time.time() - start)
    assert (np.asarray(result.addressable_data(0)) == world * (world + 1) / 2).all()
    print(f"psum of {size} B: {took_ms:.3f} ms", flush=True)
