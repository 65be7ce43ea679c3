"""Runs of two hosts that are 10 ms apart, and how to read their folders."""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

Command = Callable[..., subprocess.CompletedProcess[str]]  # the fixture `command`
Need = Callable[[object, str], None]  # the fixture `need`
PAIR = """
name: pair
datacenters:
  west: {hosts: 1, nic: {delay: 0 ms}}
  east: {hosts: 1, nic: {delay: 0 ms}}
wan:
  - {between: [west, east], rate: 1 Gbit/s, delay: 10 ms}
"""
LOSSY = """
name: lossy
datacenters:
  oslo: {hosts: 2, nic: {rate: 10 Gbit/s}}
  bern: {hosts: 1, nic: {rate: 10 Gbit/s}}
  lima: {hosts: 1, nic: {rate: 10 Gbit/s}}
wan:
  - {mesh: [oslo, bern, lima], rate: 1 Gbit/s, delay: 10 ms, jitter: 1 ms, loss: 0.1 %}
"""


def all_reduce(sizes: str, iterations: int, warmup: int = 1) -> list[str]:
    """Options of ``testbed run`` for all-reduces of these sizes."""
    values = {
        "ops": "[all_reduce]",
        "sizes": f"[{sizes}]",
        "iterations": iterations,
        "warmup": warmup,
    }
    return set_options(values)


def set_options(values: Mapping[str, object]) -> list[str]:
    """Options of ``testbed`` that set keys of a workload."""
    words: list[str] = []
    for key, value in values.items():
        words += ["--set", f"workload.{key}={value}"]
    return words


def records_of_ranks(run: Path) -> dict[str, str]:
    """What the ranks of a run did: the records of their operations and steps, by file."""
    files = [*sorted(run.glob("raw/ops-*.jsonl")), *sorted(run.glob("raw/train-*.jsonl"))]
    return {file.name: file.read_text() for file in files}


@dataclass(frozen=True)
class Folder:
    """A run folder, whose page and timeline must be whole if they have been made."""

    path: Path

    def __post_init__(self) -> None:
        page = self.path / "report.html"
        if page.exists():
            assert "cannot make" not in page.read_text()
            assert (self.path / "trace.json").exists()

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    @property
    def summary(self) -> Any:
        return self.json("summary.json")

    @property
    def status(self) -> Any:
        return self.json("status.json")

    @property
    def began_ns(self) -> int:
        """When rank 0's first operation or step began, from which the events of a topology
        count.
        """
        events = map(json.loads, (self.path / "raw/events.jsonl").read_text().splitlines())
        return next(int(event["time_ns"]) for event in events if event["state"] == "first")

    @property
    def ops(self) -> pl.DataFrame:
        return pl.read_parquet(self.path / "ops.parquet")

    def median_ms(self, op: str = "all_reduce") -> dict[int, float]:
        """Median time of the measured operations of this kind, by bytes."""
        rows = self.summary["collectives"]
        return {row["bytes"]: row["time_us"]["median"] / 1000 for row in rows if row["op"] == op}
