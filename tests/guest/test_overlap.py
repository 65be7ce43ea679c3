"""Communication during modelled computation: DDP of two ranks over one link, in a guest.

Eight equal layers, each a bucket of 256 KiB, take 240 ms: 80 ms forward, then 20 ms backward each.
The ring sends a bucket's size each way; of 1514 bytes in a frame 1448 are data.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.support.guests import console, finish, guest_with, result

LAYERS = 8
BUCKET_BITS = 256 * 1024 * 8 * 1514 / 1448
FORWARD_S = 0.080
LAYER_S = 0.020
DELAY_S = 0.001
FAST, SLOW = 400, 50  # Mbit/s: a bucket takes 5.5 ms and 44 ms
ROUND_TRIPS_S = 4 * DELAY_S  # of an all-reduce of two ranks
WARM_UP = 2  # steps

Step = dict[str, Any]


@pytest.fixture(scope="module")
def measured(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside/overlap.py measured, by rate."""
    folder = tmp_path_factory.mktemp("overlap")
    with guest_with(kernel, "overlap.py", folder, FAST, SLOW) as guest:
        assert finish(guest) == 0, console(folder)
    return result(folder)


def steps(measured: dict[str, Any], rate: int) -> Iterator[Step]:
    """Give the steps of all ranks after the warm-up."""
    for rank in measured[str(rate)]:
        yield from rank["steps"][WARM_UP:]


@pytest.mark.parametrize("rate", [FAST, SLOW])
def test_gradients_appear_when_a_gpu_would_have_them(measured: dict[str, Any], rate: int) -> None:
    """Each layer 20 ms after the one behind it, within 1 ms."""
    expected = [FORWARD_S + LAYER_S * layer for layer in range(1, LAYERS + 1)]
    for step in steps(measured, rate):
        assert step["ready"] == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("rate", [FAST, SLOW])
def test_buckets_leave_during_the_backward_pass(measured: dict[str, Any], rate: int) -> None:
    """Every bucket within 0.1 ms of its gradient."""
    for step in steps(measured, rate):
        begins = [begin for begin, _end in step["buckets"]]
        assert begins == pytest.approx(step["ready"], abs=0.0001)


def test_computation_hides_a_fast_link(measured: dict[str, Any]) -> None:
    """The step is the computation and the last bucket: within 2 %."""
    last_bucket_s = BUCKET_BITS / (FAST * 1e6) + ROUND_TRIPS_S
    expected_s = FORWARD_S + LAYERS * LAYER_S + last_bucket_s
    for step in steps(measured, FAST):
        assert step["seconds"] == pytest.approx(expected_s, rel=0.02)


def test_slow_link_hides_computation(measured: dict[str, Any]) -> None:
    """The step is the wait for the first bucket, then all buckets in a row: within 2 %."""
    buckets_s = LAYERS * BUCKET_BITS / (SLOW * 1e6)
    expected_s = FORWARD_S + LAYER_S + buckets_s + ROUND_TRIPS_S
    for step in steps(measured, SLOW):
        assert step["seconds"] == pytest.approx(expected_s, rel=0.02)
