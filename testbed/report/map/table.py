"""Draw the WAN links as a table of SVG text, for networks with too many links for labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

from testbed.plan.model import Network, WanLink
from testbed.report.map.geometry import Box
from testbed.report.map.labels import rate_text, rtt_text, text_width
from testbed.report.map.svg import add

FONT_SIZE = 11.0
ROW_HEIGHT = 17.0
BASELINE = 5.0  # px from the baseline of a row's text to the row's lower end
COLUMN_GAP = 16.0
MOST_LISTED = 300  # links
MOST_COLUMNS = 4  # of a list
WIDEST_COLUMN = 1.3  # of a matrix, in widths of the longest name


class LinkRow(NamedTuple):
    """The texts of a link's row in a list."""

    ends: str
    rtt: str
    rates: str


def add_table(svg: ET.Element, network: Network, frame: Box, top: float) -> float:
    """Add a table of the links of a network: a matrix of sites if there is room, else a list.

    Args:
        svg: the document.
        network: the network with the links.
        frame: frame of the drawing, which gives the left and right side of the table.
        top: upper end of the table in px.

    Returns:
        The lower end of the table in px.
    """
    rate = _common_rate(network)
    heading = "Round-trip time, rate"
    if rate is not None:
        heading = f"Round-trip time; each link carries {rate} each way"
    add(
        svg,
        "text",
        heading,
        class_="head",
        x=frame.left,
        y=top + ROW_HEIGHT - BASELINE,
    )
    top += ROW_HEIGHT + 4
    room = Box(frame.left, top, frame.right, top)

    names = [dc.name for dc in network.datacenters]
    longest = max(text_width(name, FONT_SIZE, bold=True) for name in names)
    column_width = longest + COLUMN_GAP
    fits = column_width * len(names) <= frame.width

    pairs = len(names) * (len(names) - 1) // 2
    is_dense = 3 * len(network.wan) > pairs
    if is_dense and fits and rate is not None:
        return _add_matrix(svg, network, room, column_width)
    return _add_list(svg, network, room)


def _common_rate(network: Network) -> str | None:
    """Return the rate of all links in both directions as text, or None if rates differ."""
    rates = set()
    for link in network.wan:
        for direction in link.directions:
            rates.add(rate_text(direction))
    if len(rates) == 1:
        return min(rates)
    return None


def _add_matrix(svg: ET.Element, network: Network, room: Box, column_width: float) -> float:
    """Add a row and a column for each site, with the RTTs in the cells.

    The last site needs no row, and the first site no column.
    """
    names = [dc.name for dc in network.datacenters]
    rtts = _rtts(network)

    spacing = (room.width - column_width) / (len(names) - 1)
    spacing = min(spacing, WIDEST_COLUMN * column_width)
    first_right = room.left + column_width + spacing
    line_length = column_width + spacing * (len(names) - 1)

    for column, name in enumerate(names[1:]):
        right = first_right + column * spacing
        _add_right_aligned(svg, name, "head", right, room.top + ROW_HEIGHT)

    for row, name in enumerate(names[:-1]):
        bottom = room.top + (row + 2) * ROW_HEIGHT

        line = f"M{room.left:.1f} {bottom - ROW_HEIGHT:.1f}h{line_length:.1f}"
        add(svg, "path", class_="grid", d=line)
        add(
            svg,
            "text",
            name,
            class_="head",
            x=room.left,
            y=bottom - BASELINE,
        )

        for column, other in enumerate(names[1:]):
            if column < row or (name, other) not in rtts:
                continue
            right = first_right + column * spacing
            _add_right_aligned(svg, rtts[name, other], "cell", right, bottom)

    return room.top + len(names) * ROW_HEIGHT


def _rtts(network: Network) -> dict[tuple[str, str], str]:
    """Return the RTT text between the ends of each link, in both orders."""
    rtts = {}
    for link in network.wan:
        source = link.forward.source
        target = link.forward.target

        text = rtt_text(link)
        rtts[source, target] = text
        rtts[target, source] = text

    return rtts


def _add_right_aligned(
    svg: ET.Element, text: str, css_class: str, right: float, bottom: float
) -> None:
    add(
        svg,
        "text",
        text,
        class_=css_class,
        x=right,
        y=bottom - BASELINE,
        text_anchor="end",
    )


def _add_list(svg: ET.Element, network: Network, room: Box) -> float:
    """Add columns of at most `MOST_LISTED` links: the two ends, RTT, rates."""
    rows = [_link_row(link) for link in network.wan[:MOST_LISTED]]
    ends_width = _column_width([row.ends for row in rows])
    rtt_width = _column_width([row.rtt for row in rows])
    rates_width = _column_width([row.rates for row in rows])
    row_width = ends_width + rtt_width + rates_width

    fitting = int((room.width + COLUMN_GAP) / (row_width + COLUMN_GAP))
    columns = min(max(fitting, 1), MOST_COLUMNS)
    rows_in_column = -(-len(rows) // columns)
    spacing = room.width / columns

    for number, row in enumerate(rows):
        column, row_in_column = divmod(number, rows_in_column)
        x = room.left + spacing * column
        y = room.top + ROW_HEIGHT * (row_in_column + 1) - BASELINE

        add(svg, "text", row.ends, class_="cell", x=x, y=y)
        add(svg, "text", row.rtt, class_="cell", x=x + ends_width, y=y)
        add(svg, "text", row.rates, class_="cell", x=x + (ends_width + rtt_width), y=y)

    bottom = room.top + rows_in_column * ROW_HEIGHT

    left_out = len(network.wan) - MOST_LISTED
    if left_out <= 0:
        return bottom
    add(
        svg,
        "text",
        f"and {left_out} more, which `testbed topo show` lists",
        class_="note",
        x=room.left,
        y=bottom + ROW_HEIGHT - BASELINE,
    )

    return bottom + ROW_HEIGHT


def _column_width(texts: Sequence[str]) -> float:
    widest = max(text_width(text, FONT_SIZE) for text in texts)
    return widest + COLUMN_GAP


def _link_row(link: WanLink) -> LinkRow:
    forward = rate_text(link.forward)
    backward = rate_text(link.backward)

    rates = forward if forward == backward else f"{forward} →, {backward} ←"
    ends = f"{link.forward.source} – {link.forward.target}"
    return LinkRow(ends, rtt_text(link), rates)
