"""The referee: every sentence of a study that claims something is a template with a test, and can be judged again from the numbers alone.

A sentence has three forms: what is said when its test holds, when it is refuted, and when these seeds do not decide. Numbers enter a form by name.
One statistic serves every comparison: the exact interval of a median, the dual of the sign test (Conover, Practical Nonparametric Statistics).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from weightlapse.errors import InvalidArgument

LEVEL = 0.95
Values = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Ruling:
    """What a test says: ``holds`` is None when the numbers do not decide. ``numbers`` may be named in the sentence."""

    holds: bool | None
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Sentence:
    """A sentence with the test that could refute it: ``test`` of the values or facts named in ``of``, with its ``bounds``."""

    test: str
    of: tuple[str, ...]
    yes: str
    no: str
    open: str = "{n} seeds do not decide it: {interval}"
    bounds: dict[str, Any] = field(default_factory=dict)

    def judge(self, values: Values, facts: Mapping[str, Any]) -> tuple[Ruling, str]:
        """The ruling and the sentence that follows from it. Raises InvalidArgument where a name has no value behind it."""
        if self.test not in TESTS:
            raise InvalidArgument(f"sentence {self.yes!r}: there is no test {self.test!r}, but {', '.join(TESTS)}")
        ruling = TESTS[self.test](values, facts, *self.of, **self.bounds)
        form = {True: self.yes, False: self.no, None: self.open}[ruling.holds]
        return ruling, _Words(values, facts, ruling.numbers).format(form)

    def to_json(self, place: str, ruling: Ruling, text: str) -> dict[str, Any]:
        """The sentence with its ruling: ``place`` is where in the study it stands, ``text`` the form that is said, numbers filled in."""
        return {"place": place, "holds": ruling.holds, "text": text} | asdict(self)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics that holds the median of their source with 95 % confidence; infinite with fewer than six samples.

    >>> median_interval([1, 2, 3, 4, 5, 6])
    (1.0, 6.0)
    >>> median_interval([1, 2])
    (-inf, inf)
    """
    x = np.sort(np.asarray(samples, dtype=np.float64))
    n, tail, k = len(x), 0.0, 0
    while k < n // 2 and tail + math.comb(n, k) / 2**n <= (1 - LEVEL) / 2:
        tail += math.comb(n, k) / 2**n
        k += 1
    return (float(x[k - 1]), float(x[n - k])) if k else (-math.inf, math.inf)


def _samples(values: Values, name: str) -> list[float]:
    if name not in values:
        raise InvalidArgument(f"a sentence speaks of {name!r}, which this study did not measure")
    return [math.nan if s is None else float(s) for s in values[name]["samples"]]


def _pairs(values: Values, a: str, b: str) -> list[tuple[float, float]]:
    x, y = _samples(values, a), _samples(values, b)
    if len(x) != len(y):
        raise InvalidArgument(f"{a!r} ({len(x)} seeds) and {b!r} ({len(y)}) cannot be compared seed by seed")
    return [(p, q) for p, q in zip(x, y) if math.isfinite(p) and math.isfinite(q)]


def _side(low: float, high: float, below: float, above: float) -> bool | None:
    """Whether an interval lies inside [below, above] (True), outside (False), or neither."""
    if below <= low and high <= above:
        return True
    return False if high < below or low > above else None


def within(values: Values, _facts: Any, name: str, low: float = -math.inf, high: float = math.inf) -> Ruling:
    """The median of a value lies in [low, high]."""
    finite = [s for s in _samples(values, name) if math.isfinite(s)]
    a, b = median_interval(finite)
    return Ruling(_side(a, b, low, high), {"n": len(finite), "interval": (a, b)})


def less(values: Values, _facts: Any, a: str, b: str, factor: float = 1.0) -> Ruling:
    """In the same seed, ``a`` is less than ``factor`` times ``b``: the median of the paired ratios (both positive)."""
    pairs = _pairs(values, a, b)
    if any(p < 0 or q <= 0 for p, q in pairs):
        raise InvalidArgument(f"{a!r} and {b!r} are compared by their ratio, but are not positive")
    ratios = [p / q for p, q in pairs]
    low, high = median_interval(ratios)
    holds = True if high < factor else False if low > factor else None
    middle = float(np.median(ratios)) if ratios else math.nan
    turned = (1 / high if high else math.inf, 1 / low if low > 0 else math.inf)
    return Ruling(
        holds,
        {"n": len(pairs), "k": sum(r < factor for r in ratios), "ratio": middle, "interval": (low, high)}
        | {"times": 1 / middle if middle else math.inf, "times_interval": turned},
    )


def every(values: Values, _facts: Any, name: str, low: float = -math.inf, high: float = math.inf) -> Ruling:
    """Every seed lies in [low, high]; one that does not refutes it. A seed that diverged is outside."""
    x = _samples(values, name)
    k = sum(low <= s <= high for s in x)
    return Ruling(bool(x) and k == len(x), {"n": len(x), "k": k, "others": len(x) - k})


def equal(values: Values, _facts: Any, a: str, b: str, tolerance: float = 0.0) -> Ruling:
    """In every seed, ``a`` and ``b`` are at most ``tolerance`` apart."""
    pairs = _pairs(values, a, b)
    apart = [abs(p - q) for p, q in pairs]
    k = sum(d <= tolerance for d in apart)
    return Ruling(bool(pairs) and k == len(pairs), {"n": len(pairs), "k": k, "apart": max(apart, default=math.nan)})


def only(
    values: Values,
    _facts: Any,
    *names: str,
    who: Sequence[str],
    low: float = -math.inf,
    high: float = math.inf,
    labels: Any = (),
) -> Ruling:
    """The medians of ``who`` lie in [low, high] and those of every other name, the controls, do not. Without controls nothing is decided.

    ``labels``: name -> what it is called in the sentence."""
    sides = {n: within(values, None, n, low, high).holds for n in names}
    controls = [n for n in names if n not in who]
    also = [n for n in controls if sides[n]]
    missing = [n for n in who if sides[n] is False]
    if also or missing:
        holds: bool | None = False
    else:
        holds = True if controls and all(sides[n] is not None for n in names) else None
    n = min((len(_samples(values, name)) for name in names), default=0)
    found = [name for name in names if sides[name]]
    return Ruling(
        holds,
        {
            "n": n,
            "controls": len(controls),
            "found": len(found),
            "names": ", ".join(dict(labels).get(name, name) for name in found) or "none",
            "interval": sides,
        },
    )


def correlated(values: Values, _facts: Any, a: str, b: str, low: float = 0.0, high: float = 1.0) -> Ruling:
    """The rank correlation of two values over the seeds lies in [low, high], by Fisher's interval."""
    pairs = np.asarray(_pairs(values, a, b))
    if len(pairs) < 6:
        return Ruling(None, {"n": len(pairs), "r": math.nan, "interval": (-1.0, 1.0)})
    ranks = pairs.argsort(axis=0).argsort(axis=0)
    r = float(np.asarray(np.corrcoef(ranks.T))[0, 1])
    z, wide = math.atanh(max(-0.999999, min(0.999999, r))), 1.96 / math.sqrt(len(pairs) - 3)
    interval = (math.tanh(z - wide), math.tanh(z + wide))
    return Ruling(_side(*interval, low, high), {"n": len(pairs), "r": r, "interval": interval})


def fact(
    _values: Values, facts: Mapping[str, Any], name: str, low: Any = None, high: Any = None, **more: Any
) -> Ruling:
    """A thing that was counted or tried once: it lies in [low, high] (a number), or is true. A bound may name another fact."""
    got = _fact(facts, name)
    low, high = (_fact(facts, b) if isinstance(b, str) else b for b in (low, high))
    holds = bool(got) if low is None and high is None else (low is None or got >= low) and (high is None or got <= high)
    return Ruling(bool(holds), {"value": got} | more)


TESTS: dict[str, Callable[..., Ruling]] = {t.__name__: t for t in (within, less, every, equal, only, correlated, fact)}

# What a word asserts, and the tests that can refute it.
COMPARED = ("within", "less", "every", "equal", "only", "correlated", "fact")
WORDS = {
    r"\bonly\b": ("only",),
    r"\bevery one\b|\bin all\b|\bnever\b|\balways\b": ("every", "equal", "only", "fact"),
    r"\bbecause\b|\bcauses?d?\b": ("less", "only", "correlated"),
    r"\b(better|worse|larger|smaller|more|fewer|faster|slower|higher|lower|further|times)\b": COMPARED,
}
FREE_NUMBER = re.compile(r"(?<![\w.\-^])\d+(?:[.,]\d+)*(?:e[+-]?\d+)?(?![\w\-]|\.\d)")


def assertions(text: str) -> list[str]:
    """The words of a text that claim a comparison, a cause or an exclusion."""
    return [m[0] for pattern in WORDS for m in re.finditer(pattern, text)]


def complaints(results: Mapping[str, Any], captions: Mapping[str, str] | None = None) -> list[str]:
    """Everything said in a study's ``results.json`` (and in the ``captions`` of its figures) that its numbers do not carry; empty when all is backed.

    The verdict and every "why" must be made of sentences in ``facts.sentences``; each of them is judged again from the samples, must read the
    same, may hold no number that was typed instead of measured, and its test must be able to refute the words that it uses.
    """
    bad: list[str] = []
    values, facts = results["values"], results["facts"]
    said: dict[str, list[str]] = {}
    held: dict[str, list[bool | None]] = {}
    for entry in facts.get("sentences", []):
        sentence = Sentence(**{k: entry[k] for k in ("test", "yes", "no", "open", "bounds")}, of=tuple(entry["of"]))
        said.setdefault(entry["place"], []).append(entry["text"])
        held.setdefault(entry["place"], []).append(entry["holds"])
        try:
            ruling, text = sentence.judge(values, facts)
        except (InvalidArgument, KeyError, TypeError) as error:
            bad.append(f"{entry['place']}: no value behind {entry['text']!r} ({error})")
            continue
        if (text, ruling.holds) != (entry["text"], entry["holds"]):
            bad.append(f"{entry['place']} says {entry['text']!r}, its numbers say {text!r}")
        for form in (sentence.yes, sentence.no, sentence.open):
            typed = FREE_NUMBER.findall(_literal(form))
            if typed:
                bad.append(f"{entry['place']}: {', '.join(typed)} in {form!r} was typed, not measured")
        form = {True: sentence.yes, False: sentence.no, None: sentence.open}[ruling.holds]
        for pattern, tests in WORDS.items():
            word = re.search(pattern, _literal(form))
            if word and sentence.test not in tests:
                bad.append(f"{entry['place']}: {word[0]!r} needs one of {', '.join(tests)}, not {sentence.test!r}")
    places = {"verdict": results["verdict"]} | {f"claim {i}": c["why"] for i, c in enumerate(results["claims"])}
    places |= {f"caption {k}": v for k, v in (captions or {}).items() if f"caption {k}" in said or assertions(v)}
    for place, text in places.items():
        if not said.get(place) or " ".join(said[place]) != text:
            bad.append(f"{place}: no test behind {text!r}")
    for i, claim in enumerate(results["claims"]):
        allowed = facts.get("holds", {}).get(f"claim {i}")
        first = held.get(f"claim {i}", [None])[0]
        if allowed and claim["holds"] != allowed[str(first)]:
            bad.append(f"claim {i} is said to hold: {claim['holds']}; its test says {allowed[str(first)]}")
    return bad


def _literal(form: str) -> str:
    return "".join(text for text, *_ in string.Formatter().parse(form))


def _fact(facts: Mapping[str, Any], name: str) -> Any:
    got: Any = facts
    for part in name.split("."):
        if not isinstance(got, Mapping) or part not in got:
            raise InvalidArgument(f"a sentence speaks of {name!r}, which this study did not count")
        got = got[part]
    return got


class _Words(string.Formatter):
    """Fills a form: a value by name is its median and range, ``NAME.median`` (min, max, seeds, document) one number, anything else a fact or a
    number of the test. ``:%`` writes shares as percentages."""

    def __init__(self, values: Values, facts: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        self.values, self.facts, self.numbers = values, facts, numbers

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        name, _, part = field_name.partition(".")
        if field_name in self.numbers:
            return self.numbers[field_name], field_name
        if name in self.values:
            value = self.values[name]
            return ((value[part] if part else _Spread(value["median"], value["min"], value["max"])), field_name)
        return _fact(self.facts, field_name), field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, _Spread):
            parts = [write(v, format_spec) for v in (value.median, value.low, value.high)]
            return f"{parts[0]} [{parts[1]}, {parts[2]}]" if parts[1] != parts[2] else parts[0]
        if isinstance(value, tuple):
            return f"[{', '.join(write(v, format_spec) for v in value)}]"
        return str(value) if isinstance(value, str) else write(value, format_spec)


@dataclass(frozen=True)
class _Spread:
    median: Any
    low: Any
    high: Any


def write(x: Any, spec: str = "") -> str:
    """A number as people write it, three significant digits or as ``spec`` says ("%": per cent)."""
    if x is None:
        return "no number"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, int) and not spec:
        return str(x)
    if not math.isfinite(x):
        return "anything" if math.isinf(x) else "no number"
    if spec == "%":
        return f"{x:.0%}"
    if spec:
        return format(x, spec)
    if x == 0 or 1e-4 <= abs(x) < 1e5:
        return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"
    mantissa, exponent = f"{x:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
