"""Write figures as the bytes of a PDF, SVG or PNG file; equal figures give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import plotly.graph_objects as go
from matplotlib.backends.backend_pdf import PdfPages

from testbed.report.paper.choice import PaperWidth
from testbed.report.paper.draw import draw_on_paper
from testbed.report.paper.style import FONT_FAMILIES, paper_style

SVG_FAMILIES = "Arimo, Arial, 'Liberation Sans', Helvetica, sans-serif"  # letters equally wide


def paper_bytes(figures: Mapping[str, go.Figure], ending: str, width: PaperWidth) -> bytes:
    """Return the bytes of a file with figures.

    Args:
        figures: one figure, or for a PDF any number, with a page for each.
        ending: one of `choice.PAPER_ENDINGS`.
        width: width of the paper's column.
    """
    with paper_style():
        if ending == ".pdf":
            return _pdf(figures, width)

        (figure,) = figures.values()
        paper = draw_on_paper(figure, width)
        buffer = BytesIO()
        if ending == ".png":
            paper.savefig(buffer, format="png")
            return buffer.getvalue()

        paper.savefig(buffer, format="svg", metadata={"Date": None})
        svg = buffer.getvalue().decode()
        families = ", ".join(f"'{family}'" for family in FONT_FAMILIES)
        return svg.replace(families, SVG_FAMILIES).encode()


def _pdf(figures: Mapping[str, go.Figure], width: PaperWidth) -> bytes:
    """Return the bytes of a PDF with a page per figure."""
    buffer = BytesIO()
    with PdfPages(buffer, metadata={"CreationDate": None}) as pages:
        for figure in figures.values():
            paper = draw_on_paper(figure, width)
            paper.savefig(pages, format="pdf")

    return buffer.getvalue()
