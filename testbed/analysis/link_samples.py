"""What a direction of a link sent between two times, by the samples of its counter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl


def sent_bytes(samples: pl.DataFrame, begin_ns: int, end_ns: int) -> float:
    """What the counter grew by, interpolated between its `samples` (columns time_ns and bytes, in
    order of time).
    """
    first, last = np.interp([begin_ns, end_ns], samples["time_ns"], samples["bytes"])
    return float(last - first)
