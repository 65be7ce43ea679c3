"""The command that repeats a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from testbed.report.load import Content

PROGRAM = "testbed"


def repeat_command(content: Content) -> str:
    """Return the command that repeats a run, without the run folder, which is never overwritten.

    The command comes from status.json, or from the plan if status.json lacks the command.
    """
    if content.status is not None and content.status.command:
        return _typed_command(content.status.command)
    plan = content.plan
    if plan is None:
        return ""
    arguments = [PROGRAM, "run", plan.network.name, plan.workers.workload]
    arguments += ["--seed", str(plan.seed)]
    arguments += ["--clock", plan.clock]
    arguments += ["--isolation", plan.workers.isolation]
    arguments += ["--capture", plan.capture]
    return shlex.join(arguments)


def _typed_command(command: list[str]) -> str:
    """Return a typed command without --out; arguments after ``--`` belong to a script and stay."""
    program = Path(command[0]).name
    if program == "__main__.py":
        program = PROGRAM
    arguments = command[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)

    kept = []
    is_folder = False
    for argument in arguments[:end]:
        if is_folder:
            is_folder = False
        elif argument == "--out":
            is_folder = True
        elif not argument.startswith("--out="):
            kept.append(argument)
    return shlex.join([program, *kept, *arguments[end:]])
