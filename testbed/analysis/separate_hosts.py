"""Notice scripts whose hosts did not work together, although the run has several hosts."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.plan.model import Plan
from testbed.runfolder import records
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem, ProblemCode
from testbed.runfolder.records import EVENT, LinkSample, SeparateWorld
from testbed.runfolder.summary import Summary

# More than launchers and stores exchange between hosts that then work separately.
RENDEZVOUS_BYTES = 100_000
REMEDY = (
    "leave out what makes a launcher stay on its host (--standalone, --nnodes 1, a local master), "
    "or use the rank, world size and master of the environment (docs/your-script.md)"
)


def separate_hosts(plan: Plan, run: RunDir, summary: Summary) -> list[Problem]:
    """Return a problem if the hosts of a script did not communicate.

    Args:
        plan: the run's plan.
        run: the run folder.
        summary: the run's summary.
    """
    hosts = {rank.host for rank in plan.workers.ranks}
    if plan.workers.workload != "script" or len(hosts) == 1:
        return []

    ranks_per_host = len(plan.workers.ranks) // len(hosts)
    if any(row.ranks > ranks_per_host for row in summary.collectives):
        return []

    crossed = _bytes_between_datacenters(plan, run)
    events, _problems = records.read(run.events, EVENT)
    worlds = [event for event in events if isinstance(event, SeparateWorld)]
    if worlds and (crossed is None or crossed < RENDEZVOUS_BYTES):
        return [_problem(_separate_worlds(worlds, len(hosts)))]

    if crossed == 0:
        return [
            _problem(
                "nothing crossed the WAN links: the script's processes did not communicate between "
                "datacenters"
            )
        ]

    return []


def _bytes_between_datacenters(plan: Plan, run: RunDir) -> int | None:
    """Return the bytes on all WAN links; None if the script need not have sent them, or unknown."""
    if any(change.transfers for change in plan.network.changes):
        return None

    datacenters: set[str] = set()
    for rank in plan.workers.ranks:
        host = plan.network.host(rank.host)
        datacenters.add(host.dc)

    samples: list[LinkSample]
    samples, _problems = records.read(run.link_samples, LinkSample)
    if len(datacenters) == 1 or not samples:
        return None

    first: dict[tuple[str, str, str], int] = {}
    last: dict[tuple[str, str, str], int] = {}
    for sample in samples:
        direction = (sample.link, sample.source, sample.target)
        first.setdefault(direction, sample.bytes)
        last[direction] = sample.bytes

    return sum(last.values()) - sum(first.values())


def _separate_worlds(worlds: Sequence[SeparateWorld], hosts: int) -> str:
    sizes = sorted({world.world_size for world in worlds})
    size = " or ".join(str(size) for size in sizes)
    return (
        f"each of the {hosts} hosts worked alone: the script's process groups had a world size "
        f"of {size}, and no operation left its host; {REMEDY}"
    )


def _problem(message: str) -> Problem:
    return Problem(code=ProblemCode.SEPARATE_HOSTS, message=message)
