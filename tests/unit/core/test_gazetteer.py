"""Positions of cities and of regions of clouds."""

import pytest

from testbed.core.gazetteer import locate
from testbed.core.geo import distance_km
from testbed.core.units import UnitError
from testbed.spec.topology import Datacenter

NEAR_KM = 15  # of a city's centre, which sources place differently


@pytest.mark.parametrize(
    ("text", "north", "east"),
    [
        ("Zurich", 47.377, 8.541),
        ("Zürich", 47.377, 8.541),
        ("zuerich, Switzerland", 47.377, 8.541),
        ("London", 51.507, -0.128),
        ("Birmingham, GB", 52.480, -1.903),
        ("Birmingham, UK", 52.480, -1.903),
        ("Birmingham, Alabama", 33.521, -86.802),
        ("Portland, OR", 45.515, -122.679),
        ("San Jose, California, US", 37.339, -121.895),
        ("São Paulo", -23.551, -46.633),
        ("New York", 40.713, -74.006),
        ("Reykjavík", 64.147, -21.943),
        ("aws:us-east-1", 39.04, -77.49),
        ("AWS:ap-northeast-1", 35.68, 139.69),
        ("gcp:europe-west4", 53.44, 6.83),
        ("google:us-central1", 41.26, -95.86),
        ("azure:westeurope", 52.37, 4.90),
        ("azure:West Europe", 52.37, 4.90),
        ("St. Petersburg", 59.94, 30.31),
        ("Saint Petersburg, FL", 27.77, -82.68),
        ("Fort Worth", 32.73, -97.32),
        ("Kiev", 50.45, 30.52),
    ],
)
def test_places(text: str, north: float, east: float) -> None:
    assert distance_km(locate(text), (north, east)) < NEAR_KM
    assert Datacenter(location=text).location == locate(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Zurch", "unknown place 'Zurch'; nearest: Zürich, CH"),
        ("Birmingham", "ambiguous; write one of: Birmingham, GB; Birmingham, AL, US"),
        ("Saint Louis", "ambiguous; write one of: St. Louis, MO, US; Saint-Louis, SN"),
        ("Hyderabad", "ambiguous; write one of: Hyderabad, IN; Hyderabad, PK"),
        ("Zurich, Norway", "unknown place 'Zurich, Norway'; known: Zürich, CH"),
        ("aws:us-eest-1", "unknown region 'us-eest-1' of aws; nearest: us-east-1"),
        ("oracle:us-1", "unknown cloud in 'oracle:us-1'; known: aws, azure, gcp"),
        ("", "unknown place ''"),
    ],
)
def test_unknown_places(text: str, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        locate(text)
    assert message in str(caught.value)
