"""What strangers may hand over: run folders, names, words. Nothing of it is executed, followed or
taken for a path.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from testbed.analysis.summarize import collect
from testbed.api import default_folder
from testbed.core.errors import InputError
from testbed.guest.boot import GuestSpec, _job
from testbed.guest.kernel import Kernel
from testbed.report.page import write_page
from testbed.runfolder.files import read_plain, replace_text, write_json
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Follower, RankExit
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology
from tests.support.synthetic import make_plan, two_dcs, write_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_run(tmp_path / "run", make_plan(two_dcs()))


def replaced(value: object) -> object:
    """`value` with every name in it made hostile."""
    if isinstance(value, dict):
        return {key: replaced(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner) for inner in value]
    return (
        value + HOSTILE
        if value in ("east", "west", "east-west", "east-0", "west-0", "all_reduce")
        else value
    )


def test_names_in_a_run_folder_do_not_become_code(run: RunDir) -> None:
    """Every name of plan and records holds markup; in the page it is text."""
    run.plan.write_text(json.dumps(replaced(json.loads(run.plan.read_text()))))
    for path in run.raw.glob("*.jsonl"):
        lines = [json.dumps(replaced(json.loads(line))) for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")
    write_json(
        run.status,
        {"state": "failed", "reason": HOSTILE, "warnings": [HOSTILE], "command": [HOSTILE]},
    )
    run.spec.write_text(f"name: {HOSTILE}\n")
    collect(run)
    page = write_page(run).read_text()
    assert HOSTILE not in page
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "alert(1)" in page  # it is there, as text


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), "a symbolic link"),
        (os.mkfifo, "a FIFO"),
    ],
)
@pytest.mark.parametrize(
    "name", ["raw/ops-0.jsonl", "ops.parquet", "report.html", "logs/rank-0.log"]
)
def test_a_run_folder_with_links_or_fifos_is_refused(
    run: RunDir, name: str, make: Callable[[Path], None], what: str
) -> None:
    path = run.path / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(
        InputError, match=rf"{name} is {what}, but a run folder holds only plain files"
    ):
        RunDir.open(run.path)


def test_scripts_may_make_links_where_they_work(run: RunDir) -> None:
    run.work("east-0").mkdir(parents=True)
    (run.work("east-0") / "latest").symlink_to("step-10")
    assert RunDir.open(run.path) == run


def test_reading_follows_no_link_and_waits_for_no_fifo(tmp_path: Path) -> None:
    secret, link, fifo = tmp_path / "secret", tmp_path / "link", tmp_path / "fifo"
    secret.write_text('{"a": 1}\n')
    link.symlink_to(secret)
    os.mkfifo(fifo)
    assert read_plain(secret) == '{"a": 1}\n'
    for path in (link, fifo, tmp_path):
        with pytest.raises(OSError):
            read_plain(path)
        assert Follower(path, RankExit).new() == []


def test_writing_follows_no_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("of somebody")
    path = tmp_path / "status.json"
    path.symlink_to(target)
    (tmp_path / f"status.json.{os.getpid()}.new").symlink_to(target)
    replace_text(path, "mine")
    assert (target.read_text(), path.read_text(), path.is_symlink()) == (
        "of somebody",
        "mine",
        False,
    )


def test_records_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "records"
    first, second = RankExit(rank=1, status=0), RankExit(rank=2, status=0)
    lines = [first.to_line().encode(), b"nonsense\n[1]\n\xff\xfe\n", second.to_line().encode()]
    path.write_bytes(b"".join(lines))
    assert Follower(path, RankExit).new() == [first, second]


def test_a_capture_is_in_its_folder(run: RunDir) -> None:
    assert run.capture("../../etc/passwd", "x/../..").parent == run.captures


@settings(max_examples=60, deadline=None)
@given(command=st.lists(WORDS, min_size=1, max_size=4), value=WORDS, folder=WORDS)
def test_words_reach_the_guest_as_they_are(command: list[str], value: str, folder: str) -> None:
    """The guest's first process is a shell that reads its job from a file: no character means
    anything in it.
    """
    path = Path("/tmp", f"run{folder}")
    spec = GuestSpec(
        kernel=Kernel(Path("/linux"), "6.12", virtual_time=True),
        command=command,
        writable=path,
        memory_bytes=2**30,
        clock="virtual",
        clock_file=path / "clock",
        console=None,
        readable=[path],
        environment={"NAME": value},
    )
    job = _job(spec)
    script = f'{job}\nprintf "%s\\0" "$writable" "${{readable[@]}}" "${{command[@]}}"'
    env = {"LC_ALL": "C.UTF-8", "PATH": "/nowhere"}
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, check=True, env=env)
    assert done.stdout.decode().split("\0")[:-1] == [
        str(path),
        str(path),
        f"NAME={value}",
        *command,
    ]


@given(name=WORDS, workload=WORDS)
def test_a_run_folder_named_after_a_topology_is_below_results(name: str, workload: str) -> None:
    path = default_folder(name, workload)
    assert path.parent == Path("results")
    assert path.name.isascii()
    assert not set(path.name) & set("/ \t\n$`;&|<>*?'\"\\")


@given(name=WORDS)
def test_names_of_datacenters_are_names(name: str) -> None:
    """What a topology file calls a datacenter becomes part of host names and files: it is refused,
    or is harmless.
    """
    try:
        topology = Topology.model_validate({"name": "t", "datacenters": {name: {"hosts": 1}}})
    except ValueError:
        return
    (kept,) = topology.datacenters
    assert kept.replace("-", "").replace(".", "").replace("_", "").isalnum()
    assert kept.isascii()


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!include x"]
)
def test_yaml_makes_no_objects(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: {text}\ndatacenters: {{a: {{hosts: 1}}}}\n")
    with pytest.raises(InputError):
        Topology.load(path)
    with pytest.raises(InputError):
        Topology.load(
            "two-sites", parse_overrides([f"topology.name={text}"], ["topology"])["topology"]
        )
