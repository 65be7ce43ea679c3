"""Tensors on a few MiB of memory."""

from pathlib import Path

import pytest
import torch

from testbed.workers.lib.folded import FOLD_BYTES, folded_tensor

MIB = 2**20


def folds() -> int:
    """How many mappings of folded memory this process has."""
    return Path("/proc/self/maps").read_text().count("memfd:folded")


def memory_of_folds() -> int:
    """Bytes of folded memory that this process shares with no other."""
    inode_bytes = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        if "memfd:folded" in str(descriptor.readlink() if descriptor.is_symlink() else ""):
            inode_bytes += descriptor.stat().st_blocks * 512
    return inode_bytes


def test_a_large_tensor_takes_little_memory() -> None:
    tensor = folded_tensor(64 * MIB, torch.float32)
    tensor.fill_(1.0)
    assert tensor.nbytes == 256 * MIB
    assert 0 < memory_of_folds() <= FOLD_BYTES


def test_a_byte_lies_at_many_places() -> None:
    one = folded_tensor(3 * FOLD_BYTES, torch.uint8)
    other = folded_tensor(FOLD_BYTES, torch.uint8)
    one[7] = 42
    assert [int(one[7 + number * FOLD_BYTES]) for number in range(3)] == [42, 42, 42]
    assert int(other[7]) == 42


@pytest.mark.parametrize("size", [1, 4097, FOLD_BYTES, FOLD_BYTES + 1])
def test_any_size(size: int) -> None:
    tensor = folded_tensor(size, torch.uint8)
    tensor[-1] = 5
    assert len(tensor) == size
    assert int(tensor[-1]) == 5


def test_memory_is_unmapped_with_the_last_piece() -> None:
    before = folds()
    whole = folded_tensor(2 * FOLD_BYTES, torch.uint8)
    piece = whole[FOLD_BYTES:]
    del whole
    assert folds() == before + 2
    piece[0] = 1
    del piece
    assert folds() == before
