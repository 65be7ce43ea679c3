"""Figures for a paper: files as PDF, SVG and PNG, drawn without a browser."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from testbed.analysis.summarize import collect
from testbed.core.errors import InputError
from testbed.plan.resolve import resolve_network
from testbed.report.compare_page import Side, draw_comparison
from testbed.report.load import load
from testbed.report.map.pdf import map_pdf
from testbed.report.map.site_map import site_map
from testbed.report.paper.choice import PaperWidth, choose_figures
from testbed.report.paper.draw import draw_on_paper
from testbed.report.paper.files import paper_bytes
from testbed.report.paper.run_figures import draw_run, step_figure
from testbed.report.paper.style import COLOUR_ON_PAPER, colour_on_paper, paper_style
from testbed.spec.topology import Topology
from testbed.sweep.figures import draw
from testbed.sweep.plots import SweepPlot
from testbed.sweep.results import gather
from tests.support.synthetic import (
    make_plan,
    three_dcs,
    two_dcs,
    write_run,
    write_sweep,
    write_training_run,
)

SVG = "{http://www.w3.org/2000/svg}"
MEDIA_BOX = re.compile(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]")
FONT_FILES = re.compile(rb"/FontFile2? \d+ 0 R")
STREAM = re.compile(rb"stream\r?\n(.*?)\r?\nendstream", re.DOTALL)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, go.Figure]:
    """The figures of a run of training, of a sweep, and of two runs compared."""
    folder = tmp_path_factory.mktemp("paper")
    plan = make_plan(three_dcs())
    runs = [write_training_run(folder / "train", plan), write_run(folder / "collectives", plan)]
    sides = []
    found: dict[str, go.Figure | None] = {}
    for run in runs:
        collect(run)
        content = load(run)
        found.update(draw_run(content))
        sides += [Side(f"{run.path.name}-{number}", content, {}) for number in (1, 2)]
    for name, figure in draw_comparison(sides).items():
        found[f"compare-{name}"] = figure

    points, collectives = gather(write_sweep(folder / "sweep"))
    lines = SweepPlot("bytes", "time_us", "op", facet="delay")
    cells = SweepPlot("delay", "time_us", "algorithm", heat=True)
    found["sweep"] = draw(lines, points, collectives)
    found["heat"] = draw(cells, points, collectives)
    return {name: figure for name, figure in found.items() if figure is not None}


def page_sizes(pdf: bytes) -> list[tuple[float, float]]:
    """Give width and height of each page in inches."""
    sizes = MEDIA_BOX.findall(pdf)
    return [(float(width) / 72, float(height) / 72) for width, height in sizes]


def streams(pdf: bytes) -> Iterator[bytes]:
    """Decompress the streams of a PDF."""
    for stream in STREAM.findall(pdf):
        try:
            yield zlib.decompress(stream)
        except zlib.error:
            yield stream


def test_all_kinds_of_figures(figures: dict[str, go.Figure]) -> None:
    kinds = {"latency", "matrix", "loss", "utilisation", "queue", "ranks", "steps"}
    kinds |= {"compare-loss", "compare-latency", "compare-use", "sweep", "heat"}
    assert set(figures) == kinds


@pytest.mark.parametrize(("width", "inches"), [("single", 3.4), ("double", 7.0)])
def test_pages_have_the_width_of_a_column(
    figures: dict[str, go.Figure], width: PaperWidth, inches: float
) -> None:
    pdf = paper_bytes(figures, ".pdf", width)
    sizes = page_sizes(pdf)
    assert len(sizes) == len(figures)
    for page_width, page_height in sizes:
        assert page_width == pytest.approx(inches, abs=0.001)
        assert 1 < page_height <= 9


def test_pdf_has_embedded_truetype_fonts(figures: dict[str, go.Figure]) -> None:
    pdf = paper_bytes({"latency": figures["latency"]}, ".pdf", "single")
    assert pdf.count(b"/Subtype /TrueType") + pdf.count(b"/Subtype /CIDFontType2") > 0
    assert b"/Type3" not in pdf
    assert len(FONT_FILES.findall(pdf)) >= 1
    assert b"Arimo" in pdf


def test_text_of_a_pdf_can_be_searched(figures: dict[str, go.Figure], tmp_path: Path) -> None:
    """The fonts say which character each glyph is, so viewers find and copy text."""
    pdf = paper_bytes({"latency": figures["latency"]}, ".pdf", "single")
    characters: set[str] = set()
    for stream in streams(pdf):
        if b"begincmap" in stream:
            codes = re.findall(rb"<([0-9A-Fa-f]{4})>", stream)
            characters |= {chr(int(code, 16)) for code in codes}
    assert set("size of the data, time (ms), all_reduce") - set(",") <= characters

    reader = shutil.which("pdftotext")
    if reader is not None:
        path = tmp_path / "figure.pdf"
        path.write_bytes(pdf)
        text = subprocess.run([reader, path, "-"], capture_output=True, check=True).stdout.decode()
        assert "size of the data" in text
        assert "time (ms)" in text


def test_png_has_300_dots_per_inch(figures: dict[str, go.Figure]) -> None:
    png = paper_bytes({"latency": figures["latency"]}, ".png", "single")
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">I", png[16:20]) == (1020,)


@pytest.mark.parametrize("ending", [".pdf", ".svg", ".png"])
def test_the_same_figure_gives_the_same_bytes(figures: dict[str, go.Figure], ending: str) -> None:
    for name, figure in figures.items():
        first = paper_bytes({name: figure}, ending, "single")
        assert paper_bytes({name: figure}, ending, "single") == first, name


def test_a_line_of_an_svg_has_the_tables_values(tmp_path: Path) -> None:
    """Both axes are linear here, so places and values differ by a factor and a shift."""
    points, collectives = gather(write_sweep(tmp_path / "sweep"))
    table = points.with_columns(
        state=pl.lit("completed"), size=pl.Series([1, 2, 4, 5]), got=pl.Series([3.0, 9.0, 4.0, 8.0])
    )
    figure = draw(SweepPlot("size", "got"), table, collectives)
    assert figure is not None
    svg = ET.fromstring(paper_bytes({"got": figure}, ".svg", "single"))
    places = np.array(_longest_line(svg))

    x = np.polyfit([1, 2, 4, 5], places[:, 0], 1, full=True)
    y = np.polyfit([3.0, 9.0, 4.0, 8.0], places[:, 1], 1, full=True)
    assert x[1][0] == pytest.approx(0, abs=1e-6)
    assert y[1][0] == pytest.approx(0, abs=1e-6)
    assert x[0][0] > 0 > y[0][0]  # an SVG's y grows downwards


def _longest_line(svg: ET.Element) -> list[tuple[float, float]]:
    """Give the points of the path in the colour of the first line."""
    best: list[tuple[float, float]] = []
    for path in svg.iter(f"{SVG}path"):
        if "#0072b2" not in path.get("style", "") or "fill: none" not in path.get("style", ""):
            continue
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
        line = list(zip(numbers[::2], numbers[1::2], strict=True))
        if len(line) > len(best):
            best = line
    return best


def test_text_of_an_svg_stays_text(figures: dict[str, go.Figure]) -> None:
    svg = paper_bytes({"latency": figures["latency"]}, ".svg", "single").decode()
    texts = ["".join(text.itertext()).strip() for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"size of the data", "time (ms)", "all_reduce", "bound"} <= set(texts)
    assert "Arimo, Arial, 'Liberation Sans', Helvetica, sans-serif" in svg
    assert "<dc:date>" not in svg


def test_fonts_are_large_enough(figures: dict[str, go.Figure]) -> None:
    for name, figure in figures.items():
        svg = paper_bytes({name: figure}, ".svg", "single").decode()
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
        assert sizes, name
        assert min(sizes) >= 5.5, name
        assert max(sizes) <= 8, name


def test_nothing_is_cut_off(figures: dict[str, go.Figure]) -> None:
    with paper_style():
        for name, figure in figures.items():
            paper = draw_on_paper(figure, "single")
            paper.draw_without_rendering()
            box = paper.get_tightbbox()
            assert box.x0 >= -0.01, name
            assert box.y0 >= -0.01, name
            assert box.x1 <= paper.get_figwidth() + 0.01, name
            assert box.y1 <= paper.get_figheight() + 0.01, name


def test_lines_differ_in_colour_and_marker(figures: dict[str, go.Figure]) -> None:
    with paper_style():
        paper = draw_on_paper(figures["compare-latency"], "single")
    (axes,) = paper.axes
    looks = {
        (line.get_color(), str(line.get_linestyle()), line.get_marker()) for line in axes.lines
    }
    assert len(looks) == len(axes.lines)
    markers = {line.get_marker() for line in axes.lines}
    assert len(markers) == len(axes.lines)


def test_colours_of_the_pages_become_colour_blind_safe_ones() -> None:
    assert colour_on_paper("#2f7ed8") == "#0072B2"
    assert len(set(COLOUR_ON_PAPER.values())) == 9
    assert colour_on_paper("rgba(0,0,0,0.25)") == pytest.approx((0.75, 0.75, 0.75))
    assert colour_on_paper("#123456") == "#123456"


def test_names_with_markup_and_long_names() -> None:
    names = ["_hidden", "a $ b $ c", "&lt;b&gt;", "long " * 40]
    traces = [go.Scatter(x=[1, 2], y=[1, 2], name=name, mode="lines") for name in names]
    figure = go.Figure([trace.update(line={"color": "#2f7ed8"}) for trace in traces])
    with paper_style():
        paper = draw_on_paper(figure, "single")
    texts = [text.get_text() for text in paper.legends[0].get_texts()]
    assert texts[:3] == [" _hidden", "a $ b $ c", "<b>"]
    assert texts[3].endswith("…")


def test_time_of_steps(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "run", make_plan(two_dcs()), steps=4)
    collect(run)
    content = load(run)
    assert content.train is not None
    figure = step_figure(content.train)
    assert figure is not None
    step, computation = figure.data
    assert list(step.x) == [0, 1, 2, 3]
    assert list(step.y) == pytest.approx([100] * 4)
    assert list(computation.y) == pytest.approx([60] * 4)
    assert step_figure(content.train.filter(pl.col("step") == 0)) is None


def test_choice_of_figures() -> None:
    figure = go.Figure()
    both = {"a": figure, "b": figure, "c": None}
    assert list(choose_figures(both, None, ".pdf")) == ["a", "b"]
    assert list(choose_figures(both, "b", ".svg")) == ["b"]
    assert list(choose_figures({"a": figure, "c": None}, None, ".png")) == ["a"]
    with pytest.raises(InputError, match=r"a \.svg file holds one figure, and there are 2: a, b"):
        choose_figures(both, None, ".svg")
    with pytest.raises(InputError, match=r"no figure 'x'\n  choose one of: a, b, map"):
        choose_figures(both, "x", ".pdf", others=["map"])
    with pytest.raises(InputError, match="the figure 'c' has no data"):
        choose_figures(both, "c", ".pdf")
    with pytest.raises(InputError, match="nothing to draw"):
        choose_figures({"c": None}, None, ".pdf")


@pytest.mark.parametrize("name", ["microsoft-openai-five", "single-cluster", "aws-ten-regions"])
def test_map_as_pdf(name: str) -> None:
    network = resolve_network(Topology.load(name))
    svg = site_map(network, theme="light")
    pdf = map_pdf(svg)
    ((width, height),) = page_sizes(pdf)
    root = ET.fromstring(svg)
    assert width == pytest.approx(7, abs=0.001)
    assert height / width == pytest.approx(
        float(root.get("height", "0")) / float(root.get("width", "1")), abs=1e-4
    )
    assert b"/Type3" not in pdf
    assert len(FONT_FILES.findall(pdf)) >= 2  # regular and bold
    assert map_pdf(svg) == pdf


def test_run_without_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_plan(two_dcs()))
    collect(run)
    drawn = draw_run(load(run))
    assert "steps" not in drawn
    assert drawn["latency"] is not None
