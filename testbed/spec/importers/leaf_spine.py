"""Recognise a leaf-spine fabric in the cables of a datacenter."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from typing import Any


def leaf_spine(
    hosts: set[str],
    switches: set[str],
    cables: list[tuple[tuple[str, str], int | None]],
) -> dict[str, Any] | None:
    """Return the fabric of a datacenter whose switches are two regular layers; None for others.

    Regular means that each host is on one leaf, each leaf has as many hosts, all hosts have the
    same rate, and the same rate connects each leaf with each spine.

    Args:
        hosts: Names of hosts.
        switches: Names of switches.
        cables: Both ends and the rate in bit/s of each cable.
    """
    rates = Counter[tuple[str, str]]()
    leaf_of: dict[str, set[str]] = {host: set() for host in hosts}
    for ends, rate in cables:
        if rate is None:
            return None
        first, second = ends if ends[0] in hosts or ends[1] in switches else ends[::-1]
        first, second = (first, second) if second in switches else (second, first)
        rates[first, second] += rate
        if first in hosts and second in switches:
            leaf_of[first].add(second)
        elif first in switches:
            rates[second, first] += rate
    if not hosts or any(len(leaves) != 1 for leaves in leaf_of.values()):
        return None
    per_leaf = Counter(next(iter(leaves)) for leaves in leaf_of.values())
    leaves, spines = sorted(per_leaf), sorted(switches - set(per_leaf))
    if len(leaves) < 2 or not spines or len(set(per_leaf.values())) != 1:
        return None
    host_rates = {rates[host, leaf] for host, (leaf,) in leaf_of.items()}
    uplinks = {rates[cable] for cable in itertools.product(leaves, spines)}
    between = [(one, other) for (one, other), rate in rates.items() if rate and one not in hosts]
    across = {(one in per_leaf) != (other in per_leaf) for one, other in between}
    if len(host_rates) != 1 or len(uplinks) != 1 or 0 in uplinks or across != {True}:
        return None
    down = per_leaf[leaves[0]] * next(iter(host_rates))
    oversubscription = Fraction(down, len(spines) * next(iter(uplinks)))
    shown = round(float(oversubscription), 6)
    whole = int(shown) if shown == int(shown) else shown
    return {"leaves": len(leaves), "spines": len(spines), "oversubscription": whole}
