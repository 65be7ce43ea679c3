"""The look of a figure outside of the pages, whose style gives background and ink."""

from __future__ import annotations

import plotly.graph_objects as go


def on_white(figure: go.Figure) -> go.Figure:
    """Return a figure with a white background and dark ink."""
    return figure.update_layout(
        paper_bgcolor="#fff", plot_bgcolor="#fff", font={"color": "#1c2733"}
    )
