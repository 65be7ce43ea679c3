"""Bandwidth that a compute utilisation needs, found by running, against Table 4 of the Streaming DiLoCo paper.

A. Douillard et al., "Streaming DiLoCo with overlapping communication", arXiv 2501.18512: 1 B parameters, steps of
0.1 s, 24 layers, H = 100, two workers, hardly any latency. The paper simulates rates on a grid of 50 from 0.1 to
1000 Gbit/s, equal on a logarithmic scale (steps of 21 %), and gives the lowest that reaches each utilisation. Gradients
and outer gradients are reduced layer by layer during the backward pass, as in the paper's simulator (its first author
says so at arthurdouillard.com/diloco). Here parameters and all rates are 1/100 of that, because at 1/1000 single
packets take long enough to show: 0.4 ms at 184 Gbit/s.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., object]
GRID = [10 ** (-1 + 4 * k / 49) for k in range(50)]  # Gbit/s
UTILISATIONS = (0.50, 0.80, 0.90, 0.95, 0.99)
PUBLISHED = {  # Gbit/s
    "data-parallel": (86.8, 152.6, 184.2, 222.3, 569.0),
    "DiLoCo": (1.4, 6.2, 13.3, 23.3, 86.8),
}
LAYERS, EVERY = 24, 100
SCALE = 100
BUCKET_MIB = 2 / 3 * 1e9 * 4 / LAYERS / 2**20  # DDP ends a bucket with the parameter that fills it: a layer on average
COMMON = {"parameters": "1 B", "layers": LAYERS, "step_time": "100 ms", "batch": 1, "sequence": 8}
METHODS = {  # 16 bits for a parameter, as bfloat16 has
    "data-parallel": {"method": "ddp-fp16", "bucket": f"{BUCKET_MIB:.0f} MiB", "steps": 7, "warmup": 2},
    "DiLoCo": {
        "method": "diloco", "early_exchange": "true", "exchange_dtype": "float16", "sync_every": EVERY,
        "steps": EVERY, "warmup": 0,
    },
}  # fmt: skip
TOPOLOGY = """
name: two-workers
datacenters:
  one: {{hosts: 1, nic: {{rate: 100 Tbit/s, delay: 0 ms}}}}
  two: {{hosts: 1, nic: {{rate: 100 Tbit/s, delay: 0 ms}}}}
wan:
  - {{between: [one, two], rate: {rate} Mbit/s, delay: 1 us, queue: 32 GiB}}
mtu: 9000
"""


def utilisation(row: str, gbps: float, command: Command, folder: Path) -> float:
    """Compute utilisation of a run at `gbps`."""
    name = f"{row}-{gbps:.4g}"
    topology = folder / f"{name}.yaml"
    topology.write_text(TOPOLOGY.format(rate=round(1000 * gbps)))
    words = [w for key, value in (COMMON | METHODS[row]).items() for w in ("--set", f"workload.{key}={value}")]
    out = folder / name
    command("run", topology, "train", "--scale", SCALE, *words, "--isolation", "process", "--out", out, timeout_s=900)
    status, summary = (json.loads((out / file).read_text()) for file in ("status.json", "summary.json"))
    assert status["faithful"], status
    assert summary["training"]["late_ms"] == 0
    found: float = summary["training"]["compute_utilisation"]
    print(f"{row}: {gbps:.1f} Gbit/s: {found:.4f}", flush=True)
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
@pytest.mark.parametrize("row", PUBLISHED)
def test_row(row: str, command: Command, tmp_path: Path) -> None:
    """Each figure within one step of the grid."""
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = utilisation(row, GRID[place], command, tmp_path)
        return known[place]

    published = [nearest(gbps) for gbps in PUBLISHED[row]]
    found = [search(start, target, at) for start, target in zip(published, UTILISATIONS, strict=True)]
    print(f"\n| {row} | {' | '.join(f'{target:.0%}' for target in UTILISATIONS)} |\n|---|--:|--:|--:|--:|--:|")
    print(f"| published (Gbit/s) | {' | '.join(f'{gbps:g}' for gbps in PUBLISHED[row])} |")
    print(f"| measured (Gbit/s) | {' | '.join(f'{GRID[place]:.3g}' for place in found)} |")
    assert all(abs(a - b) <= 1 for a, b in zip(found, published, strict=True)), (found, published)
