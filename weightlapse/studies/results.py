"""What every study hands back: one JSON object with the same keys, checked before it is written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.errors import InvalidArgument
from weightlapse.studies.referee import Ruling, Sentence, complaints

HOLDS = ("yes", "no", "partly", "vacuous")


@dataclass
class Results:
    """Collects one study's numbers. ``question`` and ``recipe`` (three lines for the reader's own network) go into the report."""

    study: str
    title: str
    question: str
    quick: bool
    out: Path
    seeds: int = 0
    verdict: str = ""
    recipe: str = ""
    claims: list[dict[str, str]] = field(default_factory=list)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=lambda: {"figures": {}})
    captions: dict[str, str] = field(default_factory=dict)
    shows: dict[str, str] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def value(self, name: str, samples: Any, unit: str, meaning: str, document: float | None = None) -> None:
        """A number measured once per seed; a run that diverged (NaN, Inf) stays in ``samples`` as null."""
        numbers = [float(s) for s in np.asarray(samples, dtype=np.float64).reshape(-1)]
        finite = [s for s in numbers if math.isfinite(s)]
        if not numbers:
            raise InvalidArgument(f"study {self.study}: value {name!r} has no samples")
        self.values[name] = {
            "document": document,
            "median": float(np.median(finite)) if finite else None,
            "min": min(finite) if finite else None,
            "max": max(finite) if finite else None,
            "seeds": len(numbers),
            "samples": [s if math.isfinite(s) else None for s in numbers],
            "unit": unit,
        }
        self.meanings[name] = meaning

    def claim(self, text: str, *why: Sentence, yes: str = "yes", no: str = "no", undecided: str = "partly") -> None:
        """One claim of the document. Whether it holds is the ruling on the first sentence: ``yes``, ``no`` or ``undecided`` then stands in the table."""
        outcomes = {"True": yes, "False": no, "None": undecided}
        unknown = set(outcomes.values()) - set(HOLDS)
        if unknown:
            raise InvalidArgument(f"study {self.study}: a claim holds {', '.join(HOLDS)}, not {unknown.pop()!r}")
        place = f"claim {len(self.claims)}"
        rulings, text_of_why = self._say(place, why)
        self.facts.setdefault("holds", {})[place] = outcomes
        self.claims.append({"claim": text, "holds": outcomes[str(rulings[0].holds)], "why": text_of_why})

    def conclude(self, *sentences: Sentence) -> None:
        """The verdict."""
        _, self.verdict = self._say("verdict", sentences)

    def _say(self, place: str, sentences: Sequence[Sentence]) -> tuple[list[Ruling], str]:
        if not sentences:
            raise InvalidArgument(f"study {self.study}: {place} says nothing")
        judged = [(s, *s.judge(self.values, self.facts)) for s in sentences]
        self.facts.setdefault("sentences", []).extend(s.to_json(place, r, t) for s, r, t in judged)
        return [r for _, r, _ in judged], " ".join(t for _, _, t in judged)

    def curve(self, name: str, steps: Any, runs: Any) -> None:
        """Median, minimum and maximum over runs: ``runs`` is (runs, points), ``steps`` (points,)."""
        rows = np.atleast_2d(np.asarray(runs, dtype=np.float64))
        if rows.shape[1] != len(steps):
            raise InvalidArgument(
                f"study {self.study}: curve {name!r} has {rows.shape[1]} points but {len(steps)} steps"
            )
        parts = {"median": np.median(rows, axis=0), "min": rows.min(axis=0), "max": rows.max(axis=0)}
        self.curves[name] = {"steps": [float(s) for s in steps]} | {
            k: [_finite(x) for x in v] for k, v in parts.items()
        }

    def figure(self, role: str, figure: Any, caption: str, *sentences: Sentence) -> None:
        """Save a Matplotlib figure as ``role.png`` and close it. ``caption`` says what is drawn; what it shows is said in ``sentences``."""
        name = f"{role}.png"
        figure.set_dpi(60 if self.quick else 130)
        box = figure.get_tightbbox().padded(0.1)  # as bbox_inches="tight", which draws the figure once more for it
        figure.savefig(self.out / name, bbox_inches=box)
        import matplotlib.pyplot as plt

        plt.close(figure)
        self.files["figures"][role] = name
        self.captions[role] = caption
        if sentences:
            self.shows[role] = self._say(f"caption {role} shows", sentences)[1]

    def to_json(self) -> dict[str, Any]:
        """The normative object; raises InvalidArgument when a part is missing, a file is not there, or a sentence has no value behind it."""
        missing = [k for k in ("recording", "film", "report") if k not in self.files]
        if missing or not self.claims or not self.verdict or not self.seeds:
            raise InvalidArgument(f"study {self.study} is incomplete: {missing or 'no claims, verdict or seeds'}")
        names = [self.files["recording"], self.files["film"], self.files["report"], *self.files["figures"].values()]
        for name in names:
            path = self.out / name
            if not path.exists() or (path.is_file() and path.stat().st_size == 0):
                raise InvalidArgument(f"study {self.study} did not leave {name}")
        content = {
            "study": self.study,
            "schema": 1,
            "quick": self.quick,
            "seeds": self.seeds,
            "seconds": round(time.perf_counter() - self.started, 2),
            "verdict": self.verdict,
            "claims": self.claims,
            "values": self.values,
            "facts": self.facts,
            "curves": self.curves,
            "files": self.files,
        }
        unbacked = complaints(content, self.captions | {f"{k} shows": v for k, v in self.shows.items()})
        if unbacked:
            raise InvalidArgument(f"study {self.study} says more than it measured: " + "; ".join(unbacked))
        return content

    def write(self) -> dict[str, Any]:
        """Write ``results.json`` and return its content."""
        content = self.to_json()
        text = json.dumps(content, allow_nan=False, indent=1)
        (self.out / "results.json").write_text(text, encoding="utf-8")
        return content


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def share_within(samples: Sequence[float] | Any, low: float, high: float) -> float:
    """Share of the samples inside [low, high]; a diverged run is outside."""
    x = np.asarray(samples, dtype=np.float64)
    return float(np.mean((x >= low) & (x <= high)))
