"""Modelled GPU time, against arithmetic. The clock is one that only sleeping and pretended
computing move.
"""

import itertools
import time
from functools import partial

import pytest
import torch
from torch import nn

from testbed.core.gpus import peak_flops
from testbed.workers.lib.modelled_compute import Clock, ModelledCompute

MS = 1_000_000


class PretendedClock(Clock):
    """Notes each sleep; every sleep takes `slack_ns` too long, and computing takes the time that
    `compute` sets.
    """

    def __init__(self, slack_ns: int = 0) -> None:
        super().__init__()
        self.slack_ns = slack_ns
        self.now = self.cpu = 0
        self.sleeps: list[int] = []

    def now_ns(self) -> int:
        return self.now

    def computed_ns(self) -> int:
        return self.cpu

    def sleep_ns(self, ns: int) -> None:
        self.sleeps.append(ns)
        self.now += ns + self.slack_ns

    def compute(self, ns: int) -> None:
        self.cpu += ns
        self.now += ns


class Attention(nn.Module):
    """One head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [part.unsqueeze(1) for part in self.inputs(x).chunk(3, -1)]
        attended = nn.functional.scaled_dot_product_attention(*heads).squeeze(1)
        output: torch.Tensor = self.output(attended)
        return output


BATCH, LENGTH, WIDTH = 2, 24, 16


def transformer() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(50, WIDTH), Attention(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 50))


def one_pass(model: nn.Module) -> None:
    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    model(tokens).mean().backward()


@pytest.mark.parametrize("slack_us", [0, 50])
@pytest.mark.parametrize("step_ms", [1, 10, 350])
def test_sleeps_add_up_to_the_step_time(step_ms: int, slack_us: int) -> None:
    """Within 1 % over 50 steps, though each sleep takes too long."""
    clock, model = PretendedClock(slack_us * 1000), transformer()
    compute = ModelledCompute(model, step_time=step_ms / 1000, clock=clock)
    for _ in range(50):
        one_pass(model)
    assert clock.now == pytest.approx(50 * step_ms * MS, rel=0.01)
    assert min(clock.sleeps) >= 0.5 * MS
    spent = compute.take()
    assert spent.modelled_ns == pytest.approx(50 * step_ms * MS, rel=1e-6)
    assert (spent.slept_ns, spent.late_ns) == (clock.now, 0)


def test_stretches_of_computation_are_noted() -> None:
    """One that nothing interrupts, then two with a wait between them."""
    clock, model = PretendedClock(), transformer()
    compute = ModelledCompute(model, step_time=0.03, clock=clock)
    one_pass(model)
    assert compute.take().spans == [pytest.approx([0, 30 * MS], abs=10)]
    loss = model(torch.zeros(BATCH, LENGTH, dtype=torch.long)).mean()
    clock.now += 5 * MS
    loss.backward()
    spans = compute.take().spans
    assert [spans[0][0], spans[-1][1]] == pytest.approx([30 * MS, 65 * MS], abs=10)
    assert spans[1][0] - spans[0][1] == pytest.approx(5 * MS, abs=0.5 * MS)
    assert len(spans) == 2


def test_computing_on_the_cpu_belongs_to_the_stretch() -> None:
    clock, model = PretendedClock(), nn.Linear(4, 4)
    compute = ModelledCompute(model, step_time=0.03, clock=clock)
    for _ in range(2):
        loss = model(torch.ones(1, 4)).sum()
        clock.compute(2 * MS)
        loss.backward()
    assert sum(end - begin for begin, end in compute.take().spans) == 60 * MS


def test_modules_sleep_in_proportion_to_their_flops() -> None:
    """The times at which gradients appear: each module's share by hand, forward a third and
    backward two.
    """
    tokens, step = BATCH * LENGTH, 3000 * MS
    inputs, output, last = (2 * tokens * WIDTH * n for n in (3 * WIDTH, WIDTH, 50))
    attention = 2 * 2 * BATCH * LENGTH * LENGTH * WIDTH
    whole = inputs + output + last + attention
    clock, model = PretendedClock(), transformer()
    ModelledCompute(model, step_time=step / 1e9, clock=clock)
    one_pass(model)
    assert clock.now == pytest.approx(step, rel=1e-3)
    clock.sleeps.clear()
    clock.now = 0
    appeared: dict[str, int] = {}

    def note(name: str, _parameter: torch.Tensor) -> None:
        appeared[name] = clock.now

    for name, parameter in model.named_parameters():
        hook = partial(note, name)
        parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
    one_pass(model)
    # The attention's own work is slept together with that of its last layer, because both have the
    # same output.
    done = itertools.accumulate([last, output + attention, inputs, 0])
    for name, work in zip(
        ["3.weight", "1.output.weight", "1.inputs.weight", "0.weight"], done, strict=True
    ):
        assert appeared[name] == pytest.approx(step * (1 / 3 + 2 / 3 * work / whole), rel=1e-3), (
            name
        )


def test_time_from_flops_and_a_gpu() -> None:
    """H100 at 40 %: three times the counted forward FLOPs, or what was given."""
    layer = nn.Linear(4096, 4096, bias=False)
    for flops, expected in ((None, 3 * 2 * 8 * 4096**2), (1e15, 1e15)):
        clock = PretendedClock()
        compute = ModelledCompute(layer, gpu="H100", mfu=0.4, flops=flops, clock=clock)
        layer(torch.zeros(8, 4096)).sum().backward()
        peak = peak_flops("H100")
        assert peak == 989e12
        assert compute.step_seconds == pytest.approx(expected / (0.4 * peak))
        layer = nn.Linear(4096, 4096, bias=False)


def test_computing_counts_on_a_real_clock() -> None:
    """What the CPU took is slept less; what it took too long is late."""
    clock, model = PretendedClock(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    compute = ModelledCompute(model, step_time=0.090, clock=clock)
    data = torch.zeros(4, 8)
    model(data).sum().backward()
    compute.take()
    begin = clock.now
    for _ in range(10):
        clock.compute(20 * MS)
        model(data).sum().backward()
    assert clock.now - begin == pytest.approx(10 * 90 * MS, rel=0.01)
    assert compute.take().late_ns == 0
    clock.compute(200 * MS)
    model(data).sum().backward()
    with pytest.warns(UserWarning, match="cannot keep up"):
        assert compute.take().late_ns == pytest.approx(110 * MS, rel=0.01)


def test_stragglers_and_jitter() -> None:
    """A straggler takes its factor longer; jitter has its deviation, and its times by the seed."""

    def times(slowdown: float = 1.0, jitter: float = 0.0, seed: int = 0) -> list[int]:
        clock, model = PretendedClock(), nn.Linear(8, 8)
        compute = ModelledCompute(
            model, step_time=0.1, clock=clock, slowdown=slowdown, jitter=jitter, seed=seed
        )
        found = []
        for _ in range(400):
            model(torch.zeros(1, 8)).sum().backward()
            found.append(compute.take().modelled_ns)
        return found

    assert set(times(slowdown=1.5)) == {150 * MS}
    drawn = torch.tensor(times(jitter=0.05, seed=1), dtype=torch.float64)
    assert drawn.mean().item() == pytest.approx(100 * MS, rel=0.01)
    assert drawn.std().item() == pytest.approx(5 * MS, rel=0.15)
    assert drawn.tolist() == times(jitter=0.05, seed=1)
    assert drawn.tolist() != times(jitter=0.05, seed=2)


def test_the_real_clock() -> None:
    """Eleven steps of 20 ms take no less; how much more depends on the machine.

    The first step counts: a sleep that lasts too long there shortens those after it.
    """
    model = transformer()
    ModelledCompute(model, step_time=0.02)
    begin = time.monotonic()
    for _ in range(11):
        one_pass(model)
    assert time.monotonic() - begin > 0.219


def test_neither_time_nor_gpu() -> None:
    with pytest.raises(ValueError, match="set step_time in seconds, or gpu to one of V100, A100"):
        ModelledCompute(nn.Linear(2, 2), gpu="H1000")


def test_inference_sleeps_the_forward_pass_only() -> None:
    clock, model = PretendedClock(), transformer()
    ModelledCompute(model, step_time=0.3, clock=clock)
    with torch.no_grad():
        for _ in range(3):
            model(torch.zeros(BATCH, LENGTH, dtype=torch.long))
    assert clock.now == pytest.approx(300 * MS, rel=0.01)
