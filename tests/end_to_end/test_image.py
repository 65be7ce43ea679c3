"""An image of the user's: its own Python, torch and libraries, and nothing of this machine but the
testbed's code.

The image is made here of this machine's interpreter and packages, in both forms that `--image`
takes: as ``docker save`` writes it, and as a plain root file system.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import testbed
from tests.support.runs import Command, Folder

REJOIN = Path(testbed.__file__).parent.parent / "examples/rejoin.py"
BASE = Path(sys.base_prefix)
PACKAGES = Path(torch.__file__).parent.parent
LEFT_OUT = (
    "__pycache__",
    "test",
    "tests",
    "include",
    "share",
    "_inductor",
    "idlelib",
    "lib2to3",
    "pip",
    "setuptools",
)
WANTED = (
    "torch*",
    "numpy*",
    "pydantic*",
    "annotated_types",
    "typing_extensions.py",
    "typing_inspection",
    "sympy",
    "mpmath",
    "networkx",
    "jinja2",
    "markupsafe",
    "filelock",
    "fsspec",
    "functorch",
)
TOPOLOGY = """
name: image
datacenters: {west: {nic: {delay: 0 ms}}, east: {nic: {delay: 0 ms}}}
wan: [{between: [west, east], rate: 1 Gbit/s, delay: 10 ms}]
"""
MS_OF_4_KB = 40.05  # four one-way trips of 10 ms


def contents() -> Iterator[tuple[Path, str]]:
    """Files of the image: where they are, and their names in it."""
    for shell in ("/bin/sh", "/bin/sleep"):
        yield Path(shell).resolve(), shell
    libraries = [*list((BASE / "lib").rglob("*.so*")), BASE / "bin" / "python3.11", Path("/bin/sh")]
    for library in _linked(libraries):
        yield library.resolve(), str(library)
    for path in _tree(BASE / "lib"):
        if "site-packages" not in path.parts:
            yield path, str(path)
    yield (BASE / "bin/python3").resolve(), str(BASE / "bin/python3.11")
    for pattern in WANTED:
        for package in PACKAGES.glob(pattern):
            for path in _tree(package):
                yield path, str(BASE / "lib/python3.11/site-packages" / path.relative_to(PACKAGES))


def _tree(place: Path) -> Iterator[Path]:
    for path in [place] if place.is_file() else sorted(place.rglob("*")):
        inside = path.relative_to(place.parent).parts[1:]
        if (
            path.is_file()
            and path.suffix not in (".a", ".h", ".pyi")
            and not set(inside) & set(LEFT_OUT)
        ):
            yield path


def _linked(programs: list[Path]) -> set[Path]:
    """The system's libraries that programs are linked with."""
    found = set()
    for program in programs:
        listed = subprocess.run(
            ["ldd", program], capture_output=True, text=True, check=False
        ).stdout
        found |= {Path(word) for word in listed.split() if word.startswith("/lib")}
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tar of a root file system."""
    path = tmp_path_factory.mktemp("image") / "root.tar"
    with tarfile.open(path, "w") as archive:
        for source, name in contents():
            archive.add(source, name.lstrip("/"), recursive=False)
        for name, target in (
            ("usr/local/bin/python3", str(BASE / "bin/python3.11")),
            ("usr/bin", "../bin"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name in ("tmp", "run", "proc", "sys", "dev", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
    return path


@pytest.fixture(scope="module")
def saved(root: Path) -> Path:
    """The same as ``docker save`` writes it."""
    digest = hashlib.sha256(root.read_bytes()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["mine:latest"], "Layers": ["layer.tar"]}]
    path = root.with_name("saved.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(root, "layer.tar")
        for name, value in (("config.json", config), ("manifest.json", manifest)):
            text = json.dumps(value).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return path


@pytest.mark.proof
@pytest.mark.parametrize("form", ["root", "saved"])
def test_an_image_of_the_users(
    form: str, command: Command, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    image: Path = request.getfixturevalue(form)
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    out = tmp_path / "run"
    words = ["--set", "workload.ops=[all_reduce]", "--set", "workload.sizes=[4000 B]"]
    command(
        "run",
        tmp_path / "topology.yaml",
        "collectives",
        *words,
        "--image",
        image,
        "--out",
        out,
        timeout_s=600,
    )
    run = Folder(out)
    assert (run.status["state"], run.status["faithful"]) == ("completed", True)
    (row,) = run.summary["collectives"]
    assert (row["ranks"], row["wrong"]) == (2, 0)
    assert row["time_us"]["median"] / 1000 == pytest.approx(MS_OF_4_KB, rel=0.015)
    containers = run.json("logs/containers.json")
    assert all(
        "testbed.workers.zygote" in " ".join(container["Args"]) for container in containers.values()
    )


def test_a_script_in_an_image(root: Path, command: Command, tmp_path: Path) -> None:
    """The image's Python runs it, finds the other host by name, and is started again when its host
    has crashed.
    """
    events = "events: [{at: 2 s, duration: 3 s, hosts: east-h0, crash: host}]"
    (tmp_path / "topology.yaml").write_text(TOPOLOGY + events)
    out = tmp_path / "run"
    words = ["--image", root, "--env", "MASTER_ADDR=west-h0", "--out", out]
    command("run", tmp_path / "topology.yaml", *words, "--", REJOIN, timeout_s=600)
    run = Folder(out)
    assert (run.status["state"], run.status["faithful"]) == ("completed", True)
    assert [(out / f"logs/rank-{rank}.log").read_text().splitlines()[-1] for rank in (0, 1)] == [
        "done 1",
        "done 1",
    ]
    starts = [json.loads(line) for line in (out / "raw/ranks.jsonl").read_text().splitlines()]
    assert all("eth0" in start["interfaces"] for start in starts)
    small, steps = run.summary["collectives"]
    assert (small["op"], small["bytes"], small["iterations"]) == ("all_reduce", 8, 2)
    assert (steps["bytes"], steps["iterations"]) == (4000, pytest.approx(60, abs=1))
    assert steps["time_us"]["median"] / 1000 == pytest.approx(MS_OF_4_KB, rel=0.015)
