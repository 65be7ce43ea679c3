"""Pages that are one file, work offline, and run no script but their own, whatever a run folder
holds.

Texts are escaped by the templates. Figures are data that the page's own script draws. Should a text
ever get through as an element, the page's content security policy, which names its two scripts by
their hashes, still runs nothing.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from secrets import token_hex

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs


@dataclass(frozen=True)
class Figure:
    """A figure as JSON of plotly, or as an SVG document; `words` explains it."""

    name: str  # of its element, and of the files it is saved as
    title: str
    words: str
    json: Markup | None = None
    svg: Markup | None = None


def figure(name: str, title: str, words: str, drawn: go.Figure | None) -> dict[str, Figure]:
    """`drawn` under its name; nothing if there is none."""
    return (
        {}
        if drawn is None
        else {name: Figure(name, title, words, json=_for_script(drawn.to_json()))}
    )


def render(template: str, **content: object) -> bytes:
    """The page that `template`, such as ``report/page.html.j2``, makes of `content`, in UTF-8.

    Plotly's 5 MB are put in last, for as text they would be copied five times, at 10 MB each.
    """
    mark = token_hex(16)
    html = template_of(template).render(
        scripts=[Markup(_text("page.js")), Markup(mark)],
        style=Markup(_text("page.css")),
        policy=policy(),
        **content,
    )
    before, after = html.split(mark)
    return b"".join([before.encode(), _plotly(), after.encode()])


@cache
def _plotly() -> bytes:
    script: str = get_plotlyjs()
    return script.encode()


@cache
def policy() -> str:
    """The content security policy of all pages."""
    scripts = _text("page.js").encode(), _plotly()
    hashes = " ".join(
        f"'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _for_script(json: str) -> Markup:
    """JSON that cannot end the element it stands in."""
    return Markup(json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def template_of(name: str) -> Template:
    """The template `name`, a path in the package, compiled once."""
    loader = PackageLoader("testbed", "")
    return Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


@cache
def _text(name: str) -> str:
    return resources.files("testbed.report").joinpath(name).read_text()
