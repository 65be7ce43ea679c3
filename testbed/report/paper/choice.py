"""Choose the figures, the kind and the width of a file for a paper.

This module imports neither plotly nor matplotlib, which are slow to load, so that commands can
check their options first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from testbed.core.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

PaperWidth: TypeAlias = Literal["single", "double"]
PAPER_ENDINGS = (".pdf", ".svg", ".png")


def choose_figures(
    figures: Mapping[str, go.Figure | None],
    name: str | None,
    ending: str,
    others: Sequence[str] = (),
) -> dict[str, go.Figure]:
    """Return the figures to draw into a file.

    Args:
        figures: figures by name, None where there is nothing to draw.
        name: name of the wanted figure, or None for all.
        ending: ending of the file; only a .pdf holds several figures.
        others: names of figures that the command draws in another way.

    Raises:
        InputError: the figure does not exist, has no data, or does not fit into the file.
    """
    drawn = {key: figure for key, figure in figures.items() if figure is not None}
    listed = ", ".join([*drawn, *others])
    if not drawn:
        raise InputError("there is nothing to draw: no figure has data")
    if name is not None:
        if name not in figures:
            raise InputError(f"there is no figure {name!r}", remedy=f"choose one of: {listed}")
        if name not in drawn:
            what = f"the figure {name!r} has no data"
            raise InputError(what, remedy=f"choose one of: {listed}")
        return {name: drawn[name]}
    if len(drawn) > 1 and ending != ".pdf":
        raise InputError(
            f"a {ending} file holds one figure, and there are {len(drawn)}: {listed}",
            remedy="choose one with --figure, or write a .pdf, which has a page for each",
        )
    return drawn
