"""The WAN links that the packets of one of several jobs may cross."""

from __future__ import annotations

from itertools import permutations

import polars as pl

from testbed.plan.model import Network, Plan

Ends = tuple[str, str]  # key of a WAN link, and the datacenter that sends


def links_of_job(plan: Plan) -> set[Ends] | None:
    """Return the directions of links between the hosts of a job, whatever the network's changes.

    Returns:
        The key of the link and the source of each direction; None if the plan is not that of a job
        beside others.
    """
    if not plan.job:
        return None

    datacenters = {plan.network.host(rank.host).dc for rank in plan.workers.ranks}
    crossed: set[Ends] = set()
    for state in plan.network.states():
        keys = _keys_by_address(state)
        for source, target in permutations(sorted(datacenters), 2):
            for path in state.paths(source, target):
                crossed.update(keys[str(direction.address)] for direction in path)
    return crossed


def _keys_by_address(network: Network) -> dict[str, Ends]:
    keys: dict[str, Ends] = {}
    for link in network.wan:
        for direction in link.directions:
            keys[str(direction.address)] = (link.key, direction.source)
    return keys


def of_links(links: pl.DataFrame, crossed: set[Ends] | None) -> pl.DataFrame:
    """Return the samples of some directions of links.

    Args:
        links: links.parquet (`testbed.runfolder.schemas.LINKS`).
        crossed: the key of the link and the source of each direction; None: all.
    """
    if crossed is None:
        return links
    wanted = pl.DataFrame(
        {"link": [key for key, _source in crossed], "source": [source for _key, source in crossed]},
        schema={"link": pl.String, "source": pl.String},
    )
    return links.join(wanted, on=["link", "source"], how="semi", maintain_order="left")
