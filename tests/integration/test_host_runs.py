"""`--where here` is refused where it cannot work, before anything is made."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent.parent
ROOT = os.geteuid() == 0
WITHOUT_RIGHTS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"] if ROOT else []
JOB = ["two-sites", "collectives", "--where", "here", "--isolation", "process"]
# Runs $1... without dockerd; $0 is an empty file.
HIDE_DOCKER = """
for folder in /usr/sbin /usr/local/sbin /usr/bin /usr/local/bin /sbin /bin; do
    file=$folder/dockerd
    [ ! -e $file ] || mount --bind "$0" $file
done
exec "$@"
"""


def run_testbed(
    *words: object, prefix: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `testbed run` with these words, as the command of `prefix`."""
    environment = {"COLUMNS": "200"}
    for name, value in os.environ.items():
        if name != "COLUMNS" and not name.startswith("TESTBED_"):
            environment[name] = value
    return subprocess.run(
        [*(prefix or []), sys.executable, "-m", "testbed", "run", *map(str, words)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def dry_run(*words: str) -> dict[str, Any]:
    """Give the plan that a dry run prints, which needs no rights."""
    plan: dict[str, Any] = json.loads(run_testbed(*words, "--dry-run").stdout)
    return plan


def test_without_root(tmp_path: Path) -> None:
    """Status 3, the reason, what else to do; and no tables of a run that never was."""
    result = run_testbed(*JOB, "--out", tmp_path / "run", prefix=WITHOUT_RIGHTS)
    assert result.returncode == 3, result.stderr
    reason = "this needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    assert f"cannot run on the host: {reason}" in result.stderr
    assert (
        "without --where here, testbed uses a guest, which has no such requirements"
        in result.stderr
    )
    assert "`testbed doctor` lists what works on this machine" in result.stderr
    assert result.stdout == ""
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["state"], status["exit_status"], status["faithful"]) == ("failed", 3, False)


def test_virtual_clock_is_refused(tmp_path: Path) -> None:
    result = run_testbed(*JOB, "--clock", "virtual", "--out", tmp_path / "run")
    assert result.returncode == 2
    message = "--clock: the host kernel has no virtual clock"
    assert f"{message}\n  use --clock real or --where guest" in result.stderr
    assert not (tmp_path / "run").exists()


def test_clock_is_real_on_the_host_by_default() -> None:
    plan = dry_run(*JOB)
    assert (plan["where"], plan["clock"]) == ("here", "real")
    plan = dry_run("two-sites", "collectives")
    assert (plan["where"], plan["clock"]) == ("guest", "virtual")


def test_missing_program(need: Callable[[object, str], None], tmp_path: Path) -> None:
    """A machine without Docker: refused before a guest is started."""
    empty = tmp_path / "empty"
    empty.write_text("")
    empty.chmod(0o644)
    user = [] if ROOT else ["--user", "--map-root-user"]
    without_docker = ["unshare", *user, "--mount", "bash", "-c", HIDE_DOCKER, str(empty)]
    attempt = subprocess.run([*without_docker, "true"], capture_output=True, check=False)
    need(attempt.returncode == 0, "mount namespaces")
    result = run_testbed(
        "two-sites", "collectives", "--out", tmp_path / "run", prefix=without_docker
    )
    assert result.returncode == 3, result.stderr
    assert "programs that this run needs are not installed: dockerd" in result.stderr
    assert "apt-get install --no-install-recommends docker.io" in result.stderr
