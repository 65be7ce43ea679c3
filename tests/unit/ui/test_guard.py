"""Who may use the dashboard, request by request."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from testbed.core.errors import InputError
from testbed.ui.guard import Guard
from testbed.ui.serve import check_access, listen, serve

TOKEN = "0123456789abcdef"
OWN = {"host": "127.0.0.1:8600"}
POST = {**OWN, "origin": "http://127.0.0.1:8600", "content-type": "application/json"}


def ask(
    headers: Mapping[str, str],
    *,
    method: str = "GET",
    query: str = "",
    path: str = "/run",
    on_loopback: bool = True,
    token: str = "",
) -> tuple[int, dict[str, str]]:
    """Send a request to a guarded application that says yes; return status and headers."""
    guard = Guard(PlainTextResponse("yes"), on_loopback=on_loopback, token=token, port=8600)
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": pairs,
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    asyncio.run(guard(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:9000", "[::1]:8600", "127.0.0.2"])
def test_loopback_may_look(host: str) -> None:
    status, headers = ask({"host": host})
    assert status == 200
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "host",
    ["evil.example:8600", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""],
)
def test_another_name_is_refused(host: str) -> None:
    """As after DNS rebinding: the connection is from loopback, the name is another one."""
    assert ask({"host": host})[0] == 403


def test_requests_of_other_pages_are_refused() -> None:
    cross = {**OWN, "sec-fetch-site": "cross-site"}
    assert ask({**cross, "sec-fetch-mode": "cors"})[0] == 403
    assert ask({**cross, "sec-fetch-mode": "navigate"})[0] == 200  # a link to the dashboard
    assert ask({**OWN, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"})[0] == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"content-type": "text/plain"}, 403),
        ({"content-type": "application/x-www-form-urlencoded"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_changes_need_the_own_origin(changes: dict[str, str], status: int) -> None:
    assert ask({**POST, **changes}, method="POST")[0] == status


def test_the_token_becomes_a_cookie() -> None:
    away = {"host": "lab.example:8600"}
    options: dict[str, Any] = {"on_loopback": False, "token": TOKEN}
    assert ask(away, **options)[0] == 401
    assert ask(away, query="token=wrong-wrong-wrong", **options)[0] == 403
    assert ask({**away, "cookie": "testbed_ui_8600=wrong"}, **options)[0] == 401
    assert ask({**away, "cookie": "a=b; c"}, **options)[0] == 401

    status, headers = ask(away, query=f"at=a%20b&token={TOKEN}", **options)
    assert status == 303
    assert headers["location"] == "/run?at=a+b"
    assert "HttpOnly" in headers["set-cookie"]
    assert "samesite=lax" in headers["set-cookie"].lower()
    assert ask({**away, "cookie": f"testbed_ui_8600={TOKEN}"}, **options)[0] == 200


def test_the_redirect_stays_on_this_host() -> None:
    _status, headers = ask(OWN, path="//evil.example/", query=f"token={TOKEN}", token=TOKEN)
    assert headers["location"] == "/evil.example/"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_nothing_but_loopback_without_a_token(host: str) -> None:
    with pytest.raises(InputError, match=f"everyone who reaches {host}"):
        check_access(host, "")
    assert check_access(host, TOKEN) == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_token(host: str) -> None:
    assert check_access(host, "") in ("127.0.0.1", "::1")


@pytest.mark.parametrize("token", ["short", "0123456789abcdef;", "0123456789abcdeé"])
def test_a_token_that_is_none(token: str) -> None:
    with pytest.raises(InputError, match="at least 16 letters and digits"):
        check_access("127.0.0.1", token)


def test_a_name_is_no_address() -> None:
    with pytest.raises(InputError, match="not an IP address"):
        check_access("lab.example", TOKEN)


def test_a_port_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as first:
        number = first.getsockname()[1]
        with pytest.raises(InputError, match=f"port {number} is taken"):
            listen("127.0.0.1", number)


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        serve(tmp_path / "x", host="127.0.0.1", port=0, token="", ready=print)
