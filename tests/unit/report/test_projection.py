"""Projections of maps, and what is drawn on them."""

import numpy as np
import pytest

from testbed.core.geo import EARTH_RADIUS_KM, Location, distance_km
from testbed.report.map.basemap import View, clipped, pieces
from testbed.report.map.geometry import Box, Position
from testbed.report.map.projection import Azimuthal, Cylindrical, encloses, fitting, smallest_cap

FRAME = Box(0, 0, 10, 10)
US = [(42.68, -87.92), (33.45, -84.50), (32.50, -99.78), (33.41, -112.37), (29.48, -98.72)]


def test_azimuthal_distances_from_the_centre() -> None:
    centre, place = (40.0, -100.0), (45.0, -80.0)
    (x, y), (zero_x, zero_y) = Azimuthal(centre).project(np.array([place, centre]))
    assert (zero_x, zero_y) == pytest.approx((0, 0), abs=1e-12)
    angle = distance_km(centre, place) / EARTH_RADIUS_KM
    assert np.hypot(x, y) == pytest.approx(2 * np.sin(angle / 2))
    assert x > 0
    assert y < 0


def test_azimuthal_keeps_areas() -> None:
    """A cell of one degree, anywhere within reach, has the area that it has on a sphere."""
    for north, east in [(10, 10), (60, -40), (-30, 20)]:
        corners = np.array(
            [(north, east), (north, east + 1), (north + 1, east + 1), (north + 1, east)],
            dtype=float,
        )
        x, y = Azimuthal((20.0, 0.0)).project(corners).T
        area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        exact = np.radians(1) * (np.sin(np.radians(north + 1)) - np.sin(np.radians(north)))
        assert area == pytest.approx(exact, rel=0.001)


def test_patterson() -> None:
    """Of the published polynomial: the pole lies at 1.790857 radii, the middle is straight."""
    points = Cylindrical(10.0).project(np.array([(0.0, 10.0), (90.0, 10.0), (0.0, 190.0)]))
    assert points == pytest.approx(np.array([(0, 0), (0, -1.790857), (np.pi, 0)]), abs=1e-5)


def test_smallest_cap() -> None:
    centre, reach = smallest_cap(np.array([(0.0, -30.0), (0.0, 30.0), (0.0, 0.0)]))
    assert centre == pytest.approx((0, 0), abs=0.5)
    assert np.degrees(reach) == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize("shift", [0, 90, 180])
def test_the_projection_follows_the_extent(shift: int) -> None:
    """A part of the Earth is azimuthal, even if the date line runs through it."""
    turned = [(north, (east + shift + 180) % 360 - 180) for north, east in US]
    assert isinstance(fitting(turned, []), Azimuthal)
    assert isinstance(fitting([(0, 0), (0, 120), (0, -120)], []), Cylindrical)


def test_the_edge_of_a_world_map_is_the_date_line_unless_links_cross_it() -> None:
    places = [(0.0, 0.0), (0.0, 60.0), (0.0, 120.0), (0.0, -120.0)]
    projection = fitting(places, [(0, 1), (1, 2)])
    assert isinstance(projection, Cylindrical)
    assert projection.middle == 0
    projection = fitting(places, [(2, 3)] * 20)
    assert isinstance(projection, Cylindrical)
    assert 60 <= abs(projection.middle) <= 120


def test_land_around_the_point_opposite_the_centre_is_not_turned_inside_out() -> None:
    """Seen from Spain, New Zealand surrounds the point opposite; the sea must not become land."""
    ring = np.array(
        [(-44.0, 172.0), (-36.0, 172.0), (-36.0, 180.0), (-44.0, 180.0), (-44.0, 172.0)]
    )
    assert encloses(ring, (-40.0, 176.0))
    assert not encloses(ring, (-40.0, 170.0))
    shapes = Azimuthal((40.0, -4.0)).copies(ring)
    assert len(shapes) == 2
    assert sum(encloses(shape[:, ::-1], (0.1, 0.1)) for shape in shapes) % 2 == 0
    assert len(Azimuthal((0.0, 60.0)).copies(ring)) == 1


def test_clipped_ring() -> None:
    square = np.array([(-5.0, 5.0), (5.0, 5.0), (5.0, 15.0), (-5.0, 15.0)])
    part = clipped(square, FRAME)
    assert Box.around(part) == (0, 5, 5, 10)
    assert len(clipped(square + 100, FRAME)) == 0
    around = np.array([(-5.0, -5.0), (15.0, -5.0), (15.0, 15.0), (-5.0, 15.0)])
    assert Box.around(clipped(around, FRAME)) == FRAME
    inside = np.array([(1.0, 1.0), (2.0, 1.0), (2.0, 2.0)])
    assert (clipped(inside, FRAME) == inside).all()


def test_pieces_of_a_line() -> None:
    line = np.array(
        [(-9.0, 5.0), (-5.0, 5.0), (5.0, 5.0), (15.0, 5.0), (25.0, 5.0), (15.0, 8.0), (5.0, 8.0)]
    )
    first, second = pieces(line, FRAME)
    assert first.tolist() == line[1:4].tolist()
    assert second.tolist() == line[5:].tolist()
    assert pieces(line + 100, FRAME) == []


def test_land_is_where_it_is() -> None:
    """Of points on land, in a lake and in the sea; on a map of the eastern United States."""
    frame = Box(0, 0, 900, 600)
    projection = Azimuthal((40.0, -85.0))
    view = View(projection, frame, 1500, Position(0.0, 0.0))
    layers = view.layers()

    def within(layer: str, place: Location) -> bool:
        x, y = view.at([place])[0]
        rings: list[np.ndarray] = []
        for part in layers[layer].split("M")[1:]:
            points = [point.split() for point in part.rstrip("Z").split("L")]
            rings.append(np.array(points, dtype=float))
        around = 0
        for ring in rings:
            closed = np.vstack([ring, ring[:1]])
            around += encloses(closed[:, ::-1], (y, x))
        return around % 2 == 1

    for place in [(40.0, -83.0), (42.7, -88.2), (35.0, -90.0)]:
        assert within("land", place)
        assert not within("lakes", place)
    assert within("lakes", (43.5, -87.0))  # Lake Michigan
    assert not within("land", (34.0, -74.0))  # the Atlantic
    assert layers["states"]
    assert view.km_per_px == pytest.approx(4.25, abs=0.01)
    assert View(projection, frame, 60_000, Position(0.0, 0.0)).layers() == {}
