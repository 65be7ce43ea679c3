"""Distances on the Earth, and the delay of fibre along them."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt

EARTH_RADIUS_KM = 6371.0088  # mean radius (IUGG)
LIGHT_KM_PER_S = 299_792.458
FIBRE_INDEX = 1.468  # group index of single-mode fibre near 1550 nm
DETOUR = 1.5  # length of dedicated fibre over the great circle

Location = tuple[float, float]  # degrees north, degrees east


def distance_km(start: Location, end: Location) -> float:
    """Great-circle distance in km, by the haversine formula.

    Source: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (2), 1984.
    """
    start_north = radians(start[0])
    start_east = radians(start[1])
    end_north = radians(end[0])
    end_east = radians(end[1])

    north_part = sin((end_north - start_north) / 2) ** 2
    east_part = sin((end_east - start_east) / 2) ** 2
    narrowing = cos(start_north) * cos(end_north)  # of degrees east, away from the equator
    haversine = north_part + narrowing * east_part

    # Rounding may give a little more than 1 for opposite points.
    half_angle = asin(min(1.0, sqrt(haversine)))
    return 2 * EARTH_RADIUS_KM * half_angle


def fibre_delay_ns(km: float, detour: float = DETOUR) -> int:
    """One-way delay of fibre along a great circle, in ns.

    Args:
        km: The length of the great circle.
        detour: The length of the fibre over that of the great circle.
    """
    fibre_km = km * detour
    seconds = fibre_km * FIBRE_INDEX / LIGHT_KM_PER_S
    return round(seconds * 1e9)
