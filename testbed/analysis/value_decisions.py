"""Report scripts whose path depended on the value of a modelled tensor."""

from __future__ import annotations

from testbed.runfolder import records
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import EVENT, ValueDecided


def value_decisions(run: RunDir) -> list[Problem]:
    """Return a problem for each place where a rank first decided by a modelled value."""
    events, _problems = records.read(run.events, EVENT)
    ranks: dict[tuple[str, int], list[int]] = {}
    for event in events:
        if isinstance(event, ValueDecided):
            ranks.setdefault((event.file, event.line), []).append(event.rank)

    problems: list[Problem] = []
    for (file, line), deciding in ranks.items():
        who = f"rank {deciding[0]}" if len(deciding) == 1 else f"{len(deciding)} ranks"
        message = (
            f"{file}, line {line}: the script decided by the value of a modelled tensor, which is "
            f"always 0 ({who}; later decisions are not reported): the run may have taken another "
            "path than on GPUs"
        )
        problems.append(Problem(code=ProblemCode.VALUE_DECIDED, message=message))

    return problems
