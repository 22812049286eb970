"""What `wl.diff` found as one HTML file that opens from disk, in the colours of the viewer: the answer, the table, a picture of each difference."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.differences.result import Diff, TensorDiff, percent
from weightlapse.errors import InvalidArgument, missing_extra
from weightlapse.film.colours import encode, table
from weightlapse.film.differences import limit_of
from weightlapse.film.encode import whole_file
from weightlapse.picture.numbers import short
from weightlapse.view.assets import asset

PICTURES = 400  # tensors that get a picture; the table lists all
_SPARE = "Only the first {} of {} pictures are here; the table lists every tensor that differs."


def make_diff_page(found: Any, out: str | os.PathLike[str]) -> Path:
    """Write what `wl.diff` found to ``out``, an existing file is replaced. Returns the path.

    >>> make_diff_page(wl.diff("before", "after"), "diff.html")                    # doctest: +SKIP
    """
    if not isinstance(found, Diff):
        raise InvalidArgument(
            f"a page of differences is made of what wl.diff(a, b) returns, not of {type(found).__name__}"
        )
    target = Path(out)
    if target.is_dir():
        raise InvalidArgument(f"{target} is a folder; give the name of the HTML file to write")
    with whole_file(target) as file:
        file.write(_html(found).encode())
    return target


def _html(found: Diff) -> str:
    e = html.escape
    style = asset("app.css") + resources.files("weightlapse.view").joinpath("diff.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; base-uri 'none'; form-action 'none'"
    differing = sorted(found.differing, key=lambda t: -t.relative if np.isfinite(t.relative) else 0.0)
    numbered = {t.name: i for i, t in enumerate(differing)}
    rows = "".join(_row(t, numbered) for t in differing)
    drawn = [t for t in differing if t.picture is not None]
    cards = "".join(_card(t, numbered) for t in drawn[:PICTURES])
    units = "".join(f"<tr><td>{e(u.group)}</td><td>{e(u.text)}</td></tr>" for u in found.units.values() if u.changed)
    answer = found.summary[:1].upper() + found.summary[1:]
    alike = len(found.tensors) - len(differing)
    parts = [f"<h1>{e(answer)}.</h1>", f'<p class="sides">A: {e(found.a)}<br>B: {e(found.b)}</p>']
    if rows:
        head = '<tr><th>tensor</th><th>what</th><th class="n">‖B − A‖ / ‖A‖</th><th class="n">values changed</th><th class="n">rank</th></tr>'
        parts += ["<h2>What differs</h2>", f'<div class="scroll"><table>{head}{rows}</table></div>']
        parts += [f'<p class="soft">{alike} of {len(found.tensors)} tensors are identical.</p>']
    if units:
        parts += [
            "<h2>Unit by unit</h2>",
            f'<div class="scroll"><table><tr><th>layer</th><th>what</th></tr>{units}</table></div>',
        ]
    if cards:
        parts += ["<h2>Each difference, B − A</h2>", f'<div class="cards">{cards}</div>']
    if len(drawn) > PICTURES:
        parts += [f'<p class="soft">{_SPARE.format(PICTURES, len(drawn))}</p>']
    brand = '<div class="brand"><span class="mark"></span><span class="word">weightlapse</span><span class="run">diff</span></div>'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>weightlapse diff</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<div class="wl diff"><main>{brand}{"".join(parts)}</main></div>
</body>
</html>
"""


def _row(t: TensorDiff, numbered: dict[str, int]) -> str:
    e = html.escape
    name = f'<a href="#t{numbered[t.name]}">{e(t.name)}</a>' if t.picture is not None else e(t.name)
    cells = (percent(t.relative), percent(t.changed_share), "–" if t.rank is None else str(t.rank))
    size = "×".join(map(str, t.shape)) or "scalar"
    numbers = "".join(f'<td class="n">{e(cell)}</td>' for cell in cells)
    return f'<tr><td>{name}<br><span class="soft">{size} {e(t.dtype)}</span></td><td>{e(t.text)}</td>{numbers}</tr>'


def _card(t: TensorDiff, numbered: dict[str, int]) -> str:
    e = html.escape
    assert t.picture is not None
    limit = limit_of(t.picture)
    strip = ' class="strip"' if t.picture.shape[0] == 1 else ""
    image = f'<img{strip} alt="B − A of {e(t.name, quote=True)}" src="{_png(t.picture, limit)}">'
    ends = f'<div class="ends"><span>−{short(limit, 2)}</span><span>0</span><span>{short(limit, 2)}</span></div>'
    size = "×".join(map(str, t.shape)) or "scalar"
    caption = f'<figcaption><b>{e(t.name)}</b><span class="soft">{size}</span> {e(t.text)}</figcaption>'
    return f'<figure id="t{numbered[t.name]}">{caption}{image}{ends}{_energy(t)}</figure>'


def _energy(t: TensorDiff) -> str:
    """The shares of the first directions as bars."""
    shares = t.energy[:24]
    if not shares:
        return ""
    bars = "".join(
        f'<rect x="{12 * i}" y="{40 * (1 - s):.2f}" width="9" height="{40 * s:.2f}"><title>direction {i + 1}: {percent(s)}</title></rect>'
        for i, s in enumerate(min(float(s), 1.0) for s in shares)
    )
    return (
        f'<svg class="energy" viewBox="0 0 288 40" preserveAspectRatio="none" role="img" aria-label="energy of the first directions">{bars}</svg>'
        f'<div class="ends"><span>energy of its first {len(shares)} directions</span></div>'
    )


def _png(picture: Any, limit: float) -> str:
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("pillow", extra="view", purpose="drawing differences") from None
    out = io.BytesIO()
    Image.fromarray(table("light")[encode(picture, limit)]).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
