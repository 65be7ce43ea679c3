"""Options of captures are checked before anything starts, and are in the plan."""

import json
import shutil
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.plan.model import CAPTURE_BUFFER_BYTES
from tests.support.shared import Need


def plan(*words: str) -> dict[str, Any]:
    command = ["run", "two-sites", "collectives", "--dry-run", *words]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def refusal(*words: str) -> str:
    command = ["run", "two-sites", "collectives", "--dry-run", *words]
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, command, catch_exceptions=False)
    return str(caught.value)


def test_plan_has_the_options(need: Need) -> None:
    need(shutil.which("tcpdump"), "tcpdump")
    options = [
        "--capture-filter",
        "tcp port 29500",
        "--capture-snap",
        "96 B",
        "--capture-limit",
        "1 GB",
    ]
    found = plan("--capture", "all", *options)
    assert found["capture"] == "all"
    assert found["capturing"] == {
        "filter": "tcp port 29500",
        "snap_bytes": 96,
        "limit_bytes": 10**9,
    }


def test_memory_of_captured_interfaces(need: Need) -> None:
    """In two-sites: two ends of a link, two routers' ports towards datacenters, and the hosts."""
    need(shutil.which("tcpdump"), "tcpdump")
    plans = {capture: plan("--capture", capture) for capture in ("none", "wan", "all")}
    memory = {capture: plan["guest_memory_bytes"] for capture, plan in plans.items()}
    hosts = len(plans["wan"]["network"]["hosts"])
    assert memory["wan"] - memory["none"] == 4 * CAPTURE_BUFFER_BYTES
    assert memory["all"] - memory["wan"] == hosts * CAPTURE_BUFFER_BYTES


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["--capture-filter", "tcp"],
            ["--capture-filter: capturing is off", "add --capture wan"],
        ),
        (["--capture-limit", "1 GB"], ["--capture-limit: capturing is off"]),
        (
            ["--capture", "wan", "--capture-filter", "tcp prt 1"],
            ["'tcp prt 1' is not a valid filter: syntax error", "pcap-filter"],
        ),
        (["--capture", "wan", "--capture-filter", "port x"], ["'port x' is not a valid filter"]),
        (
            ["--capture", "wan", "--capture-snap", "20 B"],
            ["--capture-snap: 20 B is out of range", "at least 54 B"],
        ),
        (["--capture", "wan", "--capture-snap", "1 MB"], ["--capture-snap", "at most 256 KiB"]),
        (
            ["--capture", "wan", "--capture-limit", "1 MB"],
            ["--capture-limit: 1000000 B is out of range", "at least"],
        ),
        (
            ["--capture", "wan", "--capture-limit", "many"],
            ["--capture-limit: 'many' is not a size"],
        ),
    ],
)
def test_wrong_options(need: Need, words: list[str], parts: list[str]) -> None:
    need(shutil.which("tcpdump"), "tcpdump")
    text = refusal(*words)
    for part in parts:
        assert part in text
