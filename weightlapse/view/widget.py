"""The viewer in a notebook: the same page, asked and answered over the kernel's own channel."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from weightlapse.errors import WeightlapseError, missing_extra
from weightlapse.recording.run import Run
from weightlapse.view.answers import Answers
from weightlapse.view.still import WHILE_ALIVE, Still
from weightlapse.view.subject import open_subjects
from weightlapse.view.thumbnail import thumbnail
from weightlapse.view.wire import Cancelled

try:
    import anywidget
except ImportError as error:
    raise missing_extra(str(error.name), extra="view", purpose="the viewer in a notebook") from None

from importlib.resources import files


class Widget(anywidget.AnyWidget):  # type: ignore[misc]
    """The viewer of ``run`` (and ``others`` beside it) as a notebook widget: Jupyter, VS Code, Colab, marimo.

    Everything comes from this package and over the kernel's channel; no other address is asked for anything. Where a notebook is exported, or
    opened again without its kernel, a static thumbnail stands in its place (:mod:`weightlapse.view.still`).

    >>> Widget(run)      # doctest: +SKIP
    """

    _esm = files("weightlapse.view").joinpath("page/app.js").read_text("utf-8")
    _css = files("weightlapse.view").joinpath("page/app.css").read_text("utf-8") + WHILE_ALIVE

    def __init__(self, run: Run | str | os.PathLike[str], *others: Run | str | os.PathLike[str]) -> None:
        super().__init__()
        self._answers = Answers(open_subjects([run, *others]))
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="weightlapse-widget")
        self._cancels: dict[int, threading.Event] = {}
        self._still: Still | None = None
        self.on_msg(self._asked)

    def _asked(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        """A question of the page; answered from another thread, so that the kernel stays free."""
        number = content.get("id")
        if not isinstance(number, int):
            return
        if content.get("cancel"):
            cancel = self._cancels.get(number)
            if cancel is not None:
                cancel.set()
            return
        cancel = self._cancels[number] = threading.Event()
        self._pool.submit(self._answer, number, str(content.get("word", "")), dict(content.get("query") or {}), cancel)

    def _answer(self, number: int, word: str, query: dict[str, str], cancel: threading.Event) -> None:
        try:
            _, body = self._answers.reply(word, query, cancel)
            self.send({"id": number}, [body])
            if self._still is not None and word == "live":
                self._still.follow(self._answers.subjects[0])
        except Cancelled:
            pass  # nobody waits for it any more
        except WeightlapseError as error:
            self.send({"id": number, "error": str(error)})
        except Exception as error:  # noqa: BLE001  the page must hear of it, or it would wait for ever
            self.send({"id": number, "error": f"{type(error).__name__}: {error}"})
        finally:
            self._cancels.pop(number, None)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget; the thumbnail beside it, or as an output of its own where the notebook keeps outputs."""
        bundle = super()._repr_mimebundle_(**options)
        data, about = bundle if isinstance(bundle, tuple) else (bundle, {})
        if self._still is None:
            self._still = Still.shown(self._answers.subjects[0])
        if self._still is not None:
            return data, about
        return {**(data or {}), "text/html": thumbnail(self._answers.subjects[0])}, about
