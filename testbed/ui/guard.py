"""Who may use the dashboard: this machine's own pages, or whoever has the token.

A web page of a stranger, open in the same browser, can send requests to the dashboard's port. Such
requests have another Origin. If the page gave its own name the address 127.0.0.1 (DNS rebinding),
they have that name as Host. Both are refused. Without a token, the server listens on loopback only.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from secrets import compare_digest
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = ("GET", "HEAD")
LEAST_TOKEN = 16  # characters
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware that refuses requests of other pages, and without the token."""

    def __init__(self, app: ASGIApp, *, on_loopback: bool, token: str, port: int) -> None:
        """Guard an application.

        Args:
            app: the application.
            on_loopback: whether the server listens on loopback, where only loopback's names are
                right.
            token: the token; empty: none is needed.
            port: the server's port, to which the cookie's name belongs.
        """
        self._app = app
        self._on_loopback = on_loopback
        self._token = token
        self._cookie = f"testbed_ui_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers)
        if answer is None:
            answer = self._greeting(scope, headers)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await (answer or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request from elsewhere; None to any other."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or (self._on_loopback and not is_loopback(host_name(hosts[0]))):
            return _refused("this host name is not the dashboard's")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            is_link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
            if not is_link:
                return _refused("requests of other pages are refused")
        if scope["method"] in SAFE_METHODS:
            return None
        if urlsplit(headers.get("origin", "")).netloc != hosts[0]:
            return _refused("requests of other pages are refused")
        if headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refused("the content must be JSON")
        return None

    def _greeting(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that does not have the cookie; None if it does."""
        if not self._token:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token", "")
        if given and scope["method"] == "GET":
            if not _equal(given, self._token):
                return _refused("the token is wrong")
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            path = "/" + scope["path"].lstrip("/")  # two slashes would name another host
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        if _equal(_cookies(headers).get(self._cookie, ""), self._token):
            return None
        return PlainTextResponse("open the address with ?token=TOKEN", 401)


def _cookies(headers: Headers) -> Mapping[str, str]:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in cookies.items()}


def _equal(given: str, token: str) -> bool:
    return compare_digest(given.encode(), token.encode())


def _refused(text: str) -> Response:
    return PlainTextResponse(text, 403)


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port and the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Return whether a name or an address can only mean this machine."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
