"""Bandwidth that a compute utilisation needs, found by running, against Table 4 of the Streaming
DiLoCo paper.

A. Douillard et al., "Streaming DiLoCo with overlapping communication", arXiv 2501.18512: two
workers, hardly any latency, H = 100; 1 B parameters in 24 layers with steps of 0.1 s, 10 B in 48
with steps of 0.8 s. The paper simulates rates on a grid of 50 from 0.1 to 1000 Gbit/s, equal on a
logarithmic scale (steps of 21 %), and gives the lowest that reaches each utilisation. Gradients and
outer gradients are reduced layer by layer during the backward pass, as in the paper's simulator
(its first author says so at arthurdouillard.com/diloco). Streaming has fragments of three layers,
and with overlap one inner step to exchange each. Here parameters and all rates are 1/100 of that
for 1 B, because at 1/1000 single packets take long enough to show (0.4 ms at 184 Gbit/s), and
1/1000 for 10 B, for steps are eight times as long. The simulator knows no TCP. Here it is Reno's,
whose slow start goes on until all is under way; CUBIC's ends when the delay grows, and its exchange
of 16 Gbit at 1.7 Gbit/s takes 6 % longer, BBR's first ones of 2 Gbit 12 %.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.runs import set_options

Command = Callable[..., object]
GRID = [10 ** (-1 + 4 * k / 49) for k in range(50)]  # Gbit/s
UTILISATIONS = (0.50, 0.80, 0.90, 0.95, 0.99)
EVERY = 100
WARMUP = (
    6  # half a fragment's turn: what is measured holds every exchange, and the wait for it, once
)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    published: tuple[float, ...]  # Gbit/s
    model: dict[str, object]
    method: dict[str, object]


ONE = {"parameters": "1 B", "layers": 24, "step_time": "100 ms", "scale": 100}
TEN = {"parameters": "10 B", "layers": 48, "step_time": "800 ms", "scale": 1000}


def data_parallel(model: dict[str, object]) -> dict[str, object]:
    """DDP ends a bucket with the parameter that fills it, so this is a layer on average."""
    parameters = {"1 B": 10**9, "10 B": 10**10}[str(model["parameters"])]
    mib = 2 / 3 * parameters * 4 / int(str(model["layers"])) / 2**20
    return {"method": "ddp-fp16", "bucket": f"{mib:.0f} MiB", "steps": 7, "warmup": 2}


def diloco(method: str, **more: object) -> dict[str, object]:
    """A whole period, after some steps; 16 bits for a parameter, as bfloat16 has."""
    period = {"sync_every": EVERY, "steps": EVERY + WARMUP, "warmup": WARMUP}
    return {"method": method, "early_exchange": "true", "exchange_dtype": "float16"} | period | more


ROWS = {
    "1 B, data-parallel": Row((86.8, 152.6, 184.2, 222.3, 569.0), ONE, data_parallel(ONE)),
    "1 B, DiLoCo": Row((1.4, 6.2, 13.3, 23.3, 86.8), ONE, diloco("diloco")),
    "1 B, streaming": Row(
        (1.4, 5.2, 9.1, 16.0, 28.1), ONE, diloco("streaming-diloco", fragments=8, overlap=0)
    ),
    "1 B, streaming with overlap": Row(
        (1.4, 4.3, 6.2, 9.1, 11.0), ONE, diloco("streaming-diloco", fragments=8, overlap=1)
    ),
    "10 B, data-parallel": Row((104.8, 222.3, 222.3, 268.3, 471.5), TEN, data_parallel(TEN)),
    "10 B, DiLoCo": Row((1.7, 7.5, 16.0, 33.9, 104.8), TEN, diloco("diloco")),
}
TOPOLOGY = """
name: two-workers
datacenters:
  one: {{hosts: 1, nic: {{rate: 100 Tbit/s, delay: 0 ms}}}}
  two: {{hosts: 1, nic: {{rate: 100 Tbit/s, delay: 0 ms}}}}
wan:
  - {{between: [one, two], rate: {rate} Mbit/s, delay: 1 us, queue: 32 GiB}}
mtu: 9000
tcp: {{congestion_control: reno, slow_start_after_idle: false}}
"""


def utilisation(name: str, gbps: float, command: Command, folder: Path) -> float:
    """Compute utilisation of a run at `gbps`."""
    row, name = ROWS[name], f"{name.replace(', ', '-').replace(' ', '-')}-{gbps:.4g}"
    topology = folder / f"{name}.yaml"
    topology.write_text(TOPOLOGY.format(rate=round(1000 * gbps)))
    values = {"batch": 1, "sequence": 8} | row.model | row.method
    words = set_options(values)
    out = folder / name
    command("run", topology, "train", *words, "--isolation", "process", "--out", out, timeout_s=900)
    status, summary = (
        json.loads((out / file).read_text()) for file in ("status.json", "summary.json")
    )
    assert status["faithful"], status
    assert summary["training"]["late_ms"] == 0
    found: float = summary["training"]["compute_utilisation"]
    print(f"{name}: {gbps:.1f} Gbit/s: {found:.4f}", flush=True)
    return found


def nearest(gbps: float) -> int:
    """The place in the grid of a published figure, which has two or three digits."""
    return min(range(len(GRID)), key=lambda k: abs(GRID[k] / gbps - 1))


def search(start: int, target: float, at: Callable[[int], float]) -> int:
    """The lowest place in the grid whose utilisation reaches `target`, from `start` up or down."""
    place = start
    if at(place) >= target:
        while place > 0 and at(place - 1) >= target:
            place -= 1
        return place
    while at(place) < target:
        place += 1
    return place


@pytest.mark.proof
@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, command: Command, tmp_path: Path) -> None:
    """Each figure within one step of the grid."""
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = utilisation(name, GRID[place], command, tmp_path)
        return known[place]

    published = [nearest(gbps) for gbps in ROWS[name].published]
    found = [
        search(start, target, at) for start, target in zip(published, UTILISATIONS, strict=True)
    ]
    targets = " | ".join(f"{target:.0%}" for target in UTILISATIONS)
    print(f"\n| {name} | {targets} |\n|---|--:|--:|--:|--:|--:|")
    print(f"| published (Gbit/s) | {' | '.join(f'{gbps:g}' for gbps in ROWS[name].published)} |")
    print(f"| measured (Gbit/s) | {' | '.join(f'{GRID[place]:.3g}' for place in found)} |")
    assert all(abs(a - b) <= 1 for a, b in zip(found, published, strict=True)), (found, published)
