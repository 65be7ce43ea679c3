"""Memory of modelled GPUs: segments, fragmentation and use by streams, by the allocator's rules.

The rules are those of torch's caching allocator (c10/cuda/CUDACachingAllocator.cpp). Blocks up to
1 MiB come from segments of 2 MiB, blocks below 10 MiB from segments of 20 MiB, larger blocks get a
segment for themselves, a multiple of 2 MiB. What is left of a block can be used if it has 512 B or
more, or in segments of large blocks more than 1 MiB.
"""

from typing import Any

from testbed.core.gpus import modelled_gpu
from testbed.workers.gpu.figures import figures_of

H100 = figures_of(modelled_gpu("H100"), 2)
MIB, GIB = 2**20, 2**30
START = """
import os
MIB, GIB = 2**20, 2**30
cuda = torch.cuda

def bytes_of(size, stream=None):
    with torch.cuda.stream(stream):
        return torch.empty(size, dtype=torch.uint8, device="cuda")

def figures():
    return [cuda.memory_allocated(), cuda.memory_reserved()]
"""
EXPANDABLE = """
import os
os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
"""


def test_sizes_of_segments(on_gpus: Any) -> None:
    result, _ = on_gpus(
        START
        + """
one = bytes_of(1)
shown = [figures()]
more = bytes_of(MIB + 1)
shown.append(figures())
most = bytes_of(10 * MIB)  # from what is left of the segment of 20 MiB
shown.append(figures())
own = bytes_of(11 * MIB)
shown.append(figures())
stats = cuda.memory_stats()
names = ["allocation.all.current", "segment.small_pool.current", "segment.large_pool.current",
         "requested_bytes.all.current", "inactive_split_bytes.all.current", "num_device_alloc"]
print(json.dumps([shown, [stats[name] for name in names]]))
"""
    )
    shown, statistics = result
    assert shown == [
        [512, 2 * MIB],
        [MIB + 1024, 22 * MIB],
        [11 * MIB + 1024, 22 * MIB],
        [23 * MIB + 1024, 34 * MIB],  # a rest of 1 MiB is not split off
    ]
    # of the small segment, and of that of 20 MiB
    unused = (2 * MIB - 512) + (20 * MIB - (MIB + 512) - 10 * MIB)
    assert statistics == [4, 1, 2, 1 + MIB + 1 + 21 * MIB, unused, 3]


def test_a_small_rest_stays_with_its_block(on_gpus: Any) -> None:
    result, _ = on_gpus(
        START
        + """
block = bytes_of(12 * MIB)
del block
smaller = bytes_of(12 * MIB - MIB // 2)
shown = [figures()]
del smaller
smaller = bytes_of(10 * MIB)  # the rest of 2 MiB is split off
shown.append(figures())
print(json.dumps([shown, cuda.max_memory_allocated()]))
"""
    )
    shown, peak = result
    assert shown == [[12 * MIB, 12 * MIB], [10 * MIB, 12 * MIB]]
    assert peak == 12 * MIB


FRAGMENTS = """
blocks = [bytes_of(GIB) for _ in range(4)]
del blocks[1:3]
shown = [figures()]
double = bytes_of(2 * GIB)
shown.append(figures())
print(json.dumps(shown))
"""


def test_two_free_segments_are_not_one(on_gpus: Any) -> None:
    """Two free GiB in segments of their own do not make 2 GiB; pages of one segment do."""
    fixed, _ = on_gpus(START + FRAGMENTS)
    expandable, _ = on_gpus(EXPANDABLE + START + FRAGMENTS)
    assert fixed == [[2 * GIB, 4 * GIB], [4 * GIB, 6 * GIB]]
    # 4 GiB in pages of 20 MiB
    pages = -(-4 * GIB // (20 * MIB)) * 20 * MIB
    assert expandable == [[2 * GIB, pages], [4 * GIB, pages]]


def test_unused_pages_return_to_the_device(on_gpus: Any) -> None:
    result, _ = on_gpus(
        EXPANDABLE
        + START
        + """
first, second, third = bytes_of(50 * MIB), bytes_of(50 * MIB), bytes_of(50 * MIB)
shown = [figures()]
del second
cuda.empty_cache()
shown.append(figures())
again = bytes_of(60 * MIB)  # does not fit between the others
shown.append(figures())
fits = bytes_of(45 * MIB)
shown.append(figures())
print(json.dumps(shown))
"""
    )
    # 150 MiB in pages of 20 MiB; between 50 and 100 MiB two pages are whole
    assert result == [
        [150 * MIB, 160 * MIB],
        [100 * MIB, 120 * MIB],
        [160 * MIB, 180 * MIB],
        [205 * MIB, 220 * MIB],
    ]


def test_out_of_memory(on_gpus: Any) -> None:
    """What is unused returns to the device before a retry; fragments do not help."""
    result, _ = on_gpus(
        START
        + """
most = cuda.mem_get_info()[0] // GIB
block = bytes_of((most - 20) * GIB)
del block
block = bytes_of((most - 10) * GIB)
retries = cuda.memory_stats()["num_alloc_retries"]
del block
cuda.empty_cache()
blocks = [bytes_of(GIB) for _ in range(most)]
del blocks[::2]
shown = figures()
try:
    bytes_of(2 * GIB)  # every second GiB is free, and returns to the device
    outcome = "fits"
except torch.OutOfMemoryError as error:
    outcome = str(error)
blocks = []
cuda.empty_cache()
whole = bytes_of(most * GIB)
parts = [bytes_of(MIB // 4) for _ in range(4)]
try:
    bytes_of(4 * GIB)
except torch.OutOfMemoryError as error:
    message = str(error)
stats = cuda.memory_stats()
print(json.dumps([most, retries, shown, outcome, message, stats["num_ooms"]]))
"""
    )
    most, retries, shown, outcome, message, errors = result
    assert most == H100.usable_bytes // GIB
    assert retries == 1
    assert shown == [most // 2 * GIB, most * GIB]
    assert outcome == "fits"
    assert message.startswith("CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total")
    assert "1.00 MiB is reserved by PyTorch but unallocated" in message
    assert errors == 1


def test_streams_share_no_free_memory(on_gpus: Any) -> None:
    """A block returns to the stream that it was made for, when other streams have used it."""
    result, _ = on_gpus(
        START
        + """
side = torch.cuda.Stream()
block = bytes_of(GIB)
del block
other = bytes_of(GIB, side)
shown = [cuda.memory_reserved() // GIB]

factor = torch.ones(8192, 8192, device="cuda", dtype=torch.bfloat16)
base = cuda.memory_reserved() // GIB
block = bytes_of(GIB)
address = block.data_ptr()
block.record_stream(side)
with torch.cuda.stream(side):
    factor @ factor  # takes a millisecond and more
del block
active = cuda.memory_stats()["active_bytes.all.current"] - cuda.memory_allocated()
early = bytes_of(GIB)
moved = early.data_ptr() != address
torch.cuda.synchronize()
late = bytes_of(GIB)
shown += [base, active // GIB, moved, late.data_ptr() == address, cuda.memory_reserved() // GIB]
print(json.dumps(shown))
"""
    )
    # The factor lies in the GiB that was free: each of the two blocks gets a segment.
    assert result == [2, 2, 1, True, True, 4]
