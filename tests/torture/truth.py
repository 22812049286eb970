"""Small recordings of many kinds, what is true of each, and the oracle: every value that is read is the true one, or an error of ours is raised."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import weightlapse.store.writer as writing
from tests.golden import make_v1
from tests.packed_frames import packed_frames
from tests.test_store_blocks import moving_rows
from weightlapse.errors import WeightlapseError
from weightlapse.recording.recording import Recording, load
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.ranks import open_store
from weightlapse.store.writer import Writer

SMALL = Layout(
    [
        TensorSpec("w", "float32", (6, 5)),
        TensorSpec("b", "float64", (3,)),
        TensorSpec("h", "bfloat16", (7,)),
        TensorSpec("n", "int64", ()),
    ]
)
GROWN = Layout([TensorSpec("w", "float32", (9, 5)), TensorSpec("b", "float64", (3,)), TensorSpec("new", "int8", (5,))])
LARGE = Layout([TensorSpec("w", "float32", (180, 200)), TensorSpec("b", "float64", (3,))])  # frames with pages


class Wrong(AssertionError):
    """A value came back that is not the true one, or something that was true is gone."""


@dataclass
class Line:
    """Frames in their order: ``values[k]`` are the stored patterns of every tensor at ``steps[k]``."""

    steps: list[int] = field(default_factory=list)
    values: list[dict[str, np.ndarray]] = field(default_factory=list)
    scalars: dict[int, float] = field(default_factory=dict)  # of "loss", by step

    def cut(self, step: int) -> Line:
        count = sum(s <= step for s in self.steps)
        return Line(self.steps[:count], self.values[:count], {s: v for s, v in self.scalars.items() if s <= step})

    def after(self, step: int) -> Line:
        count = sum(s <= step for s in self.steps)
        return Line(self.steps[count:], self.values[count:], {s: v for s, v in self.scalars.items() if s > step})


@dataclass
class Truth:
    main: Line
    branches: dict[str, Line] = field(default_factory=dict)
    tolerance: float | None = None
    closed: bool = True
    sealed: bool = True  # False: version 1, whose records do not know their place


def _values(layout: Layout, rows: np.ndarray) -> list[dict[str, np.ndarray]]:
    views = {spec.name: layout.view(rows, i) for i, spec in enumerate(layout.tensors)}
    return [{name: np.array(view[k]) for name, view in views.items()} for k in range(len(rows))]


class Making:
    """Writes a recording and keeps the truth about it."""

    def __init__(
        self,
        path: Path,
        seed: int,
        layout: Layout = SMALL,
        *,
        tolerance: float | None = None,
        segment: int = 24,
        meta: Any = None,
        packed: bool = False,
    ) -> None:
        self.path, self.seed, self.layout, self.segment, self.packed = path, seed, layout, segment, packed
        self.truth = Truth(Line(), tolerance=tolerance)
        self.step = 0
        self.writer = Writer.create(
            path, layout, tolerance=tolerance, compact="never", fsync="never", meta=meta, packed=packed
        )

    def frames(self, count: int, *, log: bool = True) -> Making:
        rows = moving_rows(self.layout, count, hash((self.seed, self.step)) % 2**31)
        steps = self.step + 2 * np.arange(count)
        before, real = self.writer.frames, writing.segment_frames
        writing.segment_frames = lambda row, tolerance: self.segment
        frames: Any = rows
        if self.packed:
            frames, rows = packed_frames(self.layout, rows, self.truth.tolerance, every=self.segment, renewed=7)
        try:
            self.writer.append(steps, frames)
        finally:
            writing.segment_frames = real
        line = self.truth.main
        line.steps += steps.tolist()
        line.values += _values(self.layout, rows)
        if log:
            numbers = np.random.default_rng(self.seed + self.step).random(count)
            self.writer.scalars(np.arange(before, before + count), ["loss"] * count, numbers)
            line.scalars |= dict(zip(steps.tolist(), numbers.tolist()))
        self.step = int(steps[-1]) + 2
        return self

    def relayout(self, layout: Layout) -> Making:
        self.writer.relayout(layout, "grew")
        self.layout = layout
        return self

    def close(self, *, in_order: bool = True) -> Making:
        self.writer.event(self.step, "an event")
        self.writer.close(in_order=in_order)
        self.truth.closed = in_order
        return self

    def resume(self, *, rewind_to: int | None = None, compact: str = "never") -> Making:
        self.writer = Writer.resume(self.path, self.layout, rewind_to=rewind_to, compact=compact, fsync="never")  # type: ignore[arg-type]
        if rewind_to is not None:
            whole = self.truth.main
            self.truth.main = whole.cut(rewind_to)
            name = next(
                n
                for n in (f"after-{rewind_to}", *(f"after-{rewind_to}-{k}" for k in range(2, 99)))
                if n not in self.truth.branches
            )
            self.truth.branches[name] = whole.after(rewind_to)
        return self

    def compact(self) -> Making:
        return self.resume(compact="after").close()


def _log(path: Path, seed: int) -> Truth:
    return Making(path, seed).frames(40).close().truth


def _mixed(path: Path, seed: int) -> Truth:
    return Making(path, seed).frames(44).close().compact().resume().frames(16).close().truth


def _film(path: Path, seed: int) -> Truth:
    return Making(path, seed, tolerance=1e-2).frames(40).close().compact().resume().frames(12).close().truth


def _layouts(path: Path, seed: int) -> Truth:
    made = Making(path, seed).frames(14).relayout(GROWN).frames(14).close().compact()
    return made.resume().frames(6).relayout(SMALL).frames(10).close().truth


def _killed(path: Path, seed: int) -> Truth:
    return Making(path, seed, segment=9).frames(40).close(in_order=False).truth


def _branches(path: Path, seed: int) -> Truth:
    made = Making(path, seed, segment=10).frames(24).close()
    made = made.resume(rewind_to=20).frames(14).close().compact()
    return made.resume(rewind_to=30).frames(8).close().truth


def _pages(path: Path, seed: int) -> Truth:
    return Making(path, seed, LARGE, segment=4).frames(5).close().truth


def _packed(path: Path, seed: int) -> Truth:
    made = Making(path, seed, packed=True, segment=10).frames(24).close().compact()
    return made.resume().frames(26).close().truth


def _packed_film(path: Path, seed: int) -> Truth:
    made = Making(path, seed, tolerance=1e-2, packed=True, segment=12).frames(24).close().compact()
    return made.resume().frames(20).close(in_order=False).truth


def _packed_branches(path: Path, seed: int) -> Truth:
    made = Making(path, seed, packed=True, segment=10).frames(24).close()
    made = made.resume(rewind_to=20).frames(14)
    made.packed = False
    return made.frames(9).close().truth


def _overwritten(path: Path, seed: int) -> Truth:
    """With what an interrupted overwrite would leave: the files of the recording before."""
    Making(path, seed + 1000).frames(30).close().compact()
    aside = path.with_name(path.name + "-aside")
    shutil.copytree(path, aside)
    made = Making.__new__(Making)
    made.path, made.seed, made.layout, made.segment, made.step, made.packed = path, seed, SMALL, 24, 0, False
    made.truth = Truth(Line())
    made.writer = Writer.create(path, SMALL, overwrite=True, compact="never", fsync="never")
    made.frames(30).close()
    for file in aside.rglob("*"):
        target = path / file.relative_to(aside)
        if file.is_file() and not target.exists():
            shutil.copy2(file, target)
    shutil.rmtree(aside)
    return made.truth


def _ranks(path: Path, seed: int) -> Truth:
    """Two processes, each with half of ``w``."""
    half = Layout([TensorSpec("w", "float32", (3, 5))])
    both: list[Line] = []
    for rank in (0, 1):
        facts = {"rank": rank, "world_size": 2, "shards": {"w": {"shape": [6, 5], "offset": [3 * rank, 0]}}}
        where = path if rank == 0 else path / "ranks" / f"{rank:04d}"
        made = Making(where, seed + rank, half, meta={"distributed": facts}).frames(30, log=rank == 0).close()
        if rank == 0:
            made.compact()
        both.append(made.truth.main)
    values = [{"w": np.concatenate([a["w"], b["w"]])} for a, b in zip(both[0].values, both[1].values)]
    return Truth(Line(both[0].steps, values, both[0].scalars))


def _golden(name: str) -> Callable[[Path, int], Truth]:
    def make(path: Path, seed: int) -> Truth:
        shutil.copytree(make_v1.FOLDER / name, path)
        columns = make_v1.expected()
        values = [{n: np.array(c[k]) for n, c in columns.items()} for k in range(make_v1.FRAMES)]
        line = Line([2 * k for k in range(make_v1.FRAMES)], values, {2 * k: 1 / (k + 1) for k in range(make_v1.FRAMES)})
        return Truth(line, tolerance=1e-2 if name == "film" else None, sealed=False)

    return make


KINDS: dict[str, Callable[[Path, int], Truth]] = {
    "log": _log, "mixed": _mixed, "film": _film, "layouts": _layouts, "killed": _killed, "branches": _branches, "pages": _pages,
    "packed": _packed, "packed film": _packed_film, "packed branches": _packed_branches, "overwritten": _overwritten, "ranks": _ranks, "v1 log": _golden("log"), "v1 exact": _golden("exact"), "v1 film": _golden("film"),
}  # fmt: skip


# ---- the oracle ----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What could be read: ``good`` by (line, step, tensor); ``lost`` values that are true and could not be; whether verify found nothing."""

    good: set[tuple[str, int, str]] = field(default_factory=set)
    lost: int = 0
    lost_main: int = 0
    only_the_end: bool = True  # what is lost of the main line are its last frames
    lost_scalars: int = 0
    clean: bool = False
    closed: bool = False
    opened: bool = False


BFLOAT16 = {"h", "brain"}  # the tensors that are stored as patterns


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    if name in BFLOAT16:
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif values.dtype.kind == "c":
        values = np.ascontiguousarray(values)[..., None].view(values.real.dtype)
    return values.astype(np.float64)


def same(truth: Truth, name: str, stored: np.ndarray, true: np.ndarray, line: Line | None = None) -> bool:
    if stored.dtype != true.dtype or stored.shape != true.shape:
        return False
    if stored.tobytes() == true.tobytes():
        return True
    if truth.tolerance is None or not (name in BFLOAT16 or true.dtype.kind in "fc"):
        return False
    # no standard deviation is more than half of the range
    with np.errstate(all="ignore"):
        every = np.concatenate([_numbers(v[name], name).ravel() for v in (line or truth.main).values if name in v])
        every = every[np.isfinite(every)]
        a, b = _numbers(stored, name), _numbers(true, name)
        finite = np.isfinite(b)
        near = np.abs(a - b)[finite] <= truth.tolerance * (every.max() - every.min()) / 2
    return bool(near.all()) and bool(np.array_equal(a[~finite], b[~finite], equal_nan=True))


def look(path: Path, truth: Truth, *, extra: Line | None = None) -> Seen:
    """Read everything through the public face. Raises :class:`Wrong` for what is not true; errors that are not ours come out as they are.

    ``extra``: frames that were added behind the known ones.
    """
    seen = Seen()
    lines = {"": truth.main, **truth.branches}
    total = sum(len(v) for line in lines.values() for v in line.values)
    try:
        run = load(path)
    except WeightlapseError:
        seen.lost = total
        return seen
    seen.opened = True
    _smoke(run)
    runs = {"": run}
    with contextlib.suppress(WeightlapseError):
        runs |= {name: branch for name, branch in run.branches.items() if name in truth.branches}
    try:
        damages = open_store(path).verify()
    except WeightlapseError:
        damages = None
    if any("a rewind of which no frame is left" in str(damage) for damage in damages or ()):
        lines[""] = _before_the_last_rewind(truth, run) or truth.main
    for name, line in lines.items():
        if name in runs:
            known = (
                line
                if extra is None or name
                else Line(line.steps + extra.steps, line.values + extra.values, line.scalars | extra.scalars)
            )
            _look_at_line(runs[name], name, known, truth, seen)
        else:
            seen.lost += sum(len(v) for v in line.values)
    seen.clean = damages == []
    seen.closed = run.closed
    return seen


def _before_the_last_rewind(truth: Truth, run: Recording) -> Line | None:
    """The main line as it was before the last rewind, where nothing that was recorded after it is left."""
    if not truth.branches:
        return None
    name, branch = list(truth.branches.items())[-1]
    kept = int(name.removeprefix("after-").partition(".")[0])
    if any(step > kept and step in truth.main.steps for step in run.steps.tolist()):
        return None
    stays = truth.main.cut(kept)
    return Line(stays.steps + branch.steps, stays.values + branch.values, stays.scalars | branch.scalars)


def _smoke(run: Recording) -> None:
    """What else the public face tells must not end in somebody else's error."""
    for look_at in (repr, lambda r: r._repr_html_(), lambda r: (r.names, r.shapes, r.dtypes, r.streams, r.aliases), lambda r: r.events,
                    lambda r: r.gaps, lambda r: r.wiring, lambda r: r.nbytes, lambda r: r.stored_nbytes, lambda r: r.layouts, lambda r: r.refresh(),
                    lambda r: [r.bound(name) for name in r.names], lambda r: [r[name][:3] for name in r.names], lambda r: r.state(),
                    lambda r: [r.state(frame=k) for k in (0, -1)]):  # fmt: skip
        try:
            look_at(run)
        except WeightlapseError:
            continue


def _look_at_line(run: Recording, which: str, line: Line, truth: Truth, seen: Seen) -> None:
    steps = run.steps.tolist()
    where = {step: k for k, step in enumerate(line.steps)}
    known = [where.get(step) for step in steps if step != -1]
    if None in known:
        raise Wrong(
            f"line {which!r} has the step {next(s for s in steps if s != -1 and s not in where)}, which never was"
        )
    if truth.sealed and (sorted(known) != known or len(set(known)) != len(known)):  # type: ignore[type-var]
        raise Wrong(f"line {which!r}: the frames are not in their order: {steps}")
    if truth.sealed and len(known) > len(
        line.steps
    ):  # a damaged frame of which nothing is known may be one that never was
        raise Wrong(f"line {which!r} has {len(steps)} frames, {len(line.steps)} were written")
    readable = 0
    for k, step in enumerate(steps):
        if step == -1:
            continue
        true = line.values[where[step]]
        try:
            frame = run.stored_frame(k)
        except WeightlapseError:
            frame = {}
            for name in true:
                try:
                    frame[name] = run._store.read(name, np.array([k]))[0]
                except WeightlapseError:
                    continue
        if set(frame) - set(true):
            raise Wrong(f"step {step} has the tensors {sorted(frame)}, it was written with {sorted(true)}")
        for name, value in frame.items():
            if not same(truth, name, value, true[name], line):
                raise Wrong(f"line {which!r}, step {step}: {name} is not what was written")
            seen.good.add((which, step, name))
            readable += 1
    seen.lost += sum(len(v) for v in line.values) - readable
    if not which:
        whole = [all((which, step, name) in seen.good for name in true) for step, true in zip(line.steps, line.values)]
        seen.only_the_end = sorted(whole, reverse=True) == whole
    seen.lost_main += sum(len(v) for v in line.values) - readable if not which else 0
    _look_across(run, line, where, truth)
    try:
        column = run.scalars.get("loss", np.empty(0))
    except WeightlapseError:
        return
    told = {step: float(value) for step, value in zip(steps, column) if step != -1 and not np.isnan(value)}
    for step, value in told.items():
        if truth.sealed and line.scalars.get(step) != value:
            raise Wrong(f"line {which!r}, step {step}: the scalar is {value}, {line.scalars.get(step)} was logged")
    seen.lost_scalars += len(line.scalars) - len(told)


def _look_across(run: Recording, line: Line, where: dict[int, int], truth: Truth) -> None:
    """Whole columns at once take other paths through the reader than single frames."""
    for name in run.names:
        for start, stop, stride in ((0, None, 1), (3, 30, 4)):
            try:
                part = slice(start, stop, stride)
                values = run._store.read(name, part)
            except WeightlapseError:
                continue
            for k, value in zip(range(run.frames)[part], values):
                step = int(run.steps[k])
                true = line.values[
                    where[step] if step != -1 else k
                ]  # a frame whose step is not known any more may still be there
                if name not in true or not same(truth, name, value, true[name], line):
                    raise Wrong(f"frame {k}, step {step}: {name} over time is not what was written")
