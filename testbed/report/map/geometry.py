"""Points, sizes and boxes of a drawing, in px; y grows downwards."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]  # shape (n, 2): x and y, or degrees north and east
Vector: TypeAlias = NDArray[np.float64]  # shape (2,): x and y
Mask: TypeAlias = NDArray[np.bool_]  # shape (n,)


class Position(NamedTuple):
    """A point of a drawing."""

    x: float
    y: float

    @classmethod
    def of(cls, vector: Vector) -> Position:
        """Convert a vector (shape (2,)) to a point."""
        x, y = vector
        return cls(float(x), float(y))


class BoxSize(NamedTuple):
    """Width and height of a box."""

    width: float
    height: float


class Box(NamedTuple):
    """A rectangle with sides parallel to the axes."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, points: Points) -> Box:
        """Return the smallest box around all points (shape (n, 2), n > 0)."""
        left, top = points.min(axis=0)
        right, bottom = points.max(axis=0)
        return cls(float(left), float(top), float(right), float(bottom))

    @classmethod
    def centred(cls, middle: Position, size: BoxSize) -> Box:
        """Return the box of a size around a middle."""
        return cls(
            left=middle.x - size.width / 2,
            top=middle.y - size.height / 2,
            right=middle.x + size.width / 2,
            bottom=middle.y + size.height / 2,
        )

    @property
    def middle(self) -> Position:
        """The centre of the box."""
        x = (self.left + self.right) / 2
        y = (self.top + self.bottom) / 2
        return Position(x, y)

    @property
    def width(self) -> float:
        """The distance from the left side to the right side."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """The distance from the top to the bottom."""
        return self.bottom - self.top

    def grown(self, margin: float) -> Box:
        """Return the box enlarged by `margin` px on each side."""
        return Box(
            left=self.left - margin,
            top=self.top - margin,
            right=self.right + margin,
            bottom=self.bottom + margin,
        )

    def overlaps(self, other: Box) -> bool:
        """Return whether two boxes overlap in some area."""
        if self.right <= other.left or other.right <= self.left:
            return False
        return self.top < other.bottom and other.top < self.bottom

    def within(self, other: Box) -> bool:
        """Return whether the whole box lies inside another one."""
        if self.left < other.left or self.right > other.right:
            return False
        return self.top >= other.top and self.bottom <= other.bottom

    def holds(self, points: Points) -> Mask:
        """Return whether the box holds each point (shape (n, 2)), as booleans of shape (n,)."""
        x = points[:, 0]
        y = points[:, 1]

        inside = x >= self.left
        inside &= x <= self.right
        inside &= y >= self.top
        inside &= y <= self.bottom

        return np.asarray(inside)

    def nearest(self, point: Position) -> Position:
        """Return the point of the box nearest to `point`."""
        x = min(max(point.x, self.left), self.right)
        y = min(max(point.y, self.top), self.bottom)
        return Position(x, y)


def distances(points: Points, others: Points) -> NDArray[np.float64]:
    """Return the distance from each point to each other point.

    Args:
        points: shape (n, 2).
        others: shape (m, 2).

    Returns:
        Distances, shape (n, m).
    """
    differences = points[:, None] - others
    across, down = differences.transpose(2, 0, 1)
    return np.asarray(np.hypot(across, down))
