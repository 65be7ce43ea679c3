"""HTML pages that work offline and run only their own scripts.

A run folder may hold arbitrary text, so templates escape all text, and figures are data that the
page's script draws. Even if a text became an element, the page's content security policy would
prevent the element from running scripts: the policy names the page's scripts by their hashes.

A page holds the part of plotly that draws in two dimensions (`plotly_js/SOURCES.md`), as gzip in
base64 (0.7 MB), which the page's script unpacks and runs. Or a page refers to a file with plotly
that many pages share. Hashes do not cover files, so the policy then names a number that is drawn
when the page is written.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from secrets import token_hex

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup

from testbed.runfolder.files import replace_bytes

PLOTLY = "plotly_js/plotly-cartesian.min.js.gz"


@dataclass(frozen=True)
class Figure:
    """A figure of a page, as JSON for plotly or as an SVG document.

    `name` names the figure's element and saved files; `explanation` describes the content.
    """

    name: str
    title: str
    explanation: str
    json: Markup | None = None
    svg: Markup | None = None


def figure(name: str, title: str, explanation: str, drawn: go.Figure | None) -> dict[str, Figure]:
    """Return a drawn figure under its name, or an empty dict if nothing was drawn.

    Args:
        name: name of the figure's element and saved files.
        title: title of the figure.
        explanation: text about the figure's content.
        drawn: the figure, or None if there is nothing to draw.
    """
    if drawn is None:
        return {}
    json = _for_script(drawn.to_json())
    return {name: Figure(name, title, explanation, json=json)}


def render(template: str, *, shared_plotly: str = "", **content: object) -> bytes:
    """Return a rendered page in UTF-8.

    Plotly's 0.7 MB are inserted last, because templates would copy the text five times.

    Args:
        template: path of the template in the package, such as ``report/page.html.j2``.
        shared_plotly: path, relative to the page, of a file that `write_plotly` has written; empty:
            the page holds plotly itself.
        content: the variables of the template.
    """
    mark = token_hex(16)
    html = template_of(template).render(
        page_script=Markup(_text("page.js")),
        plotly=Markup(mark),
        shared_plotly=shared_plotly,
        nonce=mark,
        style=Markup(_text("page.css")),
        policy=_policy_of_shared(mark) if shared_plotly else policy(),
        **content,
    )
    if shared_plotly:
        return _encoded(html)

    before, after = html.split(mark)
    return b"".join([_encoded(before), pack_plotly(), _encoded(after)])


def _encoded(html: str) -> bytes:
    """Return text in UTF-8; bytes of a file name that were not UTF-8 are written as escapes."""
    return html.encode(errors="backslashreplace")


def write_plotly(path: Path) -> None:
    """Write the file with plotly that pages share, unless it is there already.

    Raises:
        OSError: the file cannot be written.
    """
    script = _plotly()
    if path.is_file() and path.stat().st_size == len(script):
        return
    replace_bytes(path, script)


@cache
def _packed_plotly() -> bytes:
    return resources.files("testbed.report").joinpath(PLOTLY).read_bytes()


@cache
def _plotly() -> bytes:
    return gzip.decompress(_packed_plotly())


@cache
def pack_plotly() -> bytes:
    """Return plotly as gzip in base64, the same bytes each time."""
    return b64encode(_packed_plotly())


@cache
def policy() -> str:
    """Return the content security policy of pages that hold all of their scripts."""
    return _policy(_source_hash(_plotly()))


def _policy_of_shared(nonce: str) -> str:
    return _policy(f"'nonce-{nonce}'")


def _policy(plotly_source: str) -> str:
    page_script = _source_hash(_text("page.js").encode())
    return (
        f"default-src 'none'; script-src {page_script} {plotly_source}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _source_hash(script: bytes) -> str:
    digest = b64encode(sha256(script).digest())
    return f"'sha256-{digest.decode()}'"


def _for_script(json: str) -> Markup:
    """Return JSON escaped so that the text cannot end the enclosing element."""
    json = json.replace("<", "\\u003c")
    json = json.replace(">", "\\u003e")
    return Markup(json.replace("&", "\\u0026"))


@cache
def template_of(name: str) -> Template:
    """Compile a template, given by its path in the package, and cache the result."""
    environment = Environment(
        loader=PackageLoader("testbed", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@cache
def _text(name: str) -> str:
    return resources.files("testbed.report").joinpath(name).read_text()
