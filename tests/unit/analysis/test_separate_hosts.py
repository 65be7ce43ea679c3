"""Scripts whose hosts did not work together are noticed; all others are left alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from testbed.workloads.script.settings import Script

from testbed.analysis.separate_hosts import separate_hosts
from testbed.plan.resolve import resolve
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import LinkSample, SeparateWorld, append
from testbed.runfolder.summary import CollectiveRow, Spread, Summary
from testbed.spec.topology import Topology

SITES = {
    "datacenters": {"west": {"hosts": 1}, "east": {"hosts": 1}},
    "wan": [{"between": ["west", "east"], "rate": "1 Gbit/s", "delay": "10 ms"}],
}
ONE_SITE = {"datacenters": {"west": {"hosts": 2}}}


def noticed(
    folder: Path,
    *,
    topology: Mapping[str, object] = SITES,
    worlds: Sequence[int] = (),
    crossed: int = 0,
    ranks: int = 0,
    ranks_per_host: int = 1,
) -> list[str]:
    """What is noticed of a run.

    `worlds` are the sizes of process groups that one host may hold, `crossed` the bytes on the WAN
    link during the run, and `ranks` those of a recorded operation (0: none).
    """
    run = RunDir.create(folder / "run")
    script = Script(command=["python", "x.py"], ranks_per_host=ranks_per_host)
    plan = resolve(Topology.model_validate(topology), script, machine_memory_bytes=2**40)
    for rank, size in enumerate(worlds):
        append(run.events, SeparateWorld(rank=rank, world_size=size))

    if plan.network.wan:
        for time_ns, total in ((0, 5000), (1, 5000 + crossed)):
            sample = LinkSample(
                time_ns=time_ns,
                source="west",
                target="east",
                link="west-east",
                bytes=total,
                packets=1,
                drops=0,
                backlog_bytes=0,
            )
            append(run.link_samples, sample)

    rows = []
    if ranks:
        spread = Spread(min=1, median=1, p95=1, max=1)
        row = CollectiveRow(
            op="all_reduce",
            bytes=8,
            ranks=ranks,
            iterations=1,
            time_us=spread,
            slowest_us=1,
            algbw_gbytes=1,
            busbw_gbytes=1,
        )
        rows.append(row)

    return [problem.message for problem in separate_hosts(plan, run, Summary(collectives=rows))]


@pytest.mark.parametrize("topology", [SITES, ONE_SITE])
def test_each_host_by_itself(tmp_path: Path, topology: Mapping[str, object]) -> None:
    (message,) = noticed(tmp_path, topology=topology, worlds=[1, 1], ranks=1)
    assert message.startswith("each of the 2 hosts worked alone")
    assert "a world size of 1," in message
    assert "--standalone" in message


def test_ranks_of_one_host_together(tmp_path: Path) -> None:
    (message,) = noticed(tmp_path, worlds=[2, 2, 2, 2], ranks=2, ranks_per_host=2)
    assert "a world size of 2," in message


def test_nothing_crossed(tmp_path: Path) -> None:
    (message,) = noticed(tmp_path)
    assert message.startswith("nothing crossed the WAN links")


def test_a_rendezvous_is_not_training(tmp_path: Path) -> None:
    assert len(noticed(tmp_path, worlds=[1, 1], crossed=20_000)) == 1


def test_hosts_that_work_together(tmp_path: Path) -> None:
    assert noticed(tmp_path, ranks=2, crossed=1_000_000) == []


def test_other_communication_counts(tmp_path: Path) -> None:
    """As of torchft, whose process groups have one rank each."""
    assert noticed(tmp_path / "a", worlds=[1, 1], ranks=1, crossed=1_000_000) == []
    assert noticed(tmp_path / "b", crossed=100) == []


def test_hosts_of_one_site_need_no_link(tmp_path: Path) -> None:
    assert noticed(tmp_path, topology=ONE_SITE) == []
