"""A network as text for other programs to draw: Graphviz DOT and Mermaid."""

from __future__ import annotations

from testbed.core.units import format_rate, format_time
from testbed.plan.model import Datacenter, Network, WanLink


def dot(network: Network) -> str:
    """An undirected Graphviz graph: a node for each datacenter, named as it is, and an edge for
    each WAN link.
    """
    lines = [f"graph {_dot_text([network.name])} {{", "  node [shape=box, style=rounded];"]
    lines += [
        f"  {_dot_text([dc.name])} [label={_dot_text(_site_words(dc))}];"
        for dc in network.datacenters
    ]
    lines += [
        f"  {_dot_text([link.forward.source])} -- {_dot_text([link.forward.target])} "
        f"[label={_dot_text(_link_words(link))}];"
        for link in network.wan
    ]
    return "\n".join([*lines, "}"])


def mermaid(network: Network) -> str:
    """A Mermaid flowchart; a datacenter's id is its name after ``dc_``, with underscores for
    hyphens.
    """
    lines = ["flowchart LR"]
    lines += [
        f"  {_mermaid_id(dc.name)}[{_mermaid_text(_site_words(dc))}]" for dc in network.datacenters
    ]
    lines += [
        f"  {_mermaid_id(link.forward.source)} ---|{_mermaid_text(_link_words(link))}| "
        f"{_mermaid_id(link.forward.target)}"
        for link in network.wan
    ]
    return "\n".join(lines)


def _site_words(dc: Datacenter) -> list[str]:
    return [dc.name, f"{len(dc.hosts)} host{'' if len(dc.hosts) == 1 else 's'}"]


def _link_words(link: WanLink) -> list[str]:
    """The RTT of the link's fibres, then its rate, or both rates if they differ."""
    rtt = format_time(sum(way.fibre.delay_ns for way in link.directions), digits=3)
    rates = [format_rate(way.bottleneck.rate_bps, digits=3) for way in link.directions]
    if rates[0] == rates[1]:
        return [rtt, rates[0]]
    return [
        rtt,
        *(f"to {way.target}: {rate}" for way, rate in zip(link.directions, rates, strict=True)),
    ]


def _dot_text(lines: list[str]) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _mermaid_text(lines: list[str]) -> str:
    special = str.maketrans({"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;"})
    return '"' + "<br/>".join(line.translate(special) for line in lines) + '"'


def _mermaid_id(name: str) -> str:
    return "dc_" + name.replace("-", "_")
