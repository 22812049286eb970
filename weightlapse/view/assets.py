"""The built page: what is served, and what a page in a file holds."""

from __future__ import annotations

from importlib.resources import files


def asset(name: str) -> str:
    """A file of the built page, as text."""
    return (files("weightlapse.view") / "page" / name).read_text("utf-8")
