"""Networks as text for other drawing programs: Graphviz DOT and Mermaid."""

from __future__ import annotations

from testbed.core.units import format_rate, format_time
from testbed.plan.model import Datacenter, Network, WanLink

MERMAID_ESCAPES = str.maketrans(
    {
        "#": "#35;",
        '"': "#quot;",
        "<": "#lt;",
        ">": "#gt;",
        "&": "#amp;",
    }
)


def dot(network: Network) -> str:
    """Return an undirected Graphviz graph: a node per datacenter, an edge per WAN link."""
    lines = [
        f"graph {_dot_text([network.name])} {{",
        "  node [shape=box, style=rounded];",
    ]

    for dc in network.datacenters:
        node = _dot_text([dc.name])
        label = _dot_text(_site_lines(dc))
        lines.append(f"  {node} [label={label}];")

    for link in network.wan:
        source = _dot_text([link.forward.source])
        target = _dot_text([link.forward.target])
        label = _dot_text(_link_lines(link))

        lines.append(f"  {source} -- {target} [label={label}];")

    lines.append("}")
    return "\n".join(lines)


def mermaid(network: Network) -> str:
    """Return a Mermaid flowchart.

    A datacenter's id is the name with the prefix ``dc_`` and with underscores for hyphens.
    """
    lines = ["flowchart LR"]

    for dc in network.datacenters:
        label = _mermaid_text(_site_lines(dc))
        lines.append(f"  {_mermaid_id(dc.name)}[{label}]")

    for link in network.wan:
        source = _mermaid_id(link.forward.source)
        target = _mermaid_id(link.forward.target)
        label = _mermaid_text(_link_lines(link))

        lines.append(f"  {source} ---|{label}| {target}")
    return "\n".join(lines)


def _site_lines(dc: Datacenter) -> list[str]:
    hosts = len(dc.hosts)
    noun = "host" if hosts == 1 else "hosts"
    return [dc.name, f"{hosts} {noun}"]


def _link_lines(link: WanLink) -> list[str]:
    """Return the RTT of the link's fibres, then the link's rate, or both rates if they differ."""
    rtt_ns = link.forward.fibre.delay_ns + link.backward.fibre.delay_ns
    rtt = format_time(rtt_ns, digits=3)

    forward_rate = format_rate(link.forward.bottleneck.rate_bps, digits=3)
    backward_rate = format_rate(link.backward.bottleneck.rate_bps, digits=3)

    if forward_rate == backward_rate:
        return [rtt, forward_rate]
    return [
        rtt,
        f"to {link.forward.target}: {forward_rate}",
        f"to {link.backward.target}: {backward_rate}",
    ]


def _dot_text(lines: list[str]) -> str:
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'


def _mermaid_text(lines: list[str]) -> str:
    escaped = [line.translate(MERMAID_ESCAPES) for line in lines]
    return '"' + "<br/>".join(escaped) + '"'


def _mermaid_id(name: str) -> str:
    return "dc_" + name.replace("-", "_")
