"""The same network on the virtual clock and on the real one, at rates that a CPU can carry.

On the real clock the guest is an ordinary Linux with Mininet and tc, without the edits that make
time virtual; no publication is needed to compare both.
"""

from pathlib import Path

import pytest

from tests.support.runs import Command, Folder, all_reduce

TOPOLOGY = """
name: slow
datacenters:
  west: {hosts: 2, nic: {rate: 1 Gbit/s, delay: 0 ms}}
  east: {hosts: 1, nic: {rate: 1 Gbit/s, delay: 0 ms}}
wan:
  - {between: [west, east], rate: RATE, delay: 20 ms, queue: 1 MiB}
"""
JOB = all_reduce("256 KiB, 2 MiB", iterations=7, warmup=2)
TOLERANCE = 0.02  # timers of the machine are late by up to 1 ms, and operations take 0.2 s or more

pytestmark = [pytest.mark.proof, pytest.mark.alone]


@pytest.mark.parametrize("rate", ["10 Mbit/s", "30 Mbit/s", "100 Mbit/s"])
def test_all_reduces(rate: str, command: Command, tmp_path: Path) -> None:
    """Medians of both clocks agree within 2 %."""
    topology = tmp_path / "slow.yaml"
    topology.write_text(TOPOLOGY.replace("RATE", rate))
    medians_ms: dict[str, dict[int, float]] = {}
    for clock in ("virtual", "real"):
        out = tmp_path / clock
        words = ["run", topology, "collectives", *JOB, "--clock", clock, "--isolation", "process"]
        command(*words, "--out", out)
        medians_ms[clock] = Folder(out).median_ms()

    print(f"\n{rate}: {medians_ms}")
    assert len(medians_ms["virtual"]) == 2
    assert medians_ms["real"] == pytest.approx(medians_ms["virtual"], rel=TOLERANCE)
