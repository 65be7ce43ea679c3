"""What HolisticTraceAnalysis itself finds in the traces of a run; it is installed for this test,
without JupyterLab.

`tests/unit/report/test_perfetto.py` holds the rules by which it counts; here the package counts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import set_options
from tests.support.shared import Command, Need

PACKAGES = (
    "HolisticTraceAnalysis==0.5.0",
    "pandas",
    "ipython",
    "jupyterlab_server",
    "python-dateutil",
    "six",
    "tzdata",
)
STEPS, RANKS, STEP_MS = 6, 2, 50
TOPOLOGY = """
name: pair
datacenters: {west: {nic: {delay: 0 ms}}, east: {nic: {delay: 0 ms}}}
wan: [{between: [west, east], rate: 1 Gbit/s, delay: 10 ms}]
"""
COUNT = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
from hta.trace_analysis import TraceAnalysis
traces = TraceAnalysis(trace_dir=sys.argv[1])
kinds, _kernels = traces.get_gpu_kernel_breakdown(visualize=False)
overlap = traces.get_comm_comp_overlap(visualize=False)
print(json.dumps({
    "us": dict(zip(kinds["kernel_type"], map(float, kinds["sum"]))),
    "overlap": {int(rank): float(part) for rank, part in zip(overlap["rank"], overlap.iloc[:, 1])},
}))
"""


@pytest.fixture(scope="module")
def hta(tmp_path_factory: pytest.TempPathFactory, need: Need) -> Path:
    """A folder with the package and what this test needs of its dependencies."""
    folder = tmp_path_factory.mktemp("hta")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        *PACKAGES,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"HolisticTraceAnalysis from PyPI ({done.stderr.strip()[-200:]})")
    return folder


@pytest.mark.proof
def test_it_counts_communication_and_computation(
    hta: Path, command: Command, tmp_path: Path
) -> None:
    """Computation as modelled within 1 %; communication is there, and the part that overlaps is a
    part.
    """
    (tmp_path / "pair.yaml").write_text(TOPOLOGY)
    values = {
        "parameters": 400_000,
        "steps": STEPS,
        "step_time": f"{STEP_MS} ms",
        "bucket": "200 KiB",
    }
    words = set_options(values)
    out = tmp_path / "run"
    command("run", tmp_path / "pair.yaml", "train", *words, "--isolation", "process", "--out", out)
    command("report", out, "--rank-traces", tmp_path / "traces")
    path = os.pathsep.join([str(hta), *sys.path])
    counted = subprocess.run(
        [sys.executable, "-c", COUNT, tmp_path / "traces"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert counted.returncode == 0, counted.stderr
    found = json.loads(counted.stdout.splitlines()[-1])
    both = found["us"].get("COMPUTATION overlapping COMMUNICATION", 0.0)
    assert found["us"]["COMPUTATION"] + both == pytest.approx(
        1000 * STEP_MS * STEPS * RANKS, rel=0.01
    )
    assert found["us"]["COMMUNICATION"] > 0
    assert sorted(found["overlap"]) == ["0", "1"]
    assert all(0 <= part <= 100 for part in found["overlap"].values())
