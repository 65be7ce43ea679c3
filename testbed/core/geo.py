"""Compute distances on the Earth, and the propagation delay of fibre along the distances."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt

EARTH_RADIUS_KM = 6371.0088  # mean radius (IUGG)
LIGHT_KM_PER_S = 299_792.458
FIBRE_INDEX = 1.468  # group index of single-mode fibre near 1550 nm
DETOUR = 1.5  # ratio of the length of dedicated fibre to the great-circle distance
MAX_DETOUR = 1000.0

Location = tuple[float, float]  # degrees north, degrees east


def distance_km(start: Location, end: Location) -> float:
    """Return the great-circle distance in km, by the haversine formula.

    Source: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (2), 1984.
    """
    start_north = radians(start[0])
    start_east = radians(start[1])
    end_north = radians(end[0])
    end_east = radians(end[1])

    north_part = sin((end_north - start_north) / 2) ** 2
    east_part = sin((end_east - start_east) / 2) ** 2
    narrowing = cos(start_north) * cos(end_north)  # meridians converge away from the equator
    haversine = north_part + narrowing * east_part

    # Rounding may give slightly more than 1 for antipodal points.
    half_angle = asin(min(1.0, sqrt(haversine)))
    return 2 * EARTH_RADIUS_KM * half_angle


def fibre_delay_ns(km: float, detour: float = DETOUR) -> int:
    """Return the one-way delay in ns of fibre along a great circle.

    Args:
        km: Great-circle distance.
        detour: Ratio of the fibre's length to the great-circle distance.
    """
    fibre_km = km * detour
    seconds = fibre_km * FIBRE_INDEX / LIGHT_KM_PER_S
    return round(seconds * 1e9)
