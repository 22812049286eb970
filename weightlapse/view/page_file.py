"""`weightlapse page` and `wl.make_page`: a recording as one self-contained file that opens without a server."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.view.extras as extras
from weightlapse.errors import InvalidArgument
from weightlapse.film.encode import whole_file
from weightlapse.picture.words import ordinal
from weightlapse.progress import track
from weightlapse.recording.run import Run
from weightlapse.view.aligned import pair
from weightlapse.view.assets import asset
from weightlapse.view.manifest import manifest
from weightlapse.view.overview import overview
from weightlapse.view.pack import Detail, Some, blocks, estimate, strides, thinned
from weightlapse.view.subject import Subject, open_subjects
from weightlapse.view.trends import sampled

ALL = 1 << 62
# from the best to the smallest: (bits, every so many-th cell, the fewest frames for which it is worth it). Exact before sixteen bits before
# eight; time is thinned before space
RUNGS = [(0, 1, ALL), (16, 1, 200), (8, 1, 60), *((8, 1 << k, 60) for k in range(1, 8)), (8, 128, 2)]
TRIES = 4


def make_page(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    max_bytes: int = 20_000_000,
    other: Run | str | os.PathLike[str] | None = None,
) -> Path:
    """Write ``run`` (and ``other`` beside it) as one HTML file of at most ``max_bytes`` bytes that works from disk and by mail.

    Where the whole recording does not fit, frames are thinned evenly, then values quantised to 16 or 8 bits, then cells thinned; the
    page says so, and gives the error of every value it shows. Without loss when it fits.

    Args:
        run, other: recordings, or paths to them.
        out: the file to write; an existing file is replaced.
        max_bytes: the file's largest size in bytes.

    Returns:
        The path written. Raises InvalidArgument when not even a few frames fit.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> with wl.watch({"w": np.eye(4)}, tempfile.mkdtemp()) as rec:
    ...     rec.step({"w": np.eye(4) + 1})
    >>> wl.make_page(rec.path, tempfile.mkdtemp() + "/run.html", max_bytes=5_000_000).name
    'run.html'
    """
    subjects = open_subjects([run] if other is None else [run, other])
    for subject in subjects:
        if subject.frames == 0:
            raise InvalidArgument(f"{subject.name} holds no frames, so there is nothing to put into a page")
    target = Path(out)
    if target.is_dir():
        raise InvalidArgument(f"{target} is a folder; give the name of the HTML file to write")
    examined = track(subjects[:1], f"examining {subjects[0].name}")
    reports: dict[str, Any] = {"findings": [extras.findings(s) for s in examined], "pair": None}
    reports["overview"] = overview(subjects[0], 0, lambda: False, math.inf)["tensors"]
    if len(subjects) > 1:
        reports["pair"], aligned = pair(subjects)
        subjects += [aligned] if aligned is not None else []
    known = [Known(s) for s in subjects]
    bare = Bare(known, reports)
    size = 0
    for bits, stride, fewest in _steps_down(subjects):
        frames = _affordable(known, bare, bits, stride, max_bytes, fewest)
        for _ in range(TRIES):
            if frames < min(fewest, max(s.frames for s in subjects)):
                break
            page = _html(_data(known, Detail(bits, frames, stride), reports, with_blocks=True))
            size = len(page)
            if size <= max_bytes:
                with whole_file(target) as file:
                    file.write(page)
                return target
            around = bare.size(Detail(bits, frames, stride))
            frames = min(int(frames * 0.97 * max(0, max_bytes - around) / (size - around)), frames - 1)
    told = f"; the smallest page takes {size:,} bytes" if size else ""
    raise InvalidArgument(
        f"max_bytes={max_bytes:,} is too small for even a few thinned frames of {subjects[0].name}{told}"
    )


class Known:
    """What is asked of a recording again and again while the detail that fits is sought, and read once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.manifest = manifest(subject)
        self.some = Some(subject)
        self._stats: dict[str, tuple[NDArray[np.int64], dict[str, Any]]] = {}

    def about(self) -> dict[str, Any]:
        """The manifest, to be changed."""
        return {
            **self.manifest,
            **{key: [dict(entry) for entry in self.manifest[key]] for key in ("tensors", "epochs")},
        }

    def stats(self, name: str) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """The frames at which a tensor was looked at, and what was found."""
        if name not in self._stats:
            self._stats[name] = sampled(self.subject, name)
        return self._stats[name]


class Bare:
    """How large a page is without the values of its tensors: the same for any number of bits, but for a word."""

    def __init__(self, known: list[Known], reports: dict[str, Any]) -> None:
        self._known, self._reports = known, reports
        self._sizes: dict[tuple[int, int], int] = {}

    def size(self, detail: Detail) -> int:
        """In bytes."""
        what = (min(detail.frames, max(k.subject.frames for k in self._known)), detail.stride)
        if what not in self._sizes:
            self._sizes[what] = len(_html(_data(self._known, detail, self._reports, with_blocks=False)))
        return self._sizes[what]


def _steps_down(subjects: list[Subject]) -> list[tuple[int, int, int]]:
    """The rungs that differ: where no tensor is large enough for a stride, it leaves out nothing that a smaller one has not."""
    found: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    for bits, stride, fewest in RUNGS:
        large = {
            (piece.shape, steps)
            for s in subjects
            for name in s.names()
            for piece in s.pieces(name)
            if max(steps := strides(piece.shape, stride), default=1) > 1
        }
        found.setdefault((bits, frozenset(large), fewest), (bits, stride if large else 1, fewest))
    return [*found.values()]


def _affordable(known: list[Known], bare: Bare, bits: int, stride: int, max_bytes: int, fewest: int) -> int:
    """About how many frames fit at this many bits and this stride; all of them where all fit, and any number below ``fewest`` where those do not."""
    most = max(k.subject.frames for k in known)
    frames = most
    for _ in range(TRIES):  # frames farther apart differ more and take more room, so the first guess is too bold
        detail = Detail(bits, frames, stride)
        room = max_bytes - bare.size(detail)
        needed = sum(estimate(k.some, detail) for k in known)
        if needed <= 0.97 * room:
            return frames
        frames = int(frames * max(0.0, 0.95 * room / needed))
        if frames < min(fewest, most):
            return frames
    return frames


def _data(known: list[Known], detail: Detail, reports: dict[str, Any], *, with_blocks: bool) -> dict[str, Any]:
    subjects = [k.subject for k in known]
    runs = [_run(k, detail, with_blocks=with_blocks) for k in known]
    note = _note(subjects, detail, runs)
    if reports["pair"] is not None:  # its curves count the recording's frames, the page counts those it keeps
        kept = detail.keep(subjects[0].frames)
        frames = [min(int(np.searchsorted(kept, f)), len(kept) - 1) for f in reports["pair"]["frames"]]
        reports = reports | {"pair": reports["pair"] | {"frames": frames, "run": None}}
    reports = reports | {"overview": _kept(reports["overview"], detail.keep(subjects[0].frames))}
    data = {
        "version": 1,
        "source": "file",
        "runs": [r["manifest"] for r in runs],
        "tensors": [r["tensors"] for r in runs],
    } | reports
    return data | ({"note": note} if note else {})


def _kept(survey: dict[str, Any], kept: NDArray[np.int64]) -> dict[str, Any]:
    """The survey of all tensors with its moments counted among the kept frames, in as many digits as a map can show."""
    short = {}
    for name, found in survey.items():
        frames = np.minimum(np.searchsorted(kept, found["frames"]), len(kept) - 1)
        one_each = np.unique(frames, return_index=True)[1].tolist()
        numbers_ = {k: [_digits(found[k][i]) for i in one_each] for k in ("norm", "moved", "step")}
        bad = None if found["bad"] is None else int(min(np.searchsorted(kept, found["bad"]), len(kept) - 1))
        short[name] = {"frames": frames[one_each].tolist(), **numbers_, "bad": bad, "exact": found["exact"]}
    return short


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _run(known: Known, detail: Detail, *, with_blocks: bool) -> dict[str, Any]:
    """The manifest of a run reduced to the kept frames and cells, and its blocks by tensor."""
    subject = known.subject
    kept = detail.keep(subject.frames)
    about = known.about()
    del about["path"]  # where it lay is nobody's business who gets the page
    about["steps"] = [about["steps"][f] for f in kept]
    about["scalars"] = {k: [v[f] for f in kept] for k, v in about["scalars"].items()}
    about |= {"frames": len(kept), "closed": True, "kept": None if len(kept) == subject.frames else subject.frames}
    for epoch in about["epochs"]:
        epoch["start"], epoch["stop"] = (int(np.searchsorted(kept, epoch[k])) for k in ("start", "stop"))
    tensors: dict[str, Any] = {}
    entries = track(about["tensors"], f"packing {subject.name}") if with_blocks else about["tensors"]
    for entry in entries:
        name = entry["name"]
        entry["pieces"] = []
        parts = []
        for piece in subject.pieces(name):
            first, stop = (int(np.searchsorted(kept, at)) for at in (piece.start, piece.stop))
            if first == stop:
                continue
            steps = strides(piece.shape, detail.stride)
            shape = thinned(piece.shape, steps)
            laid_out = subject.arrangement(name, piece, shape).to_json()
            described = {"start": first, "stop": stop, "shape": list(shape), "layout": laid_out}
            if max(steps, default=1) > 1:
                described |= {"every": list(steps), "whole": list(piece.shape)}
            entry["pieces"].append(described)
            if with_blocks:
                parts += [b.to_json() for b in blocks(subject, name, piece, kept[first:stop], first, detail)]
        at, stats = known.stats(name)
        frames = np.minimum(np.searchsorted(kept, at), len(kept) - 1).tolist()
        tensors[name] = {"blocks": parts, "stats": stats | {"frames": frames}}
    return {"manifest": about, "tensors": tensors}


def _note(subjects: list[Subject], detail: Detail, runs: list[dict[str, Any]]) -> str:
    """What the page leaves out, in words; empty when it leaves out nothing."""
    said = []
    for subject, run in zip(subjects, runs, strict=True):
        held = run["manifest"]["frames"]
        if held < subject.frames:
            said.append(f"{held} of {subject.frames} frames of {subject.name}, evenly spaced")
    if any("every" in p for r in runs for t in r["manifest"]["tensors"] for p in t["pieces"]):
        said.append(f"every {ordinal(detail.stride)} row and column of large tensors")
    if detail.bits:
        said.append(f"values in {detail.bits} bits: the ± beside each value is its largest error")
    return f"To stay small this page holds {'; '.join(said)}." if said else ""


def _html(data: dict[str, Any]) -> bytes:
    """The built page with script, style and data inside, and a policy that allows exactly these."""
    script, style = asset("app.js").replace("</script", "<\\/script"), asset("app.css")
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    allowed = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, style)]
    policy = (
        f"default-src 'none'; script-src 'sha256-{allowed[0]}'; style-src 'sha256-{allowed[1]}'; img-src data: blob:; media-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = asset("index.html")
    page = page.replace(
        '<meta charset="utf-8">',
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
    )
    page = page.replace('<link rel="stylesheet" href="app.css">', f"<style>{style}</style>")
    inside = f'<script type="application/json" id="weightlapse-data">{text}</script>\n<script type="module">{script}</script>'
    return page.replace('<script type="module" src="app.js"></script>', inside).encode()
