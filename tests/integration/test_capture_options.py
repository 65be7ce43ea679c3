"""Options of captures are checked before anything starts, and are in the plan."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.plan.model import CAPTURE_BUFFER_BYTES


def plan(*words):
    command = ["run", "two-sites", "collectives", "--dry-run", *words]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    return json.loads(done.stdout)


def refused(*words):
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(
            app, ["run", "two-sites", "collectives", "--dry-run", *words], catch_exceptions=False
        )
    return str(caught.value)


def test_the_plan_has_the_options(need):
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


def test_each_captured_interface_has_its_memory(need):
    """two-sites: two ends of a link, two routers' ports towards their datacenters, and the
    hosts.
    """
    need(shutil.which("tcpdump"), "tcpdump")
    without, wan, everything = (plan("--capture", what) for what in ("none", "wan", "all"))
    hosts = len(wan["network"]["hosts"])
    assert wan["guest_memory_bytes"] - without["guest_memory_bytes"] == 4 * CAPTURE_BUFFER_BYTES
    assert (
        everything["guest_memory_bytes"] - wan["guest_memory_bytes"] == hosts * CAPTURE_BUFFER_BYTES
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["--capture-filter", "tcp"],
            ["--capture-filter: nothing is captured", "add --capture wan"],
        ),
        (["--capture-limit", "1 GB"], ["--capture-limit: nothing is captured"]),
        (
            ["--capture", "wan", "--capture-filter", "tcp prt 1"],
            ["'tcp prt 1' is no filter: syntax error", "pcap-filter"],
        ),
        (["--capture", "wan", "--capture-filter", "port x"], ["'port x' is no filter"]),
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
def test_what_is_refused(need, words, parts):
    need(shutil.which("tcpdump"), "tcpdump")
    said = refused(*words)
    for part in parts:
        assert part in said
