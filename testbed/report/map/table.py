"""The WAN links of a drawing as a table of SVG text, where there are too many to label each."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from testbed.plan.model import Network, WanLink
from testbed.report.map.labels import Box, text_width
from testbed.report.map.layout import rate_text, rtt_text
from testbed.report.map.svg import add

SIZE = 11.0
ROW = 17.0
GAP = 16.0  # between columns
MOST_LISTED = 300


def add_table(svg: ET.Element, network: Network, frame: Box, top: float) -> float:
    """Add the links of `network` below `top`, as a matrix of sites if it fits, else as a list; the
    lower end in px.
    """
    rates = {rate_text(way) for link in network.wan for way in link.directions}
    names = [dc.name for dc in network.datacenters]
    column = max(text_width(name, SIZE, bold=True) for name in names) + GAP
    dense = 3 * len(network.wan) > len(names) * (len(names) - 1) // 2
    heading = "Round-trip time" + (
        f"; each link carries {min(rates)} each way" if len(rates) == 1 else ", rate"
    )
    add(svg, "text", heading, class_="head", x=frame.left, y=top + ROW - 5)
    top += ROW + 4
    if dense and len(rates) == 1 and column * len(names) <= frame.width:
        return _matrix(svg, network, names, Box(frame.left, top, frame.right, top), column)
    return _list(svg, network, Box(frame.left, top, frame.right, top))


def _matrix(
    svg: ET.Element, network: Network, names: list[str], place: Box, column: float
) -> float:
    """A row and a column for each site, the RTT where they meet; the last site needs no row, the
    first no column.
    """
    texts = {}
    for link in network.wan:
        ends = link.forward.source, link.forward.target
        texts[ends] = texts[ends[::-1]] = rtt_text(link)
    width = min((place.width - column) / (len(names) - 1), 1.3 * column)
    for i, name in enumerate(names[1:]):
        right = place.left + column + (i + 1) * width
        add(svg, "text", name, class_="head", x=right, y=place.top + ROW - 5, text_anchor="end")
    for row, name in enumerate(names[:-1]):
        y = place.top + (row + 2) * ROW
        add(
            svg,
            "path",
            class_="grid",
            d=f"M{place.left:.1f} {y - ROW:.1f}h{column + width * (len(names) - 1):.1f}",
        )
        add(svg, "text", name, class_="head", x=place.left, y=y - 5)
        for i, other in enumerate(names[1:]):
            if i >= row and (name, other) in texts:
                right = place.left + column + (i + 1) * width
                add(
                    svg,
                    "text",
                    texts[name, other],
                    class_="cell",
                    x=right,
                    y=y - 5,
                    text_anchor="end",
                )
    return place.top + (len(names)) * ROW


def _list(svg: ET.Element, network: Network, place: Box) -> float:
    """Columns of links: the two ends, RTT, rates; as many as `MOST_LISTED`."""
    rows = [_row(link) for link in network.wan[:MOST_LISTED]]
    widths = [max(text_width(row[i], SIZE) for row in rows) + GAP for i in range(3)]
    columns = min(max(int((place.width + GAP) / (sum(widths) + GAP)), 1), 4)
    height = -(-len(rows) // columns)
    step = place.width / columns
    for i, row in enumerate(rows):
        x, y = place.left + step * (i // height), place.top + ROW * (i % height + 1) - 5
        for text, offset in zip(row, (0.0, widths[0], sum(widths[:2])), strict=True):
            add(svg, "text", text, class_="cell", x=x + offset, y=y)
    bottom = place.top + height * ROW
    if len(network.wan) > MOST_LISTED:
        text = f"and {len(network.wan) - MOST_LISTED} more, which `testbed topo show` lists"
        add(svg, "text", text, class_="note", x=place.left, y=bottom + ROW - 5)
        bottom += ROW
    return bottom


def _row(link: WanLink) -> tuple[str, str, str]:
    there, back = (rate_text(way) for way in link.directions)
    rates = there if there == back else f"{there} →, {back} ←"
    return f"{link.forward.source} – {link.forward.target}", rtt_text(link), rates
