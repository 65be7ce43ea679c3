"""The dashboard's addresses: pages, their events, reports in frames, and changes of networks."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from secrets import token_urlsafe
from urllib.parse import quote

from markupsafe import Markup
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from testbed import __version__
from testbed.core.errors import InputError, TestbedError
from testbed.report.html import PLOTLY, template_of
from testbed.report.map.site_map import site_map
from testbed.ui import networks
from testbed.ui.documents import Documents, frame_policy
from testbed.ui.entries import ResultsFolder
from testbed.ui.feed import READING_ERRORS, Feeds, Look, Parts
from testbed.ui.live_run import LiveRun
from testbed.ui.live_sweep import LiveSweep

MOST_BYTES = 10_000  # of a request
STATIC = {
    "page.css": ("testbed.report", "page.css", "text/css"),
    "page.js": ("testbed.report", "page.js", "text/javascript"),
    "ui.css": ("testbed.ui", "ui.css", "text/css"),
    "ui.js": ("testbed.ui", "ui.js", "text/javascript"),
    "plotly.js": ("testbed.report", PLOTLY, "text/javascript"),
}


class Dashboard:
    """The pages of one folder of results, and of the networks of this user.

    `feeds` has the streams of events that are open.
    """

    def __init__(self, folder: Path) -> None:
        self._results = ResultsFolder(folder)
        self._documents = Documents(self._results)
        self.feeds = Feeds()

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/", self._overview),
            Route("/run", self._run),
            Route("/sweep", self._sweep),
            Route("/compare", self._compare),
            Route("/network", self._network),
            Route("/events", self._events),
            Route("/events/run", self._run_events),
            Route("/events/sweep", self._sweep_events),
            Route("/events/network", self._network_events),
            Route("/page/{path:path}", self._document),
            Route("/comparison", self._comparison),
            Route("/static/{name}", _static),
            Route("/networks/{name}/link", self._change_link, methods=["POST"]),
            Route("/networks/{name}/destroy", self._destroy, methods=["POST"]),
        ]
        handlers = {TestbedError: _explain, HTTPException: _explain_http}
        return Starlette(routes=routes, exception_handlers=handlers)

    # ---- pages

    async def _overview(self, request: Request) -> Response:
        return _page("overview", "Runs", events="/events", folder=str(self._results.path))

    async def _run(self, request: Request) -> Response:
        at = _at(request)
        run = await run_in_threadpool(self._results.run, at)
        drawing = await run_in_threadpool(_map_of_run, run.read_plan)
        return _page(
            "run",
            at,
            events=f"/events/run?at={quote(at)}",
            document=f"/page/{quote(at)}/report.html",
            drawing=drawing,
        )

    async def _sweep(self, request: Request) -> Response:
        at = _at(request)
        await run_in_threadpool(self._results.sweep, at)
        return _page(
            "sweep",
            at,
            events=f"/events/sweep?at={quote(at)}",
            document=f"/page/{quote(at)}/sweep.html",
        )

    async def _compare(self, request: Request) -> Response:
        places = request.query_params.getlist("run")
        query = "&".join(f"run={quote(at)}" for at in places)
        return _page("compare", "Comparison", document=f"/comparison?{query}")

    async def _network(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        network = await run_in_threadpool(networks.network_of, name)
        drawing = await run_in_threadpool(site_map, network, theme="page")
        return _page(
            "network",
            name,
            events=f"/events/network?name={quote(name)}",
            drawing=Markup(drawing),
        )

    # ---- what happens

    async def _events(self, request: Request) -> Response:
        return _stream(self.feeds.messages("", lambda: self._look_at_all))

    def _look_at_all(self) -> Parts:
        parts: dict[str, str] = {}
        for entry in self._results.look():
            parts[f"result/{entry.at}"] = entry.model_dump_json()
        for network in networks.list_networks():
            parts[f"network/{network.name}"] = network.model_dump_json()
        return parts

    async def _run_events(self, request: Request) -> Response:
        at = _at(request)
        run = await run_in_threadpool(self._results.run, at)

        def look() -> Look:
            return LiveRun(run, at).look

        return _stream(self.feeds.messages(f"run/{at}", look))

    async def _sweep_events(self, request: Request) -> Response:
        at = _at(request)
        sweep = await run_in_threadpool(self._results.sweep, at)

        def look() -> Look:
            return LiveSweep(sweep, at).look

        return _stream(self.feeds.messages(f"sweep/{at}", look))

    async def _network_events(self, request: Request) -> Response:
        name = request.query_params.get("name", "")

        def look() -> Look:
            return lambda: networks.look_at_network(name)

        return _stream(self.feeds.messages(f"network/{name}", look))

    # ---- reports

    async def _document(self, request: Request) -> Response:
        path = request.path_params["path"]
        html = await run_in_threadpool(_made, lambda: self._documents.page(path))
        return _framed(html)

    async def _comparison(self, request: Request) -> Response:
        places = request.query_params.getlist("run")
        html = await run_in_threadpool(_made, lambda: self._documents.comparison(places))
        return _framed(html)

    # ---- changes

    async def _change_link(self, request: Request) -> Response:
        name = request.path_params["name"]
        wanted = await _content(request, networks.LinkChange)
        await run_in_threadpool(networks.change_link, name, wanted)
        return JSONResponse({})

    async def _destroy(self, request: Request) -> Response:
        await run_in_threadpool(networks.take_down, request.path_params["name"])
        return JSONResponse({})


def _at(request: Request) -> str:
    return request.query_params.get("at", "")


def _map_of_run(read_plan: Callable[[], object]) -> Markup:
    """Return the map of a run's network; empty while there is no plan, or without a network."""
    try:
        plan = read_plan()
        network = plan.network  # type: ignore[attr-defined]
        full = {}  # leaves room for the longest label; the page's script sets what is true
        for link in network.wan:
            for direction in link.directions:
                full[direction.source, direction.target] = 1.0
        return Markup(site_map(network, full, theme="page"))
    except READING_ERRORS:
        return Markup("")


def _made(make: Callable[[], bytes]) -> bytes:
    """Return a document; what goes wrong in a damaged folder becomes an InputError."""
    try:
        return make()
    except READING_ERRORS as error:
        raise InputError(f"cannot make the page: {type(error).__name__}: {error}") from error


def _page(
    kind: str,
    title: str,
    *,
    events: str = "",
    document: str = "",
    drawing: Markup | str = "",
    folder: str = "",
) -> Response:
    """Return a page of the dashboard.

    Args:
        kind: name of the page, by which its script knows what to do.
        title: title of the page.
        events: address of the page's events; empty: none.
        document: address of the report that the page shows; empty: none.
        drawing: the map, an SVG element.
        folder: path of the folder of results.
    """
    nonce = token_urlsafe(16)
    html = template_of("ui/page.html.j2").render(
        kind=kind,
        title=title,
        events=events,
        document=document,
        drawing=drawing,
        folder=folder,
        nonce=nonce,
        static=_static_address,
        version=__version__,
    )
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; frame-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return _html(html.encode(errors="backslashreplace"), policy)


def _framed(html: bytes) -> Response:
    return _html(html, frame_policy())


def _html(html: bytes, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return Response(html, media_type="text/html", headers=headers)


def _stream(messages: AsyncIterator[str]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(messages, media_type="text/event-stream", headers=headers)


@cache
def _static_content(name: str) -> bytes:
    package, path, _kind = STATIC[name]
    content = resources.files(package).joinpath(path).read_bytes()
    return content if path.endswith(".gz") else gzip.compress(content, mtime=0)


def _static_address(name: str) -> str:
    """Return the address of a file, which changes with its content."""
    return f"/static/{name}?v={sha256(_static_content(name)).hexdigest()[:12]}"


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    headers = {
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Encoding": "gzip",
    }
    return Response(_static_content(name), media_type=STATIC[name][2], headers=headers)


async def _content(request: Request, kind: type[networks.LinkChange]) -> networks.LinkChange:
    """Return the content of a request.

    Raises:
        InputError: The content is too long or wrong.
    """
    received = b""
    async for part in request.stream():
        received += part
        if len(received) > MOST_BYTES:
            raise InputError("the request is too long")
    try:
        return kind.model_validate_json(received)
    except ValidationError as error:
        raise InputError(f"the request is wrong: {error.error_count()} mistakes") from error


async def _explain(request: Request, error: Exception) -> Response:
    """Answer with an error: as text for scripts, as a page for people."""
    status = 404 if request.method == "GET" and isinstance(error, InputError) else 400
    return _answer(request, str(error), status)


async def _explain_http(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return _answer(request, getattr(error, "detail", "error"), status)


def _answer(request: Request, text: str, status: int) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": text}, status_code=status)
    html = template_of("ui/error.html.j2").render(text=text, static=_static_address)
    policy = "default-src 'none'; style-src 'self'; frame-ancestors 'self'"
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return Response(html.encode(errors="backslashreplace"), status, headers, "text/html")
