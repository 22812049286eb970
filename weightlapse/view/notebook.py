"""A recording as the last value of a notebook cell shows itself: the widget, and the thumbnail for where no widget can be."""

from __future__ import annotations

import sys
from typing import Any

from weightlapse.recording.run import Run


def register() -> bool:
    """Tell a running IPython how to show recordings; True when there is one. Called again it changes nothing.

    A recording itself knows nothing of viewers, so the notebook is told about recordings and not the other way round. The viewer is
    loaded when the first recording is shown. Without the extra ``view`` a recording keeps its own plain table.
    """
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    if shell is None:
        return False
    formatter = shell.display_formatter.mimebundle_formatter
    formatter.for_type_by_name("weightlapse.recording.recording", "Recording", mimebundle)
    return True


def mimebundle(run: Run, include: Any = None, exclude: Any = None) -> Any:
    """What a notebook shows for ``run``, as IPython asks for it: (data by media type, metadata); None leaves it to others."""
    try:
        from weightlapse.view.widget import Widget
    except ImportError:
        return None
    if not len(run.steps):
        return None
    widget = Widget(run)
    return widget._repr_mimebundle_(include=include, exclude=exclude)
