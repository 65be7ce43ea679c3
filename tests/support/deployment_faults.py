"""Commands of deployments in which a write fails, each in a process of its own; without a guest.

usage: python -m tests.support.deployment_faults FOLDER CASES    CASES: JSON, a list of lists of
arguments of `Case`, whose command is a key of `COMMANDS` (keeper: the fault is at a write of the
keeper); prints a line of JSON for each case: `Outcome`
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.core.leftovers import abandoned_notes, targets_in_use
from testbed.deployments import service
from testbed.deployments.folder import Deployment
from tests.support import recorded_keeper
from tests.support.commands import be_command
from tests.support.faults import NO_FAULT, TOPOLOGY, Case, Writes, strike_with

NAME = "pair"
LOSS = "wan.0.loss=1%"
COMMANDS = {
    "deploy": ["topo", "deploy", "{topology}", "--clock", "virtual"],
    "keeper": ["topo", "deploy", "{topology}", "--clock", "virtual"],
    "set": ["topo", "set", LOSS],
    "exec": ["topo", "exec", "west-h0", "true"],
    "destroy": ["topo", "destroy", NAME],
}


@dataclass(frozen=True)
class Outcome:
    """What a case has left.

    Attributes:
        exit_status: of the command; negative: the signal that ended it.
        text: what it printed.
        state: of the deployment; empty if there is none.
        has_loss: whether plan.json and the topology have the loss that `set` sets.
        writes: how many writes the command came to, if it ended by itself.
        destroyed: exit status of `testbed topo destroy --all` afterwards.
        left: files, notes and processes that are left after that; empty if the deployment stays
            for the next case.
    """

    exit_status: int
    text: str
    state: str
    has_loss: tuple[bool, bool]
    writes: int
    destroyed: int
    left: list[str]


def in_child(words: list[str], log: Path, strike: tuple[str, int] | None = None) -> tuple[int, int]:
    """Carry out a command in a child; return its exit status and the number of its writes."""
    count = log.with_suffix(".count")
    count.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            fault, number = strike or ("EIO", NO_FAULT)
            writes = Writes(Path(os.environ["TESTBED_CACHE"]), strike_with(fault), number)
            sys.addaudithook(writes)
            status = be_command(words)
            count.write_text(str(writes.count))
        finally:
            os._exit(status)
    _pid, wait_status = os.waitpid(pid, 0)
    writes_done = int(count.read_text()) if count.exists() else 0
    return os.waitstatus_to_exitcode(wait_status), writes_done


def carry_out(case: Case, folder: Path, log: Path, *, is_last: bool) -> Outcome:
    """Carry out a case, look at the deployment, and destroy it.

    Args:
        case: the case.
        folder: the folder of the topology.
        log: file for the output.
        is_last: whether the next case cannot use the deployment, if it is as it was.
    """
    words: dict[str, list[str]] = {}
    for name, template in COMMANDS.items():
        words[name] = [word.format(topology=folder / "pair.yaml") for word in template]
    if case.command not in ("deploy", "keeper") and not service.deployments():
        status, _writes = in_child(words["deploy"], log.with_suffix(".before"))
        assert status == 0, log.with_suffix(".before").read_text()

    if case.command == "keeper":
        os.environ[recorded_keeper.FAULT] = f"{case.fault}-{case.number}"
        exit_status, writes = in_child(words["keeper"], log)
        del os.environ[recorded_keeper.FAULT]
    else:
        exit_status, writes = in_child(words[case.command], log, (case.fault, case.number))
    state, has_loss = look()
    destroyed, leftovers = 0, []
    if is_last or state != "running" or any(has_loss):
        destroyed, _writes = in_child(["topo", "destroy", "--all"], log.with_suffix(".after"))
        leftovers = left()
    return Outcome(
        exit_status=exit_status,
        text=log.read_text(errors="replace"),
        state=state,
        has_loss=has_loss,
        writes=writes,
        destroyed=destroyed,
        left=leftovers,
    )


def look() -> tuple[str, tuple[bool, bool]]:
    """Return the state of the deployment, and whether plan and topology have a loss."""
    found = service.deployments()
    if not found:
        return "", (False, False)
    deployment = found[0]
    try:
        loss = deployment.read_plan().network.wan[0].forward.fibre.loss.mean
        return deployment.state, (loss > 0, "loss: 1" in deployment.spec.read_text())
    except (OSError, ValueError):
        return deployment.state, (False, False)


def left() -> list[str]:
    """Return what is left of deployments: folders, notes, processes."""
    found = [str(deployment.path) for deployment in service.deployments()]
    found += [str(note.folder) for note in abandoned_notes()]
    found += [str(path) for path in targets_in_use()]
    own = str(Deployment(service.deployments_folder() / NAME).path).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if own in words:
            found.append(b" ".join(words).decode())
    return found


def main(folder: Path, cases: list[list[object]]) -> None:
    changed = vars(service)
    changed["KEEPER"] = recorded_keeper.KEEPER
    changed["require_deployment"] = lambda: None
    (folder / "pair.yaml").write_text(TOPOLOGY)
    for position, (command, fault, number) in enumerate(cases):
        case = Case(str(command), str(fault), int(str(number)))
        commands = [other[0] for other in cases[position : position + 2]]
        is_last = commands not in (["set", "set"], ["exec", "exec"])
        outcome = carry_out(case, folder, folder / f"{position}.log", is_last=is_last)
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
