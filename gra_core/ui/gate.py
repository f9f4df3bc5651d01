"""Gate before the page and its endpoints: everything that a client sends passes here first.

The gate lets through what the page and the documented endpoints use, from hosts and origins that it knows, in bounded
size, with files that the client itself uploaded; it adds the security headers to every answer.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from gradio.routes import App, ORJSONResponse
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gra_core.ui import strings
from gra_core.ui.admission import MODEL, QueueFullError
from gra_core.ui.received import StorageFullError

if TYPE_CHECKING:
    import gradio as gr

    from gra_core.ui.app_state import AppState

HOSTS = "GRA_ALLOWED_HOSTS"
"""Environment variable: names, separated by commas, under which the page may be opened; * is any. Addresses in numbers
and this computer's own names always work: a foreign page cannot be served under those."""

PROXIED = "GRA_BEHIND_PROXY"
"""Environment variable: 1 if a proxy adds the client's address to X-Forwarded-For."""

SPACE, SPACE_HOST = "SPACE_ID", "SPACE_HOST"
"""Environment variables that Hugging Face sets on a Space."""

SPACE_FRAMES = ("https://huggingface.co", "https://*.huggingface.co")
"""Pages that show a Space in a frame."""

LARGEST_BODY = 2_000_000
"""Bytes of a request that is no upload. A list of a thousand files takes 300 kB."""

PREFIX = "/gradio_api"
UPLOAD = f"{PREFIX}/upload"
FILE = f"{PREFIX}/file="
QUEUE = f"{PREFIX}/queue/join"
CALL = f"{PREFIX}/call/"

READING = (
    r"/(config|theme\.css|robots\.txt|favicon\.ico|manifest\.json)?/?",
    r"/(assets|static|svelte)/.+",
    rf"{PREFIX}/(theme\.css|info|app_id|startup-events|upload_progress|queue/data)/?",
    rf"{PREFIX}/heartbeat/[^/]+",
    rf"{PREFIX}/call/[^/]+/[^/]+",
    rf"{re.escape(FILE)}.+",
)
WRITING = (rf"{re.escape(QUEUE)}", re.escape(UPLOAD), rf"{re.escape(CALL)}[^/]+/?", rf"{PREFIX}/(cancel|reset)/?")
ROUTES = {
    "GET": re.compile("|".join(READING)),
    "HEAD": re.compile("|".join(READING)),
    "POST": re.compile("|".join(WRITING)),
}
"""Allowed routes, by method. Gradio has more: a proxy, recordings, icons of any size."""

POLICY = {
    "default-src": "'self'",
    # Gradio's page starts with a script of its own, and makes functions of the scripts of events and HTML parts.
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
"""Content-Security-Policy: nothing is loaded from, or sent to, anywhere else."""


@dataclass(frozen=True)
class Rules:
    """Who may open the page, and where.

    Attributes:
        names: under which the operator publishes the page, in small letters; "*" is any.
        frames: other sites that may show it in a frame.
        proxied: whether X-Forwarded-For can be believed.
    """

    names: frozenset[str] = frozenset()
    frames: tuple[str, ...] = ()
    proxied: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The rules that the operator set; strict where nothing is said."""
        names = [name.strip().lower() for name in environment.get(HOSTS, "").split(",")]
        on_space = SPACE in environment
        if on_space:
            names.append(environment.get(SPACE_HOST, "").lower())
        proxied = on_space or environment.get(PROXIED, "") == "1"
        return cls(frozenset(filter(None, names)), SPACE_FRAMES if on_space else (), proxied)

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers of every answer."""
        frames = " ".join(("'self'", *self.frames))
        policy = "; ".join(f"{name} {value}" for name, value in (POLICY | {"frame-ancestors": frames}).items())
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        }
        return headers if self.frames else headers | {"X-Frame-Options": "SAMEORIGIN"}

    def allow(self, host: str | None) -> bool:
        """Whether the page may be opened under a host, as the header names it, with or without port."""
        name = _name(f"//{host}")
        here = socket.gethostname().lower()
        if "*" in self.names or name in {*self.names, "localhost", here, f"{here}.local"}:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def own(self, origin: str) -> bool:
        """Whether an origin is the page itself, seen from outside of a proxy that changes the host."""
        return _name(origin) in self.names

    def address(self, scope: Scope, headers: Headers) -> str:
        """The client's address."""
        if self.proxied and (hops := headers.get("x-forwarded-for")):
            return hops.rsplit(",", 1)[-1].strip()
        return (scope.get("client") or ("", 0))[0]


def _name(address: str) -> str:
    """The host in an address, in small letters, without its port; empty where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


class Refusal(HTTPException):
    """A request that does not get through."""


class Gate:
    """An ASGI application before another one.

    Args:
        app: what is let in to.
        page: whose events they are.
        state: where uploads are kept, and the line.
        rules: who may come.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, state: AppState, rules: Rules) -> None:
        self.app, self.page, self.state, self.rules = app, page, state, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with a refusal."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._protect(message)
            await send(message)

        try:
            await self._admit(scope, receive, answer)
        except HTTPException as refusal:
            if not started:
                response: Response = JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)
                if scope["path"] == UPLOAD:  # the page shows what it gets as it is
                    response = PlainTextResponse(refusal.detail, refusal.status_code, refusal.headers)
                await response(scope, receive, answer)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_place(scope, headers)
        path = scope["path"]
        if path == UPLOAD:
            await self._upload(scope, headers, receive, send)
        elif scope["method"] == "POST":
            body = await _body(headers, receive)
            if path == QUEUE or path.startswith(CALL):
                self._check_event(path, body)
            await self.app(scope, _again(body, receive), send)
        else:
            if path.startswith(FILE):
                self._check_file(path)
            await self.app(scope, receive, send)

    def _check_place(self, scope: Scope, headers: Headers) -> None:
        """Host, origin and route."""
        host, origin = headers.get("host"), headers.get("origin")
        if not self.rules.allow(host):
            raise Refusal(403, f"The page is not open under this name. The operator can add it to {HOSTS}.")
        foreign = headers.get("sec-fetch-site") == "cross-site" and scope["method"] == "POST"
        if origin is not None:
            foreign = urlsplit(origin).netloc != host and not self.rules.own(origin)
        if foreign:
            raise Refusal(403, "Another site must not use this page.")
        routes = ROUTES.get(scope["method"])
        if routes is None:
            raise Refusal(405, "This cannot be done here.")
        if not routes.fullmatch(scope["path"]):
            raise Refusal(404, "There is nothing here.")

    def _check_file(self, path: str) -> None:
        """Files come from the folder of this run alone."""
        file = path.removeprefix(FILE)
        if not file.startswith(f"{get_upload_folder()}{os.sep}") or ".." in re.split(r"[/\\]", file):
            raise Refusal(403, "This file cannot be fetched.")

    def _check_event(self, path: str, body: bytes) -> None:
        """An event of the page, or a call of an endpoint: it is one that there is, with its inputs and known files."""
        try:
            event = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "The request is not JSON.") from error
        if not isinstance(event, dict) or not isinstance(event.get("data"), list):
            raise Refusal(400, "The request has no data.")
        function = self._function(path, event)
        needed = {len(function.inputs)}
        if path != QUEUE:
            needed.add(sum(not getattr(block, "skip_api", False) for block in function.inputs))
        if len(event["data"]) not in needed:
            raise Refusal(400, f"The request has {len(event['data'])} inputs, but {max(needed)} are needed.")
        for file in _files(event["data"]):
            if not self.state.received.use(file):
                raise Refusal(400, strings.GONE)
        if function.api_visibility != "private" and function.concurrency_id == MODEL["concurrency_id"]:
            try:
                self.state.queue.check()
            except QueueFullError as error:
                raise Refusal(429, str(error), {"Retry-After": str(math.ceil(error.seconds))}) from error

    def _function(self, path: str, event: Mapping[str, Any]) -> Any:
        """The function of the page that is asked for."""
        functions = self.page.fns
        if path == QUEUE and event.get("fn_index") is not None:
            found = functions.get(event["fn_index"]) if isinstance(event["fn_index"], int) else None
        else:
            name = path.removeprefix(CALL).rstrip("/") if path != QUEUE else event.get("api_name")
            named = (fn for fn in functions.values() if fn.api_name == name and fn.api_visibility != "private")
            found = next(named, None) if isinstance(name, str) else None
        if found is None:
            raise Refusal(404, "There is no such function.")
        return found

    async def _upload(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Let files in as far as there is room; each gets a place that nobody can guess."""
        address, length = self.rules.address(scope, headers), headers.get("content-length", "0")
        try:
            with self.state.received.arriving(address, _number(length)) as room:
                paths = await self._take_in(scope, _bounded(receive, room))
            told = [str(self.state.received.add(path, address)) for path in paths]
        except StorageFullError as error:
            raise Refusal(413, str(error)) from error
        except OSError as error:
            raise Refusal(503, strings.NO_ROOM) from error
        await ORJSONResponse(told)(scope, receive, send)

    async def _take_in(self, scope: Scope, receive: Receive) -> list[str]:
        """Have Gradio write an upload to disk; returns the paths. Raises Refusal where it does not."""
        status, body = 500, bytearray()

        async def hold(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            body.extend(message.get("body", b""))

        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        try:
            await self.app(scope | {"headers": plain}, receive, hold)
        except (OSError, HTTPException):
            raise
        except Exception as error:  # Gradio's parser takes some names and parts for its own mistakes
            raise Refusal(400, strings.NO_UPLOAD) from error
        if status != 200:
            raise Refusal(status if status < 500 else 400, strings.TOO_LARGE if status == 413 else strings.NO_UPLOAD)
        return json.loads(body)

    def _protect(self, message: Message) -> None:
        """Add the security headers to an answer, and take out what would open it to other sites."""
        headers = MutableHeaders(scope=message)
        for name in [name for name in headers if name.startswith("access-control-")]:
            del headers[name]
        for name, value in self.rules.headers.items():
            headers[name] = value


class GuardedApp(App):
    """Gradio's application with the gate before everything else that it does."""

    def __init__(self, page: gr.Blocks, state: AppState, rules: Rules | None = None) -> None:
        """Make the application; `launch` takes it."""
        super().__init__(default_response_class=ORJSONResponse)
        self._gate = page, state, rules or Rules.of()

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette builds the rest; the gate is the outermost."""
        return Gate(super().build_middleware_stack(), *self._gate)


async def _body(headers: Headers, receive: Receive) -> bytes:
    """The whole body of a request, which must not be larger than LARGEST_BODY."""
    if _number(headers.get("content-length", "0")) > LARGEST_BODY:
        raise Refusal(413, strings.TOO_LARGE)
    receive = _bounded(receive, LARGEST_BODY)
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The request broke off.")
        body.extend(message.get("body", b""))
        more = message.get("more_body", False)
    return bytes(body)


def _number(length: str) -> int:
    """The length that a request says it has."""
    if not length.isdecimal() or len(length) > 18:
        raise Refusal(400, "The length of the request is not a number.")
    return int(length)


def _bounded(receive: Receive, most: int) -> Receive:
    """`receive` that ends with a refusal when more than `most` bytes come."""
    left = most

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise Refusal(413, strings.TOO_LARGE)
        return message

    return bounded


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application behind one that has read the body."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return parts.pop() if parts else await receive()

    return again


def _files(data: object) -> Iterator[dict]:
    """All that Gradio would take for a file, however deep."""
    places = [data]
    while places:
        place = places.pop()
        if isinstance(place, dict):
            if isinstance(place.get("path"), str):
                yield place
            places += place.values()
        elif isinstance(place, list):
            places += place
