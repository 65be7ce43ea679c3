"""`--where here` is refused where it cannot work, before anything is made."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
WITHOUT_RIGHTS = (
    ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"] if os.geteuid() == 0 else []
)
JOB = ["two-sites", "collectives", "--where", "here", "--isolation", "process"]


def started(*words: object, before: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TESTBED_")
    }
    return subprocess.run(
        [*(before or []), sys.executable, "-m", "testbed", "run", *map(str, words)],
        cwd=PROJECT,
        env={**environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_root(tmp_path: Path) -> None:
    """Status 3, the reason, what else to do; and no tables of a run that never was."""
    done = started(*JOB, "--out", tmp_path / "run", before=WITHOUT_RIGHTS)
    assert done.returncode == 3, done.stderr
    assert (
        "a run here is not possible: this needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
        in done.stderr
    )
    assert "without --where here it uses a guest, which needs none of it" in done.stderr
    assert "testbed doctor says what this machine can do" in done.stderr
    assert done.stdout == ""
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["state"], status["exit_status"], status["faithful"]) == ("failed", 3, False)


def test_a_virtual_clock_here(tmp_path: Path) -> None:
    done = started(*JOB, "--clock", "virtual", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert (
        "--clock: this kernel's clock cannot be virtual\n  use --clock real or --where guest"
        in done.stderr
    )
    assert not (tmp_path / "run").exists()


def test_the_clock_here_is_real_unless_said(tmp_path: Path) -> None:
    """A dry run needs no rights."""
    plan = json.loads(started(*JOB, "--dry-run").stdout)
    assert (plan["where"], plan["clock"]) == ("here", "real")
    plan = json.loads(started("two-sites", "collectives", "--dry-run").stdout)
    assert (plan["where"], plan["clock"]) == ("guest", "virtual")


def test_a_program_that_is_not_installed(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    """A PATH without Docker: refused before a guest is started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    hide = (
        "for d in /usr/sbin /usr/local/sbin /usr/bin /usr/local/bin /sbin /bin; do f=$d/dockerd; "
    )
    hide += '[ ! -e $f ] || mount --bind "$0" $f; done; exec "$@"'
    empty = tmp_path / "empty"
    empty.write_text("")
    empty.chmod(0o644)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    world = ["unshare", *user, "--mount", "bash", "-c", hide, str(empty)]
    need(
        subprocess.run([*world, "true"], capture_output=True, check=False).returncode == 0,
        "mount namespaces",
    )
    done = started("two-sites", "collectives", "--out", tmp_path / "run", before=world)
    assert done.returncode == 3, done.stderr
    assert "programs that this run needs are not installed: dockerd" in done.stderr
    assert "apt-get install --no-install-recommends docker.io" in done.stderr
