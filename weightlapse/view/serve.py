"""`weightlapse view` and `wl.show`: the viewer on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from weightlapse.errors import InvalidArgument, missing_extra
from weightlapse.recording.run import Run
from weightlapse.view.answers import Answers
from weightlapse.view.notebook import in_notebook
from weightlapse.view.subject import open_subjects

if TYPE_CHECKING:
    import uvicorn

    from weightlapse.view.widget import Widget

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


def show(
    run: Run | str | os.PathLike[str],
    *others: Run | str | os.PathLike[str],
    port: int = 0,
    open_browser: bool = True,
    block: bool | None = None,
) -> Viewer | Widget | None:
    """Explore a recording in the browser, or several side by side.

    Args:
        run, others: recordings, or paths to them; a second one is shown beside the first.
        port: 0 takes a free one. The server listens on 127.0.0.1 only.
        open_browser: open the page at once.
        block: serve until interrupted (the default in a script), or return a ``Viewer`` at once (the default in a console).

    Returns:
        In a notebook the widget that shows itself; in a console a ``Viewer`` with ``.url`` and ``.close()``; in a script None.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> with wl.watch({"w": np.eye(4)}, tempfile.mkdtemp()) as rec:
    ...     rec.step({"w": np.eye(4) + 1})
    >>> viewer = wl.show(rec.path, block=False, open_browser=False)
    >>> viewer.url.startswith("http://127.0.0.1:")
    True
    >>> viewer.close()
    """
    if block is None and in_notebook():
        from weightlapse.view.widget import Widget

        return Widget(run, *others)
    viewer = Viewer([run, *others], port=port)
    if block is None:
        block = not (hasattr(sys, "ps1") or sys.flags.interactive)
    if not block:
        viewer.start()
    if open_browser:
        import webbrowser

        webbrowser.open(viewer.url)
    if not block:
        return viewer
    viewer.serve(announce=print)
    return None


class Viewer:
    """A viewer of ``runs`` that listens from the start, and serves with ``serve()`` (here) or ``start()`` (in the background).

    ``host`` other than a loopback address opens the recordings to the network; then ``token`` is set and every visitor needs it.
    """

    def __init__(self, runs: Sequence[Any], *, port: int = 0, host: str = "127.0.0.1") -> None:
        try:
            import uvicorn

            from weightlapse.view.app import make_app
        except ImportError as error:
            raise missing_extra(str(error.name), extra="view", purpose="the viewer") from None
        if not 0 <= port <= 65535:
            raise InvalidArgument(f"port={port}: a port is a number from 0 to 65535; 0 takes a free one")
        self.subjects = open_subjects(runs)
        self.token = None if is_loopback(host) else secrets.token_urlsafe(16)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        # elsewhere REUSEADDR takes an address that is free again; on Windows it takes one that another program listens on
        alone = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        self._socket.setsockopt(socket.SOL_SOCKET, alone, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise InvalidArgument(
                f"cannot listen on {host} port {port}: {error.strerror or error}; --port 0 takes a free one"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")
        hosts = LOOPBACK | {name} | ({socket.gethostname()} if self.token else set())
        self._answers = Answers(self.subjects)
        app = make_app(self._answers, hosts=hosts, token=self.token)
        config = uvicorn.Config(
            app,
            log_level="critical",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
            access_log=False,
        )
        self._server = _quiet_server(config)
        self._thread: threading.Thread | None = None

    def serve(self, announce: Callable[[str], object] | None = None) -> None:
        """Serve in this thread until SIGINT or SIGTERM; ``announce`` gets the address once the server listens."""
        server = self._server

        def stop(*_: object) -> None:
            server.should_exit = True

        def listening() -> None:
            if announce is not None:
                announce(self.url)
                sys.stdout.flush()
            threading.Thread(
                target=self._answers.warm, name="weightlapse-view-warm", daemon=True
            ).start()  # while the browser loads the page

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        server.listening = listening
        try:
            asyncio.run(server.serve(sockets=[self._socket]))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._socket.close()

    def start(self) -> None:
        """Serve in a background thread; returns once it listens."""
        ready = threading.Event()
        self._server.listening = ready.set
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])), name="weightlapse-view", daemon=True
        )
        self._thread.start()
        ready.wait(10)

    def close(self) -> None:
        """Stop serving, and give the port back."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(5)
        self._socket.close()

    def __enter__(self) -> Viewer:
        if self._thread is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Viewer({self.url})"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _quiet_server(config: uvicorn.Config) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves signals to us: uvicorn's own handling would raise them again, and the program end with their code."""

        listening: Callable[[], object] = staticmethod(lambda: None)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            self.listening()

    return Server(config)
