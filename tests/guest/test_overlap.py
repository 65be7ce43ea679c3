"""Communication during modelled computation: DDP of two ranks over one link, in a guest
(inside/overlap.py).

Eight equal layers, each a bucket of 256 KiB, take 240 ms: 80 ms forward, then 20 ms backward each.
The ring sends a bucket's size each way; of 1514 bytes in a frame 1448 are data.
"""

from typing import Any

import pytest

from testbed.guest.kernel import Kernel
from tests.support.guests import console, finish, guest_with, result

LAYERS, BUCKET_BITS = 8, 256 * 1024 * 8 * 1514 / 1448
FORWARD_S, LAYER_S = 0.080, 0.020
DELAY_S = 0.001
FAST, SLOW = 400, 50  # Mbit/s: a bucket takes 5.5 ms and 44 ms
ROUND_TRIPS_S = 4 * DELAY_S  # of an all-reduce of two ranks


@pytest.fixture(scope="module")
def found(
    kernel: Kernel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[list[dict[str, Any]]]]:
    """Steps after the first two of each rank, by rate."""
    folder = tmp_path_factory.mktemp("overlap")
    with guest_with(kernel, "overlap.py", folder, FAST, SLOW) as guest:
        assert finish(guest) == 0, console(folder)
    return {rate: [rank["steps"][2:] for rank in ranks] for rate, ranks in result(folder).items()}


def steps(found: dict[str, list[list[dict[str, Any]]]], rate: int) -> list[dict[str, Any]]:
    return [step for rank in found[str(rate)] for step in rank]


@pytest.mark.parametrize("rate", [FAST, SLOW])
def test_gradients_appear_when_a_gpu_would_have_them(found: dict[str, Any], rate: int) -> None:
    """Each layer 20 ms after the one behind it, within 1 ms."""
    for step in steps(found, rate):
        assert step["ready"] == pytest.approx(
            [FORWARD_S + LAYER_S * n for n in range(1, LAYERS + 1)], abs=0.001
        )


@pytest.mark.parametrize("rate", [FAST, SLOW])
def test_buckets_leave_during_the_backward_pass(found: dict[str, Any], rate: int) -> None:
    """Every bucket within 0.1 ms of its gradient."""
    for step in steps(found, rate):
        assert [begin for begin, _end in step["buckets"]] == pytest.approx(
            step["ready"], abs=0.0001
        )


def test_computation_hides_a_fast_link(found: dict[str, Any]) -> None:
    """The step is the computation and the last bucket: within 2 %."""
    last = BUCKET_BITS / (FAST * 1e6) + ROUND_TRIPS_S
    for step in steps(found, FAST):
        assert step["seconds"] == pytest.approx(FORWARD_S + LAYERS * LAYER_S + last, rel=0.02)


def test_a_slow_link_hides_computation(found: dict[str, Any]) -> None:
    """The step is the wait for the first bucket and then all of them, one after the other: within 2
    %.
    """
    for step in steps(found, SLOW):
        expected = FORWARD_S + LAYER_S + LAYERS * BUCKET_BITS / (SLOW * 1e6) + ROUND_TRIPS_S
        assert step["seconds"] == pytest.approx(expected, rel=0.02)
