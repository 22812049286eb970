"""The viewer's server: an ASGI application that serves its own page and the recordings named, to this machine alone.

A web page anywhere can send requests to 127.0.0.1. So a request must name this server in ``Host`` (a foreign name that resolves
to 127.0.0.1 does not get in), must not come from another origin, and no answer ever allows another origin to read it.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from weightlapse.errors import WeightlapseError
from weightlapse.view.answers import Answers
from weightlapse.view.assets import asset
from weightlapse.view.wire import Cancelled

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# the whole of what is served besides data; no path from a request ever reaches the file system
ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/app.css": ("app.css", "text/css; charset=utf-8"),
}
LONG = ("findings", "pair")  # read whole recordings, and never look whether somebody still waits
COOKIE = "weightlapse-token"


def make_app(answers: Answers, *, hosts: set[str], token: str | None = None) -> App:
    """The application. ``hosts``: names accepted in ``Host`` (without port); ``token``: asked for when the network can reach us."""
    pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="weightlapse-view")

    async def answer(request: Request) -> Response:
        cancel = threading.Event()
        query = dict(request.query_params)
        word, loop = request.path_params["word"], asyncio.get_running_loop()
        if word in LONG:
            work = asyncio.wrap_future(_alone(lambda: answers.reply(word, query, cancel)))
        else:
            work = loop.run_in_executor(pool, answers.reply, word, query, cancel)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear of it
        gone = asyncio.ensure_future(_gone(request))
        both: set[asyncio.Future[Any]] = {work, gone}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                cancel.set()  # the page closed the connection, or the server ends: stop at the next frame
            gone.cancel()
        try:
            media, body = await work
        except Cancelled:
            return Response(status_code=499)
        except WeightlapseError as error:
            return PlainTextResponse(str(error), status_code=400)
        except Exception as error:  # noqa: BLE001  one question fails; the page says so, and the viewer stays
            return PlainTextResponse(f"This cannot be shown ({type(error).__name__}: {error}).", status_code=500)
        return Response(body, media_type=media)

    def page(request: Request) -> Response:
        name, media = ASSETS[request.url.path]
        return Response(asset(name), media_type=media)

    routes = [Route(path, page, methods=["GET"]) for path in ASSETS]
    routes.append(Route("/api/{word}", answer, methods=["GET"]))
    return _Guard(Starlette(routes=routes), hosts, token)


def _alone(work: Callable[[], Any]) -> Future[Any]:
    """``work`` in a thread that the program's end does not wait for."""
    future: Future[Any] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            done = work()
        except BaseException as error:  # noqa: BLE001  told to whoever waits
            future.set_exception(error)
        else:
            future.set_result(done)

    threading.Thread(target=run, name="weightlapse-view-long", daemon=True).start()
    return future


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Guard:
    """Refuses whatever does not come from a page of this very server, and puts the security headers on every answer."""

    def __init__(self, app: App, hosts: set[str], token: str | None) -> None:
        self.app, self.hosts, self.token = app, {h.lower() for h in hosts}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event["headers"], *((k.lower().encode(), v.encode()) for k, v in HEADERS.items())]
            await send(event)

        refusal = self._refusal(Request(scope))
        await (refusal or self.app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        served = request.scope.get("server") or ("", None)
        # behind a wildcard address the machine's own addresses are good names: a number cannot be made to point elsewhere
        own = self.hosts | ({str(served[0])} if self.token is not None else set())
        if not _names(host, own, served[1]):
            return PlainTextResponse("This server answers to its own name only.", status_code=403)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{host}":
            return PlainTextResponse("Requests from other origins are refused.", status_code=403)
        # a link from elsewhere may open the page itself (it then navigates), but nothing may be embedded or fetched
        navigates = request.url.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not navigates:
            return PlainTextResponse("Requests from other sites are refused.", status_code=403)
        if ".." in request.scope.get("path", "") or "\\" in request.scope.get("path", ""):
            return PlainTextResponse("Not found.", status_code=404)
        if self.token is not None:
            given = request.query_params.get("token")
            if (
                given is not None
                and request.url.path == "/"
                and hmac.compare_digest(given.encode(), self.token.encode())
            ):
                answer = RedirectResponse("/", status_code=303)
                answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
                return answer
            if not hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self.token.encode()):
                return PlainTextResponse(
                    "Open the address with its token, as printed by `weightlapse view`.", status_code=403
                )
        return None


def _names(host: str, names: set[str], port: int | None) -> bool:
    """Whether the ``Host`` header is one of ``names`` with our port."""
    name, given = host.lower(), ""
    if name.startswith("["):
        name, _, rest = name.partition("]")
        name, given = name + "]", rest.removeprefix(":")
    elif ":" in name:
        name, _, given = name.rpartition(":")
    return name in names and (port is None or given == str(port) or (given == "" and port == 80))
