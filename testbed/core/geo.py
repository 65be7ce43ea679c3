"""Distances on the Earth and the delay of fibre along them."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt

EARTH_RADIUS_KM = 6371.0088  # mean radius (IUGG)
LIGHT_KM_PER_S = 299_792.458
FIBRE_INDEX = 1.468  # group index of single-mode fibre near 1550 nm
DETOUR = 1.5  # length of dedicated fibre over the great circle

Location = tuple[float, float]  # degrees north, degrees east


def distance_km(a: Location, b: Location) -> float:
    """Great-circle distance in km (haversine)."""
    north_a, east_a, north_b, east_b = map(radians, (*a, *b))
    h = (
        sin((north_b - north_a) / 2) ** 2
        + cos(north_a) * cos(north_b) * sin((east_b - east_a) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(h)))


def fibre_delay_ns(km: float, detour: float = DETOUR) -> int:
    """One-way delay, in ns, of fibre that is `detour` times `km` long."""
    return round(km * detour * FIBRE_INDEX / LIGHT_KM_PER_S * 1e9)
