"""The links of a built site, read from its HTML files without a server."""

from __future__ import annotations

from collections import deque
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []  # where a reader may go
        self.parts: list[str] = []  # what the page itself is made of
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") != "canonical" and "href" in given:
            self.parts.append(given["href"])
        elif tag in ("img", "script", "iframe", "video", "source") and given.get("src"):
            self.parts.append(given["src"])


def read(page: Path) -> _Links:
    found = _Links()
    found.feed(page.read_text(encoding="utf-8"))
    return found


class Site:
    """The pages below a folder and what they point to. ``made`` are pages that are whole programs (recordings), not read for links."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.pages = {
            path: read(path)
            for path in sorted(self.folder.rglob("*.html"))
            if path.name not in ("page.html", "recording.html", "404.html")
        }
        assert self.pages, f"{folder} holds no site"

    def target(self, page: Path, link: str) -> tuple[Path, str] | None:
        """The file and the anchor that a link means; None where it leads out of the site."""
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return None
        file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        return file / "index.html" if file.is_dir() else file, unquote(parts.fragment)

    def broken(self) -> list[str]:
        """Links and parts that lead to no file, or to no place in it."""
        wrong = []
        for page, found in self.pages.items():
            for link in (*found.links, *found.parts):
                if (to := self.target(page, link)) is None:
                    continue
                file, anchor = to
                if not file.exists() or (anchor and file in self.pages and anchor not in self.pages[file].anchors):
                    wrong.append(f"{page.relative_to(self.folder)} -> {link}")
        return wrong

    def foreign(self) -> list[str]:
        """What a page would have to fetch from elsewhere in order to be shown."""
        return [
            f"{page.relative_to(self.folder)} -> {part}"
            for page, found in self.pages.items()
            for part in found.parts
            if self.target(page, part) is None and not part.startswith("data:")
        ]

    def clicks(self) -> dict[str, int]:
        """Page -> the fewest clicks from the first page; pages that no click reaches are missing."""
        first = self.folder / "index.html"
        far = {first: 0}
        waiting = deque([first])
        while waiting:
            page = waiting.popleft()
            for link in self.pages[page].links:
                to = self.target(page, link)
                if to is not None and to[0] in self.pages and to[0] not in far:
                    far[to[0]] = far[page] + 1
                    waiting.append(to[0])
        return {str(page.relative_to(self.folder)): number for page, number in far.items()}
