"""A study as a page that a stranger understands: one self-contained HTML file, and the same in Markdown."""

from __future__ import annotations

import base64
import html
import math
from pathlib import Path
from typing import Any

from weightlapse.studies.results import Results

LARGEST_FILM = 6_000_000  # bytes of film that the page still carries inside itself

STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def write_report(results: Results) -> None:
    """Write ``report.html`` and ``report.md`` beside the figures and enter them into the results."""
    (results.out / "report.html").write_text(_html(results), encoding="utf-8")
    (results.out / "report.md").write_text(_markdown(results), encoding="utf-8")
    results.files["report"] = "report.html"


def number(x: Any) -> str:
    """A number as people write it: four significant digits, powers of ten only where they help."""
    if x is None:
        return "–"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, int):
        return str(x)
    if x == 0 or not math.isfinite(x):
        return f"{x:g}"
    if 1e-3 <= abs(x) < 1e5:
        return f"{x:.4g}"
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _rows(results: Results) -> list[tuple[str, str, str, str, str, str, str]]:
    return [
        (
            name,
            results.meanings[name],
            number(v["document"]),
            number(v["median"]),
            f"{number(v['min'])} to {number(v['max'])}",
            str(v["seeds"]),
            v["unit"],
        )
        for name, v in results.values.items()
    ]


def _caption(results: Results, role: str) -> str:
    """What the figure draws, and what it shows."""
    return f"{results.captions[role]} {results.shows.get(role, '')}".strip()


def _embedded(results: Results, name: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((results.out / name).read_bytes()).decode()}"


def _html(results: Results) -> str:
    e = html.escape
    claims = "".join(
        f"<tr><td>{e(c['claim'])}</td><td class='holds {c['holds']}'>{e(c['holds'])}</td><td>{e(c['why'])}</td></tr>"
        for c in results.claims
    )
    figures = "".join(
        f"<figure><img alt='{e(results.captions[role], quote=True)}' src='{_embedded(results, name, 'image/png')}'>"
        f"<figcaption>{e(_caption(results, role))}</figcaption></figure>"
        for role, name in results.files["figures"].items()
    )
    film = results.files["film"]
    if (results.out / film).stat().st_size <= LARGEST_FILM:
        moving = f"<video controls loop muted src='{_embedded(results, film, 'video/mp4')}'></video>"
    else:
        moving = f"<p>The film is in the file <a href='{e(film)}'>{e(film)}</a> beside this page.</p>"
    table = "".join(
        f"<tr><td><code>{e(n)}</code><br>{e(meaning)}</td><td class='n'>{d}</td><td class='n'>{m}</td><td class='n'>{r}</td>"
        f"<td class='n'>{s}</td><td>{e(u)}</td></tr>"
        for n, meaning, d, m, r, s, u in _rows(results)
    )
    size = "quick run" if results.quick else "full run"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{e(results.title)}</title><style>{STYLE}</style></head><body><main>
<div class="label">weightlapse study · {e(results.study)} · {size}, {results.seeds} seeds</div>
<h1>{e(results.title)}</h1>
<p class="question">{e(results.question)}</p>
<div class="verdict"><div class="label">What is true</div>{e(results.verdict)}</div>
<h2>What the document said, and whether it holds</h2>
<div class="scroll"><table><tr><th>Claim</th><th>Holds</th><th>Why</th></tr>{claims}</table></div>
<h2>Pictures</h2>{figures}
<h2>Film</h2>{moving}
<h2>Numbers</h2>
<p>The document's number beside ours: the median and the range over independent seeds. Square brackets in the text above are ranges over seeds, or the 95 % interval of a
median where two things are compared; each sentence, its test and its numbers are in <code>results.json</code> under <code>facts.sentences</code>.</p>
<div class="scroll"><table>
<tr><th>What</th><th class="n">Document</th><th class="n">Median</th><th class="n">Range</th><th class="n">Seeds</th><th>Unit</th></tr>
{table}</table></div>
<h2>For your own network</h2><pre><code>{e(results.recipe)}</code></pre>
</main></body></html>
"""


def _markdown(results: Results) -> str:
    lines = [
        f"# {results.title}",
        "",
        results.question,
        "",
        f"**{results.verdict}**",
        "",
        "| claim | holds | why |",
        "|---|---|---|",
    ]
    bar = chr(92) + "|"
    lines += [f"| {c['claim']} | {c['holds']} | {c['why'].replace('|', bar)} |" for c in results.claims]
    for role, name in results.files["figures"].items():
        lines += ["", f"![{results.captions[role]}]({name})", "", _caption(results, role)]
    lines += ["", f"The film: [{results.files['film']}]({results.files['film']})", ""]
    lines += ["| what | document | median | range | seeds | unit |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{n}`: {meaning.replace('|', bar)} | {d} | {m} | {r} | {s} | {u} |"
        for n, meaning, d, m, r, s, u in _rows(results)
    ]
    lines += ["", "For your own network:", "", "```python no-run", results.recipe, "```", ""]
    return "\n".join(lines)
