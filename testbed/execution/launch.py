"""Start one plan in a guest or here, watch it, and leave a complete run folder behind, however the
run ends.
"""

from __future__ import annotations

import compileall
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import testbed
from testbed.analysis import fidelity
from testbed.analysis.verdict import INCOMPLETE
from testbed.core.errors import GuestLost, MachineError, RunError, TestbedError
from testbed.execution import host
from testbed.execution.guest_code import bundles, python_for_guests
from testbed.execution.requirements import require
from testbed.execution.supervise import Progress, Running, Watch
from testbed.guest.boot import Guest, remove_stale_guests, returned_if_killed, start_guest
from testbed.guest.kernel import Kernel, ensure_kernel
from testbed.guest.resident import start_series as series_of
from testbed.guest.resident import visit
from testbed.plan.model import Plan
from testbed.runfolder.files import open_plain, read_plain
from testbed.runfolder.folder import RunDir, read_records
from testbed.workers.fleet import ENVIRONMENT

POLL_S = 0.05
LATE = 0.02  # part of a step by which its computation may take longer than modelled
VERSIONS = ("torch", "mininet", "scapy", "pyroute2", "docker")
GUEST_ENVIRONMENT = {
    **ENVIRONMENT,
    "PYDANTIC_DISABLE_PLUGINS": "1",  # it looks for them in every installed package
}
if sys.version_info < (
    3,
    12,
):  # Mininet imports distutils: Python's own, where there is one, is the quicker one
    GUEST_ENVIRONMENT["SETUPTOOLS_USE_DISTUTILS"] = "stdlib"


@dataclass
class Outcome:
    """How a run ended; written to status.json."""

    state: str = "running"  # running | completed | failed | interrupted
    exit_status: int | None = None
    reason: str = ""
    faithful: bool = True
    warnings: list[str] = field(default_factory=list)
    command: Sequence[str] = ()
    pid: int = field(default_factory=os.getpid)
    wall_seconds: float = 0.0
    emulated_seconds: float = 0.0
    forced_ms: float = (
        0.0  # virtual time that was forced on during the operations because a process span
    )
    stages: list[dict[str, Any]] = field(default_factory=list)

    def doubt(self, warning: str) -> None:
        """Mark the run as not faithful."""
        self.faithful = False
        self.warnings.append(warning)


def launch(
    plan: Plan,
    run: RunDir,
    *,
    spec: str,
    command: Sequence[str],
    stall_limit_s: float,
    progress: Progress,
    series: Path | None = None,
) -> Outcome:
    """Carry out `plan` in the new folder `run`, where it says, and make its tables and its page.

    Args:
        spec: what the user wrote, resolved, for spec.yaml.
        command: the user's command line, to repeat the run.
        stall_limit_s: wall time after which a guest whose clock stands still, or that does not get
            ready, is ended.
        series: the folder of a guest that takes orders, in which `run` lies; None: a guest of its
            own.

    Raises:
        TestbedError: the run failed or was lost; status.json tells the same.
        KeyboardInterrupt: as ever; the folder is complete as far as the run came.
    """
    outcome = Outcome(command=command)
    begin = time.monotonic()
    run.write_json(run.status, outcome.__dict__)
    run.spec.write_text(spec)
    with ExitStack() as stack:
        try:
            require(plan.where, plan.workers.isolation, plan.capture)
            stack.enter_context(returned_if_killed(run.path))
            kernel = ensure_kernel(progress.building) if plan.where == "guest" else None
            plan = plan.model_copy(update={"versions": versions(kernel, here=plan.where == "here")})
            run.plan.write_text(plan.model_dump_json(indent=1) + "\n")
            start = _start(plan, run, kernel, series, stall_limit_s, progress)
            _carry_out(plan, run, start, outcome, stall_limit_s, progress)
            outcome.state, outcome.exit_status = "completed", 0
        except TestbedError as error:
            outcome.state, outcome.exit_status, outcome.reason = (
                "failed",
                error.exit_status,
                str(error),
            )
            raise
        except KeyboardInterrupt:
            outcome.state, outcome.exit_status, outcome.reason = (
                "interrupted",
                130,
                "interrupted by the user",
            )
            raise
        finally:
            outcome.warnings += run.settle()
            outcome.wall_seconds = round(time.monotonic() - begin, 3)
            _finish(plan, run, outcome, progress)
    return outcome


def versions(kernel: Kernel | None, *, here: bool = False) -> dict[str, str]:
    """Of everything that a run's results depend on; `kernel`: the guest's, None: not built yet, or
    not used `here`.
    """
    release = (
        f"Linux {platform.release()}"
        if here
        else f"Linux {kernel.version} UML"
        if kernel
        else "none yet"
    )
    found = {
        "testbed": testbed.__version__,
        "python": platform.python_version(),
        "kernel": release,
    }
    return found | {name: version(name) for name in VERSIONS}


@dataclass(frozen=True)
class Code:
    """What a guest needs to run a module of the testbed: the words before its name, an environment,
    and folders.
    """

    python: list[str]
    environment: dict[str, str]
    readable: list[Path]


def code_for_guests(making: Callable[[], None] = lambda: None, *, bundled: bool = True) -> Code:
    """The code of this installation.

    Args:
        making: called if modules have to be bundled first, which takes seconds.
        bundled: whether modules come in a bundle, where it is dear to look for each of them.
    """
    project = Path(testbed.__file__).parent.parent
    compileall.compile_dir(project / "testbed", quiet=2)  # a guest could not keep what it compiles
    environment = {"PYTHONPATH": str(project), **GUEST_ENVIRONMENT}
    readable = [project, Path(sys.prefix), Path(sys.base_prefix)]
    if not bundled:
        return Code([sys.executable, "-m"], environment, readable)
    return Code(python_for_guests(environment, making), environment, [*readable, bundles()])


def start_series(
    kernel: Kernel, folder: Path, *, memory_bytes: int, named: Collection[Path]
) -> AbstractContextManager[Guest]:
    """A guest that takes orders in the new folder `folder`; see testbed.guest.resident.

    Args:
        named: the `folders_of` all plans that it will carry out.

    Raises:
        MachineError: it cannot be started.
    """
    code = code_for_guests()
    return series_of(
        kernel,
        folder,
        code.python,
        memory_bytes=memory_bytes,
        readable=[*code.readable, *named],
        environment=code.environment,
    )


def may_join_series(plan: Plan) -> bool:
    """Whether a guest that has carried out other runs before gives `plan` the same results as one
    of its own.
    """
    workers = plan.workers
    return (
        plan.where == "guest"
        and plan.clock == "virtual"
        and workers.isolation == "process"
        and (workers.workload != "script")
    )


def _start(
    plan: Plan,
    run: RunDir,
    kernel: Kernel | None,
    series: Path | None,
    patience_s: float,
    progress: Progress,
) -> AbstractContextManager[Running]:
    """The command of the run; `kernel`: the guest's, None: here."""
    if series is not None:  # and this process is forked from one that is warm
        return visit(series, run.path, patience_s)
    threading.Thread(target=_warm_up_reporting, args=(plan,), daemon=True).start()
    code = code_for_guests(lambda: progress.stage("modules"), bundled=kernel is not None)
    command = [*code.python, "testbed.execution.inside", str(run.path)]
    environment, readable = code.environment, [*code.readable, *folders_of(plan)]
    if kernel is None:
        return host.start_here(
            command,
            writable=run.path,
            console=run.console,
            readable=readable,
            environment=environment,
        )
    return start_guest(
        kernel,
        command,
        writable=run.path,
        memory_bytes=plan.guest_memory_bytes,
        clock=plan.clock,
        console=run.console,
        clock_file=run.clock,
        readable=readable,
        environment=environment,
    )


def _carry_out(
    plan: Plan,
    run: RunDir,
    start: AbstractContextManager[Running],
    outcome: Outcome,
    stall_limit_s: float,
    progress: Progress,
) -> None:
    progress.stage("boot")
    with start as guest:
        watch = Watch(run, guest, stall_limit_s, progress)
        while (status := guest.status()) is None:
            watch.look()
            time.sleep(POLL_S)
        watch.look()
    outcome.stages = watch.stages
    _judge(plan, run, outcome, watch)
    events = read_records(run.events)
    if events and events[-1]["state"] == "failed":
        raise RunError(str(events[-1]["reason"]) + _memory_hint(run))
    if status != 0:
        who = "the guest" if plan.where == "guest" else "the run"
        raise GuestLost(
            f"{who} ended without finishing the run; the end of {run.console}:\n{tail(run.console)}"
        )


def folders_of(plan: Plan) -> set[Path]:
    """Folders that the plan names, or with files that it names."""
    ways = [way for link in plan.network.wan for way in link.directions]
    names = [plan.workers.image or "", *(way.fibre.distribution for way in ways)]
    files = {Path(name).parent for name in names if Path(name).is_absolute()}
    return files | {Path(folder) for folder in plan.workers.readable}


def _judge(plan: Plan, run: RunDir, outcome: Outcome, watch: Watch) -> None:
    reading = watch.reading
    if reading is not None:
        outcome.emulated_seconds = reading.time_ns / 1e9
        outcome.forced_ms = watch.forced_ns / 1e6
    if outcome.forced_ms:
        outcome.doubt(
            f"{watch.spinner} computed or looped for 10 s without waiting for anything, and so the clock was moved "
            f"by {outcome.forced_ms:.0f} ms"
        )
    if plan.clock == "real":
        for doubt in fidelity.doubts(run, busy=watch.busy, steal=watch.steal):
            outcome.doubt(doubt)


def tail(path: Path, lines: int = 15) -> str:
    """The end of a file that a guest may write to, for a message; empty if it cannot be read."""
    try:
        with open_plain(path) as file:
            text = file.read().decode(errors="replace").splitlines()
    except OSError:
        text = []
    return "\n".join(f"    {line}" for line in text[-lines:])


def _memory_hint(run: RunDir) -> str:
    console = tail(run.console, lines=10_000)
    if re.search(r"Out of memory: Killed|oom-kill:constraint=CONSTRAINT_NONE", console):
        return "\n  the guest's memory ran out: give it more with --guest-memory"
    return ""


def _warm_up_reporting(plan: Plan) -> None:
    """Imports and outlines of maps take a second: done while the guest boots, on another CPU."""
    import testbed.analysis.summarize  # noqa: F401, PLC0415
    from testbed.report.page import warm_up  # noqa: PLC0415

    with suppress(Exception):  # which the page will meet again, and tell
        warm_up(plan)


def _finish(plan: Plan, run: RunDir, outcome: Outcome, progress: Progress) -> None:
    """Tables, status and page from what there is."""
    from testbed.analysis.summarize import collect  # noqa: PLC0415 (see _warm_up_reporting)
    from testbed.report.page import write_page  # noqa: PLC0415

    progress.stage("report")
    if not run.plan.exists():
        run.plan.write_text(plan.model_dump_json(indent=1) + "\n")
    collect(run)
    _judge_results(plan, run, outcome)
    run.write_json(run.status, outcome.__dict__)
    try:
        if outcome.exit_status != MachineError.exit_status:  # then nothing was started
            progress.measured()
    finally:
        write_page(run)


def _judge_results(plan: Plan, run: RunDir, outcome: Outcome) -> None:
    if plan.network.changes and outcome.state == "completed" and run.began_ns() is None:
        outcome.doubt(
            "the topology's events did not happen, for they count from rank 0's first operation of torch.distributed, "
            "and there was none; with --events-from start they count from its start"
        )
    summary = json.loads(run.summary.read_text())
    for pair in summary["fidelity"]:
        if not pair["ok"]:
            outcome.doubt(
                f"the RTT between {pair['from']} and {pair['to']} was {pair['rtt_ms_measured']} ms before the run, "
                f"planned are {pair['rtt_ms_expected']:.3f} ms"
            )
    drops = sum(direction["drops"] or 0 for direction in summary["wan"])
    if drops and plan.network.tcp.packets_per_skb > 1:
        outcome.doubt(
            f"WAN queues overflowed ({drops} drops) while segmentation offload kept packets together; "
            "use --set topology.tcp.offload=off"
        )
    outcome.warnings += [
        problem for problem in summary["problems"] if problem.startswith("captures/")
    ]
    for doubt in fidelity.rate_doubts(summary["rates"]):
        outcome.doubt(doubt)
    training = summary["training"]
    if training is not None and training["late_ms"] > LATE * training["compute_ms"]:
        outcome.doubt(
            f"computing took {training['late_ms']:.1f} ms longer than the {training['compute_ms']:.1f} ms of a step "
            "that were to be modelled: this CPU cannot keep up; use --clock virtual, or a longer step_time"
        )
    if outcome.state != "completed":
        outcome.doubt(
            f"{INCOMPLETE}: {outcome.reason.splitlines()[0] if outcome.reason else outcome.state}"
        )


def clean_up_after_killed() -> None:
    """End and remove what a killed testbed left, and note in its run folder that it was
    interrupted.
    """
    for folder in (*remove_stale_guests(), *host.remove_stale()):
        run = RunDir(folder)
        try:
            status = json.loads(read_plain(run.status))
            run.settle()
        except (OSError, ValueError):  # it is that of a deployment, or nobody's any more
            continue
        if status.get("state") == "running":
            reason = "the testbed was killed"
            run.write_json(
                run.status, {**status, "state": "interrupted", "reason": reason, "faithful": False}
            )
