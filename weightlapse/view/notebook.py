"""A recording as the last value of a notebook cell shows itself: the widget, and the thumbnail for where no widget can be."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from weightlapse.recording.run import Run

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording


def in_marimo() -> bool:
    """Whether this is a notebook of marimo, which has a kernel of its own and no IPython."""
    running = getattr(sys.modules.get("marimo"), "running_in_notebook", None)
    return running is not None and bool(running())


def in_notebook() -> bool:
    """Whether a value of a cell is shown by a front end, rather than printed in a console."""
    return getattr(_shell(), "kernel", None) is not None or in_marimo()


def _shell() -> Any:
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def register() -> bool:
    """Tell a running IPython, or marimo, how to show recordings; True when there is one. Called again it changes nothing.

    A recording itself knows nothing of viewers, so the notebook is told about recordings and not the other way round. The viewer is
    loaded when the first recording is shown. Without the extra ``view`` a recording keeps its own plain table.
    """
    if in_marimo():
        from weightlapse.recording.recording import Recording

        Recording._display_ = displayed  # type: ignore[attr-defined]  # marimo's protocol of what a value is shown as
        return True
    shell = _shell()
    if shell is None:
        return False
    formatter = shell.display_formatter.mimebundle_formatter
    formatter.for_type_by_name("weightlapse.recording.recording", "Recording", mimebundle)
    return True


def displayed(run: Recording) -> Any:
    """What marimo shows in the place of ``run``: the widget, or the recording's own table where there is none."""
    widget = _widget(run)
    if widget is not None:
        return widget
    import marimo

    return marimo.Html(run._repr_html_())


def _widget(run: Run) -> Any:
    try:
        from weightlapse.view.widget import Widget
    except ImportError:
        return None
    return Widget(run) if len(run.steps) else None


def mimebundle(run: Run, include: Any = None, exclude: Any = None) -> Any:
    """What a notebook shows for ``run``, as IPython asks for it: (data by media type, metadata); None leaves it to others."""
    widget = _widget(run)
    return None if widget is None else widget._repr_mimebundle_(include=include, exclude=exclude)
