"""Which step the name of a checkpoint tells, and whether the name says that it was not finished."""

from __future__ import annotations

import re
from fractions import Fraction

from weightlapse.adapters.checkpoint_files import READERS
from weightlapse.errors import InvalidArgument

_NUMBER = r"(\d[0-9A-Za-z]*(?:\.\d[0-9A-Za-z]*)*(?:_\d{3})*(?![0-9]))"
_STEP = re.compile(r"(?:step|iter|checkpoint|ckpt|batch|update|rev)[a-z]*[-_= ]?" + _NUMBER, re.IGNORECASE)
_OTHER = re.compile(r"(?:epoch|token)[a-z]*[-_= ]?" + _NUMBER, re.IGNORECASE)  # where nothing says a step
_LOOSE = re.compile(r"\d[0-9A-Za-z]*(?:\.\d[0-9A-Za-z]*)*")
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)(?:[eE](\d{1,2}))?([kKMBT]?)")
_TIMES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_DATE = re.compile(r"(?<!\d)(?:19|20)\d\d([-_.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])(?!\d)")
_HASH = re.compile(r"(?=.*[a-f])(?=.*\d)[0-9a-f]{7,64}")
_HALF = (
    r"(?:te?mp|part|partial|incomplete|unfinished|inprogress|in[-_]progress|writing|download|downloading|crdownload)"
)
_UNFINISHED = re.compile(rf"^(?:[._]|{_HALF}[-_.])|[-_.~]{_HALF}[-_.]?\d*$|~$", re.IGNORECASE)
_ENDINGS = (*READERS, ".tmp", ".temp", ".part", ".partial", ".incomplete")
_MOST = 1 << 62  # steps are kept as 64-bit integers
_WHAT_TO_DO = "Name the checkpoints one by one and give their steps with --steps (steps=[...]), or rename them"


class Unclear(InvalidArgument):
    """A name with a number that is no step, or from which it cannot be told. ``sure``: a word for a step stands before it."""

    def __init__(self, name: str, number: str, why: str, *, sure: bool) -> None:
        self.sure = sure
        self.why = f"{number} {why}"
        super().__init__(f"the step of {name} cannot be told from its name: {self.why}. {_WHAT_TO_DO}")


def unfinished(name: str) -> bool:
    """Whether a name says that what it names was not written to its end.

    >>> [unfinished(n) for n in ("tmp-checkpoint-1500", "step500.tmp", "checkpoint-500-tmp", ".step5", "_tmp", "model-7.pt.incomplete")]
    [True, True, True, True, True, True]
    >>> [unfinished(n) for n in ("checkpoint-500", "step1-template", "party-3", "attempt-2")]
    [False, False, False, False]
    """
    return bool(_UNFINISHED.search(name)) or any(bool(_UNFINISHED.search(name.removesuffix(s))) for s in READERS)


def step_in(name: str) -> int | None:
    """The step that the name of a checkpoint tells: the number behind a word for it, else its last number; None where it holds none.

    Raises :class:`Unclear` for a number that is none: 1.5, a date, one that a 64-bit integer cannot hold.

    >>> step_in("step1000"), step_in("checkpoint-500"), step_in("global_step40"), step_in("epoch=3-step=1200.ckpt"), step_in("iter_0000100"), step_in("main")
    (1000, 500, 40, 1200, 100, None)
    >>> step_in("step1000-tokens4B"), step_in("model-00007.safetensors"), step_in("rev2k"), step_in("step1.5B"), step_in("iter_1e3")
    (1000, 7, 2000, 1500000000, 1000)
    """
    whole = name
    while ending := next((s for s in _ENDINGS if name.endswith(s)), ""):
        name = name.removesuffix(ending)
    for pattern in (_STEP, _OTHER):
        if found := pattern.findall(name):
            return _read(whole, found[-1], sure=True)
    if date := _DATE.search(name):
        raise Unclear(whole, date[0], "is a date", sure=False)
    if _HASH.fullmatch(name):
        return None
    if not (loose := _LOOSE.findall(name)):
        return None
    if not loose[-1].isdigit():
        raise Unclear(whole, loose[-1], "is no whole number, and no word says what it is", sure=False)
    return _read(whole, loose[-1], sure=False)


def tells_step(name: str) -> bool:
    """Whether a word for a step stands in this name, with a number behind it.

    >>> tells_step("checkpoint-500"), tells_step("runs-2"), tells_step("logs")
    (True, False, False)
    """
    return bool(_STEP.search(name))


def _read(name: str, text: str, *, sure: bool) -> int:
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise Unclear(name, text, "can be read in more than one way", sure=sure)
    number = Fraction(written[1]) * 10 ** int(written[2] or 0) * _TIMES[written[3]]
    if number.denominator != 1:
        raise Unclear(name, text, "is no whole number", sure=sure)
    if number >= _MOST:
        raise Unclear(name, text, "is larger than any number of steps (they are kept as 64-bit integers)", sure=sure)
    return int(number)
