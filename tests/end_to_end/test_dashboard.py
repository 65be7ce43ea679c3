"""A real run in the dashboard: seen when it begins, while the network changes, and at its end."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.browser import LONGEST_MS, chromium_started, serving
from tests.support.shared import Need

PAIR = """
name: pair
datacenters:
  west: {hosts: 1}
  east: {hosts: 1}
wan:
  - {between: [west, east], rate: 1 Gbit/s, delay: 10 ms}
events:
  - {at: 3 s, links: all, delay: 20 ms}
"""
OPERATIONS = 2000  # of the all-reduce, so that the run goes on while the page is looked at


@pytest.mark.usefixtures("kernel")
def test_a_real_run_is_watched(
    need: Need, command_environment: dict[str, str], tmp_path: Path
) -> None:
    topology = tmp_path / "pair.yaml"
    topology.write_text(PAIR)
    results = tmp_path / "results"
    results.mkdir()
    words = [sys.executable, "-m", "testbed", "run", str(topology), "collectives"]
    words += ["--isolation", "process", "--out", str(results / "watched")]
    words += ["--set", "workload.ops=[all_reduce]", "--set", "workload.sizes=[4 KiB]"]
    words += ["--set", f"workload.iterations={OPERATIONS}"]
    with chromium_started(need) as chromium, serving(results, command_environment) as address:
        page = chromium.new_page()
        page.set_default_timeout(LONGEST_MS)
        page.goto(address)
        expect(page.locator("#empty")).to_be_visible()
        run = subprocess.Popen(
            words, env=command_environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            page.locator("#now .card", has_text="watched").click()
            expect(page.locator("#stages li").first).to_be_visible()
            expect(page.locator("#doing")).to_have_text(re.compile(r"Running, operation \d+ of"))
            happened = page.locator("#happened li")
            expect(happened).to_contain_text("west-east")
            assert run.poll() is None, "the event is seen while the run goes on"
            at_s = float(happened.locator(".at").inner_text().removesuffix(" s"))
            assert at_s == pytest.approx(3, abs=0.001)  # a change takes some reads of the clock
            expect(page.locator("#figure-ranks .main-svg").first).to_be_visible()

            report = page.frame_locator("#report iframe")
            expect(report.locator("#collectives-table tbody tr")).to_have_count(1)
        finally:
            _out, errors = run.communicate()
        assert run.returncode == 0, errors
        page.goto(address)
        row = page.locator("#results li", has_text="watched")
        expect(row).to_contain_text("all_reduce of 4 KiB among 2 ranks")
