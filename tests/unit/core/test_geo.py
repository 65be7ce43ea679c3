import pytest

from testbed.core.geo import distance_km, fibre_delay_ns

MOUNT_PLEASANT, ATLANTA = (42.68, -87.92), (33.45, -84.50)


def test_mount_pleasant_to_atlanta() -> None:
    km = distance_km(MOUNT_PLEASANT, ATLANTA)
    assert km == pytest.approx(1069, abs=1)
    assert 2 * fibre_delay_ns(km, 1.5) / 1e6 == pytest.approx(15.7, abs=0.05)


def test_delay_of_a_kilometre() -> None:
    assert fibre_delay_ns(1, 1.0) == pytest.approx(4900, abs=5)


def test_distance_laws() -> None:
    assert distance_km(MOUNT_PLEASANT, ATLANTA) == pytest.approx(
        distance_km(ATLANTA, MOUNT_PLEASANT)
    )
    assert distance_km(ATLANTA, ATLANTA) == 0
    assert distance_km((0, 0), (0, 180)) == pytest.approx(20015, abs=1)
