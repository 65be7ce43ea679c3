"""The picture of a network: what is on it, where, and that nothing covers anything."""

import io
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from PIL import Image

from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network
from testbed.report.map import layout as layouts
from testbed.report.map.basemap import View
from testbed.report.map.geometry import Box, BoxSize
from testbed.report.map.labels import rate_text, rtt_text, text_width
from testbed.report.map.layout import Layout, lay_out
from testbed.report.map.site_map import COLOURS, Theme, colour, png, site_map
from testbed.spec.topology import Topology
from tests.unit.spec.test_topology_spec import PRESETS

SVG = "{http://www.w3.org/2000/svg}"


def preset(name: str) -> Network:
    return resolve_network(Topology.load(name))


def network(tmp_path: Path, text: str) -> Network:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return resolve_network(Topology.load(path))


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def title_of(group: ET.Element) -> str:
    title = group.find(f"{SVG}title")
    assert title is not None
    assert title.text is not None
    return title.text


def view_of(layout: Layout) -> View:
    assert layout.view is not None
    return layout.view


def period_of(layout: Layout) -> float:
    period = view_of(layout).period
    assert period is not None
    return period


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_site_and_link_is_on_the_picture(name: str) -> None:
    net = preset(name)
    svg = site_map(net)
    root, words = ET.fromstring(svg), texts(svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for dc in net.datacenters:
        assert f"site-{dc.name}" in ids
        assert dc.name in words
    assert sum(bool(re.fullmatch(r"\d+ hosts?", word)) for word in words) == len(net.datacenters)
    titles = {}
    for group in root.iter():
        if group.get("class") == "link" and group.get("id"):
            titles[group.get("id")] = title_of(group)
    for link in net.wan:
        assert rtt_text(link) in words
        assert f"RTT {rtt_text(link)};" in titles[f"link-{link.key}"]
        for direction in link.directions:
            rate = rate_text(direction)
            ends = f"{direction.source} to {direction.target}"
            assert f"{ends} {rate}" in titles[f"link-{link.key}"]
            assert any(rate in word for word in words)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_label_covers_another_or_a_dot_or_leaves_the_frame(name: str) -> None:
    layout = lay_out(preset(name))
    boxes = [label.box for label in layout.labels]
    assert len(boxes) == len(layout.sites) + (0 if layout.listed else len(layout.curves))
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    dots = [
        Box.centred(site.point, BoxSize(2 * layouts.DOT, 2 * layouts.DOT)) for site in layout.sites
    ]
    for box in boxes:
        assert not any(box.overlaps(dot) for dot in dots)
    assert all(box.within(layout.frame) for box in boxes)
    for label in layout.labels:
        assert max(line.width for line in label.lines) <= label.box.width


def test_a_label_is_on_its_link_or_has_a_leader_to_it() -> None:
    layout = lay_out(preset("google-campuses"))
    led = 0
    for curve in layout.curves:
        label = layout.link_labels[curve.link.key]
        near = Box.around(curve.samples(200)).grown(1)
        if label.leader is None:
            assert label.box.holds(curve.samples(200)).any()
        else:
            led += 1
            assert near.holds(np.array([label.leader])).all()
    assert led == 3  # the links among the three sites around Omaha are shorter than their labels


def test_sites_that_are_close_are_drawn_apart_and_named() -> None:
    net = preset("google-campuses")
    layout = lay_out(net)
    gaps = [
        np.hypot(a.point[0] - b.point[0], a.point[1] - b.point[1])
        for a, b in combinations(layout.sites, 2)
    ]
    assert min(gaps) > layouts.APART - 1
    assert set(layout.moved) == {"council-bluffs", "papillion", "lincoln"}
    assert any("council-bluffs, papillion, lincoln" in line for line in texts(site_map(net)))
    assert not lay_out(preset("campus")).moved


def test_scale_of_the_map() -> None:
    net = preset("two-sites")
    layout = lay_out(net)
    a, b = (site.point for site in layout.sites)
    distance_km = np.hypot(a.x - b.x, a.y - b.y) * view_of(layout).km_per_px
    assert distance_km == pytest.approx(1111.5, abs=1)  # of the great circle
    assert "200 km" in texts(site_map(net))


def test_north_is_up_and_east_is_right() -> None:
    points = {site.dc.name: site.point for site in lay_out(preset("microsoft-openai-five")).sites}
    assert min(points, key=lambda name: points[name][0]) == "arizona"
    assert max(points, key=lambda name: points[name][0]) == "georgia"
    assert min(points, key=lambda name: points[name][1]) == "wisconsin"
    assert max(points, key=lambda name: points[name][1]) == "san-antonio"


def test_a_link_over_the_maps_edge_is_drawn_at_both_edges() -> None:
    layout = lay_out(preset("aws-ten-regions"))
    curves = {curve.link.key: curve for curve in layout.curves}
    assert curves["virginia-london"].turns == (0.0,)
    assert len(curves["oregon-tokyo"].turns) == 2
    start, _, end = curves["oregon-tokyo"].points
    sites = {site.dc.name: site.point for site in layout.sites}
    assert tuple(start) == sites["oregon"]
    assert end[0] == pytest.approx(sites["tokyo"][0] - period_of(layout))
    assert 0 < start[0] - end[0] < period_of(layout) / 2


def test_the_pacific_is_one_sea() -> None:
    text = """
    datacenters: {oregon: {location: [45.84, -119.70]}, tokyo: {location: [35.68, 139.69]}}
    wan: [{mesh: all, rate: 10 Gbit/s}]
    """
    layout = lay_out(resolve_network(Topology.model_validate(yaml.safe_load(text))))
    assert view_of(layout).period is None
    assert layout.sites[1].point[0] < layout.sites[0].point[0]  # Asia is on the left


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("{a: {}}", {"a": (0.5, 0.5)}),
        ("{a: {}, b: {}}", {"a": (0.2, 0.5), "b": (0.8, 0.5)}),
        (
            "{a: {}, b: {}, c: {}, d: {}}",
            {"a": (0.3, 0.26), "b": (0.7, 0.26), "c": (0.7, 0.74), "d": (0.3, 0.74)},
        ),
    ],
)
def test_without_locations_sites_stand_on_a_circle(
    tmp_path: Path, text: str, places: dict[str, tuple[float, float]]
) -> None:
    wan = "wan: [{ring: all, rate: 1 Gbit/s, delay: 1 ms}]" if len(places) > 2 else ""
    if len(places) == 2:
        wan = "wan: [{between: [a, b], rate: 1 Gbit/s, delay: 1 ms}]"
    layout = lay_out(network(tmp_path, f"datacenters: {text}\n{wan}\n"))
    assert layout.view is None
    for site in layout.sites:
        x = (site.point[0] - layout.frame.left) / layout.frame.width
        y = (site.point[1] - layout.frame.top) / layout.frame.height
        assert (x, y) == pytest.approx(places[site.dc.name], abs=0.02)


def test_the_centre_of_a_star_is_in_the_middle(tmp_path: Path) -> None:
    star = """
    datacenters: {a: {}, hub: {}, b: {}, c: {}}
    wan: [{star: [hub, a, b, c], rate: 1 Gbit/s, delay: 1 ms}]
    """
    layout = lay_out(network(tmp_path, star))
    assert layout.sites[1].point == layout.frame.middle


def test_sites_without_a_location_stand_below_the_map(tmp_path: Path) -> None:
    text = """
    datacenters:
      iowa: {location: [41.22, -95.86]}
      ohio: {location: [40.07, -82.76]}
      lab: {}
    wan: [{mesh: all, rate: 1 Gbit/s, delay: 1 ms}]
    """
    net = network(tmp_path, text)
    layout = lay_out(net)
    assert layout.sites[2].point[1] > view_of(layout).frame.bottom
    assert all(site.point[1] < view_of(layout).frame.bottom for site in layout.sites[:2])
    assert "without a location" in texts(site_map(net))


def test_two_sites_at_one_place_are_told_apart(tmp_path: Path) -> None:
    text = """
    datacenters: {a: {location: [41.22, -95.86]}, b: {location: [41.22, -95.86]}}
    wan: [{between: [a, b], rate: 1 Gbit/s, delay: 1 us}]
    """
    layout = lay_out(network(tmp_path, text))
    (ax, ay), (bx, by) = (site.point for site in layout.sites)
    assert np.hypot(ax - bx, ay - by) > layouts.APART - 1


def test_rates_of_each_direction_have_arrows_as_drawn(tmp_path: Path) -> None:
    text = """
    datacenters: {west: {location: [40, -110]}, east: {location: [40, -80]}}
    wan: [{between: [east, west], rate: {east->west: 10 Gbit/s, west->east: 1 Gbit/s}}]
    """
    words = texts(site_map(network(tmp_path, text)))
    assert {"← 10 Gbit/s", "→ 1 Gbit/s"} <= set(words)


def test_many_links_are_listed_with_their_rates(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(20)]
    ring = "datacenters: {" + ", ".join(f"{name}: {{}}" for name in names) + "}\n"
    ring += "wan:\n  - {ring: all, delay: 3 ms, rate: 2 Gbit/s}\n"
    ring += "  - {between: [s0, s1], rate: {s0->s1: 4 Gbit/s, s1->s0: 5 Gbit/s}}\n"
    net = network(tmp_path, ring)
    words = texts(site_map(net))
    for link in net.wan:
        assert f"{link.forward.source} – {link.forward.target}" in words
    assert words.count("6 ms") == 20
    assert words.count("2 Gbit/s") == 19
    assert "4 Gbit/s →, 5 Gbit/s ←" in words


def test_use_colours_each_direction() -> None:
    net = preset("two-sites")
    root = ET.fromstring(site_map(net, {("iowa", "ohio"): 1.0, ("ohio", "iowa"): 0.0}))
    group = next(group for group in root.iter() if group.get("id") == "link-iowa-ohio")
    assert [path.get("style") for path in group.iter(f"{SVG}path")] == [
        "stroke:#f08a00",
        "stroke:#9aa5b0",
    ]
    assert "iowa to ohio 10 Gbit/s, 100 % used" in title_of(group)
    words = texts(ET.tostring(root, encoding="unicode"))
    assert "→ 100 %  ← 0 %" in words
    assert "used 0 %" in words
    assert (colour(-1), colour(0.5), colour(2)) == (colour(0), "#3f8fdc", colour(1))


def test_themes() -> None:
    net = preset("single-cluster")
    light, dark, auto, page = (
        site_map(net, theme=theme) for theme in ("light", "dark", "auto", "page")
    )
    for i, svg in enumerate((light, dark)):
        for pair in COLOURS.values():
            assert pair[i] in svg
        assert "@media" not in svg
        assert "var(" not in svg
    assert (
        auto.index(COLOURS["ink"][0])
        < auto.index("@media (prefers-color-scheme:dark)")
        < auto.index(COLOURS["ink"][1])
    )
    assert "fill:var(--map-ink)" in page
    assert f"--map-ink:{COLOURS['ink'][1]}" in page[page.index("@media") :]


@pytest.mark.parametrize(("theme", "place"), [("light", 0), ("dark", 1)])
def test_png_has_its_size_and_shows_text_lines_and_land(theme: Theme, place: int) -> None:
    svg = site_map(preset("two-sites"), theme=theme)
    image = png(svg, 480)
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    dots = np.asarray(Image.open(io.BytesIO(image)).convert("RGBA"))
    height, width, _ = dots.shape
    root = ET.fromstring(svg)
    assert (width, height) == (
        480,
        pytest.approx(480 / 960 * float(root.get("height", "nan")), abs=1),
    )
    found = set(map(tuple, dots[..., :3].reshape(-1, 3).tolist()))
    for name in ("paper", "land", "link", "site"):
        value = COLOURS[name][place]
        assert tuple(int(value[i : i + 2], 16) for i in (1, 3, 5)) in found, name
    assert (dots[..., 3] == 255).all()
    title = dots[4:17, 6:80, :3].astype(int)  # where "two-sites" stands
    paper = [int(COLOURS["paper"][place][i : i + 2], 16) for i in (1, 3, 5)]
    assert (abs(title - paper).sum(axis=2) > 200).mean() > 0.1


def test_text_is_as_wide_as_in_arial() -> None:
    assert text_width("10 Gbit/s", 10) == pytest.approx(
        40.02
    )  # 2 x 556 + 278 + 778 + 556 + 222 + 278 + 278 + 500
    assert text_width("georgia", 13, bold=True) > text_width("georgia", 13)
