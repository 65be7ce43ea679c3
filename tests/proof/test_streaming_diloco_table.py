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
from dataclasses import dataclass
from pathlib import Path

import pytest

import testbed

GRID = [10 ** (-1 + 4 * k / 49) for k in range(50)]  # Gbit/s
RATES = [f"{round(1000 * gbps)} Mbit/s" for gbps in GRID]
UTILISATIONS = (0.50, 0.80, 0.90, 0.95, 0.99)
MOST_RUNS = 9  # both ends, six halvings of 49 steps, and a probe
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
    return {"method": method, "early_exchange": True, "exchange_dtype": "float16"} | period | more


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
TOPOLOGY = {
    "name": "two-workers",
    "datacenters": {
        "one": {"hosts": 1, "nic": {"rate": "100 Tbit/s", "delay": "0 ms"}},
        "two": {"hosts": 1, "nic": {"rate": "100 Tbit/s", "delay": "0 ms"}},
    },
    "wan": [{"between": ["one", "two"], "rate": "1 Gbit/s", "delay": "1 us", "queue": "32 GiB"}],
    "mtu": 9000,
    "tcp": {"congestion_control": "reno", "slow_start_after_idle": False},
}


def nearest(gbps: float) -> int:
    """The place in the grid of a published figure, which has two or three digits."""
    return min(range(len(GRID)), key=lambda k: abs(GRID[k] / gbps - 1))


def experiment(name: str) -> dict[str, object]:
    """The searches of a row of the table, one for each utilisation; they share runs."""
    row = ROWS[name]
    settings: dict[str, object] = {"workload.batch": 1, "workload.sequence": 8}
    for key, value in (row.model | row.method).items():
        settings[f"workload.{key}"] = value
    return {
        "name": "table-4",
        "topology": TOPOLOGY,
        "workload": "train",
        "settings": settings | {"run.isolation": "process"},
        "find": {
            "least": "topology.wan.one-two.rate",
            "values": RATES,
            "for": {"such_that": [f"compute_utilisation >= {share:.0%}" for share in UTILISATIONS]},
        },
    }


@pytest.mark.proof
@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, tmp_path: Path) -> None:
    """Each figure within one step of the grid, by at most nine runs."""
    found = testbed.find(experiment(name), out=tmp_path / "search", timeout_s=900, progress=print)
    places = [RATES.index(answer.value) for answer in found.answers]
    targets = " | ".join(f"{target:.0%}" for target in UTILISATIONS)
    print(f"\n| {name} | {targets} |\n|---|--:|--:|--:|--:|--:|")
    print(f"| published (Gbit/s) | {' | '.join(f'{gbps:g}' for gbps in ROWS[name].published)} |")
    print(f"| measured (Gbit/s) | {' | '.join(f'{GRID[place]:.3g}' for place in places)} |")
    print(f"| runs | {' | '.join(str(answer.runs) for answer in found.answers)} |")
    for answer in found.answers:
        assert answer.runs <= MOST_RUNS
        assert answer.monotone
    assert found.sweep.unfaithful == []
    for folder in (found.path / "points").iterdir():
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["training"]["late_ms"] == 0
    published = [nearest(gbps) for gbps in ROWS[name].published]
    assert all(abs(a - b) <= 1 for a, b in zip(places, published, strict=True)), places
