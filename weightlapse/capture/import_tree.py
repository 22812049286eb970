"""Published checkpoints as a recording: a tree of revisions, read one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.adapters.arrays import stored
from weightlapse.adapters.checkpoints import Checkpoint
from weightlapse.capture.recorder import Recorder
from weightlapse.capture.resuming import is_there
from weightlapse.capture.revisions import Revision, Tree
from weightlapse.capture.soundness import Soundness, print_of
from weightlapse.capture.suspicions import Numbers, emptied, exchanged, missing_steps, sample_of, zeros_in
from weightlapse.capture.watch import watch
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.progress import track
from weightlapse.store.layout import widen
from weightlapse.store.reader import Store

_KEY = "imported_from"
ROWS = 8  # of a tensor that stand for it
_ROOM = 1 << 20  # bytes beside the two frames of the ring


@dataclass
class Imported:
    """What was imported: ``frames`` of the recording, checkpoints found, those that could not be read, and what is odd about the others, in words.

    ``ignored``: entries of the folder that were left out, with the reason.
    """

    frames: int
    checkpoints: int
    lost: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)


def import_revisions(
    root: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    resume: bool = False,
    streams: Iterable[str] = ("weights", "buffers"),
    say: Callable[[str], None] = lambda _: None,
    **arguments: Any,
) -> Imported:
    """Write the checkpoints below ``root``, a folder or fsspec URL, as a recording to ``path``: a frame each, in the order of their steps.

    Revisions are ``step1000/``, ``checkpoint-500/``, ``global_step40/``, files such as ``model-7.safetensors``, and the snapshots that the refs of a
    Hugging Face cache name; sharded ones too. One is open at a time, and the recorder holds two frames; from a URL one lies on disk at a time.
    After each one everything is on disk, so an import that was killed goes on with ``resume=True``.

    A checkpoint that cannot be read is a gap in the recording. What is odd is said (``say``), and written into it as an event: the same checkpoint
    twice, two that seem exchanged, matrices that have become zero (a download that was not finished), steps that a regular series leaves out.
    Further ``arguments`` are those of :func:`weightlapse.watch`.

    Raises :class:`InvalidArgument` where there is no checkpoint, :class:`CannotRecord` where none can be read.
    """
    tree = Tree(os.fspath(root))
    if not tree.revisions:
        seen = "; ".join(f"{name}: {why}" for name, why in list(tree.ignored.items())[:4])
        raise InvalidArgument(f"{root} holds no checkpoints whose names tell a step{f' ({seen})' if seen else ''}")
    return _Import(tree, Path(path), resume, tuple(streams), say, arguments).run()


class _Import:
    def __init__(
        self, tree: Tree, path: Path, resume: bool, streams: tuple[str, ...], say: Callable[[str], None], arguments: Any
    ) -> None:
        self._tree, self._path, self._say = tree, path, say
        self._arguments = {"streams": streams, **arguments}
        self._done = Imported(0, len(tree.revisions), ignored=dict(sorted(tree.ignored.items())))
        self._rec: Recorder | None = None
        self._waiting: list[tuple[int, str]] = []  # gaps before the first frame
        self._steps: list[int] = []
        self._samples: list[Numbers] = []
        self._zero: Mapping[str, bool] = {}
        self._sound = Soundness()
        self._doubted: set[int] = (
            set()
        )  # steps of checkpoints that are no places on the way: the same again, half written
        self._names: set[str] = set()  # of the last frame's tensors
        self._last = -1
        if resume and is_there(path):
            self._take_up()
        elif resume:
            self._say(f"there is nothing at {path} yet: the import begins")

    def _take_up(self) -> None:
        store = Store.open(self._path)
        if store.meta.get(_KEY) != self._tree.root:
            raise InvalidArgument(
                f"{self._path} was not imported from {self._tree.root}, so it cannot go on from there; choose another path"
            )
        names = {t.name: t for t in store.layouts[-1][1].tensors}
        for frame, step in enumerate(store.steps.tolist()):
            here = {t.name: t for t in store.layout_at(frame).tensors}
            fronts = {name: _front(store, frame, spec) for name, spec in here.items()}
            self._steps.append(step)
            self._samples.append(sample_of(fronts))
        self._last = self._steps[-1] if self._steps else -1
        self._zero = zeros_in({n: store.read(n, slice(-1, None))[0] for n in names if len(store.steps)})

    def run(self) -> Imported:
        if self._last >= 0:
            self._go_on()
        try:
            for _, same in track(
                [(s, list(g)) for s, g in groupby(self._tree.revisions, lambda r: r.step)], "importing"
            ):
                self._step(same)
            if self._rec is None:
                raise CannotRecord(
                    f"none of the checkpoints in {self._tree.root} can be read: {'; '.join(self._done.lost[:3])}"
                )
            self._look_back()
        finally:
            if self._rec is not None:
                self._rec.close(last_frame=False)
        self._done.frames = self._rec.frames
        return self._done

    def _go_on(self) -> None:
        mine = [r for r in self._tree.revisions if r.step == self._last and not r.fault]
        if not mine:
            raise InvalidArgument(
                f"the last imported checkpoint, step {self._last}, is not in {self._tree.root} any more: import it anew"
            )
        with self._tree.opened(mine[0], self._path) as checkpoint:
            self._begin(checkpoint, self._last, resume=True, resume_at=self._last)
            self._names = set(checkpoint)
            self._sound.see(self._last, {n: print_of(plain(n, value)) for n, value in checkpoint.items()})

    def _begin(self, checkpoint: Checkpoint, step: int, **more: Any) -> None:
        row = sum(-(-stored(name, value)[0].nbytes // 8) * 8 for name, value in checkpoint.items())
        own = {"memory": -(-row * 8 // 3) + _ROOM, "first_step": step} | self._arguments
        meta = {**(own.pop("meta", None) or {}), _KEY: self._tree.root}
        if more:
            own.pop("overwrite", None)
        rec = watch(checkpoint, self._path, meta=meta, **(own | more))
        if not isinstance(rec, Recorder):
            raise CannotRecord("the recorder is switched off (WEIGHTLAPSE_MODE)")
        rec.strict = True  # nobody trains here: what fails must be said
        rec.flush()
        self._rec = rec
        for gap, why in self._waiting:
            rec.gap(gap, gap, why)

    def _step(self, same: list[Revision]) -> None:
        step = same[0].step
        if step <= self._last and self._rec is not None and step in self._steps:
            return
        whole = [r for r in same if not r.fault] or same
        if len(same) > 1:
            names = " and ".join(r.name for r in same)
            self._odd(f"{names} both say step {step}: {whole[0].name} was taken")
        with ExitStack() as stack:
            try:
                room = self._path if self._path.is_dir() else self._path.absolute().parent
                checkpoint = stack.enter_context(self._tree.opened(whole[0], room))
                arrays = {name: plain(name, value) for name, value in checkpoint.items()}
            except (CannotRecord, InvalidArgument, OSError) as error:
                self._lose(step, f"{whole[0].name} cannot be read: {error}")
                return
            if step <= self._last:  # it could not be read before
                self._lose(
                    step,
                    f"{whole[0].name} can be read now, and frames of later steps are there: import anew to have it",
                )
                return
            if absent := sorted(self._names - set(arrays)):
                some = f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
                if self._come_back(step, absent):
                    self._lose(
                        step, f"{whole[0].name} is not whole: {some}, of the checkpoints before and after, is not in it"
                    )
                    return
                self._odd(f"{whole[0].name} does not hold {some}, which the checkpoints before do")
            self._frame(step, whole[0].name, checkpoint, arrays)

    def _come_back(self, step: int, names: list[str]) -> bool:
        """Whether the next checkpoint that can be read holds these tensors."""
        room = self._path if self._path.is_dir() else self._path.absolute().parent
        for revision in self._tree.revisions:
            if revision.step > step and not revision.fault:
                try:
                    with self._tree.opened(revision, room) as checkpoint:
                        return set(names) <= set(checkpoint)
                except (CannotRecord, InvalidArgument, OSError):
                    continue
        return False

    def _frame(self, step: int, name: str, checkpoint: Checkpoint, arrays: dict[str, Any]) -> None:
        sample = sample_of({n: front(a) for n, a in arrays.items()})
        zero = zeros_in(arrays)
        empty, self._zero = emptied(zero, self._zero), zero
        twin = next((s for s, other in zip(self._steps, self._samples) if np.array_equal(sample, other)), None)
        if twin is not None and not self._is_frame(twin, arrays):
            twin = None
        if self._rec is None:
            self._begin(checkpoint, step)
        else:
            self._rec.step(checkpoint, step=step)
            self._rec.flush()
        self._steps.append(step)
        self._samples.append(sample)
        self._names = set(arrays)
        unsound = self._sound.see(step, {n: print_of(a) for n, a in arrays.items()})
        if empty or unsound or twin is not None:
            self._doubted.add(step)
        for text in unsound:
            self._odd(f"{name}: {text}")
        if empty:
            some = f"{', '.join(empty[:3])}{', ...' if len(empty) > 3 else ''}"
            self._odd(
                f"{name}: {len(empty)} of its matrices are all zeros and were not before ({some}): it seems half written"
            )
        if twin is not None:
            self._odd(f"{name} is the same, bit for bit, as the checkpoint of step {twin}")

    def _is_frame(self, step: int, arrays: Mapping[str, Any]) -> bool:
        """Whether the recorded frame of this step holds these arrays."""
        store = Store.open(self._path)
        frame = int(np.flatnonzero(store.steps == step)[0])
        specs = {t.name: t for t in store.layout_at(frame).tensors}
        if store.tolerance is not None or not set(specs) <= set(arrays):
            return store.tolerance is not None
        return all(
            np.array_equal(
                widen(store.read_frame(frame, [n])[n], spec.dtype), arrays[n], equal_nan=arrays[n].dtype.kind in "fc"
            )
            for n, spec in specs.items()
        )

    def _look_back(self) -> None:
        assert self._rec is not None
        for text in self._sound.rested():
            self._odd(text)
        way = [k for k, step in enumerate(self._steps) if step not in self._doubted]
        for i, j in exchanged([self._samples[k] for k in way]):
            self._odd(
                f"the checkpoints of steps {self._steps[way[i]]} and {self._steps[way[j]]} seem exchanged: the way through the weights is "
                "clearly shorter the other way round"
            )
        found = missing_steps(sorted({r.step for r in self._tree.revisions}))
        if found:
            listed = ", ".join(map(str, found[:6])) + (", ..." if len(found) > 6 else "")
            self._odd(f"the series goes on in equal strides and leaves out {len(found)} steps: {listed}")
            for step in found:
                self._rec.gap(step, step, "no checkpoint of this step")

    def _odd(self, text: str) -> None:
        self._done.odd.append(text)
        self._say(text)
        if self._rec is not None:
            self._rec.mark(text)

    def _lose(self, step: int, text: str) -> None:
        self._done.lost.append(text)
        self._say(text)
        if self._rec is None:
            self._waiting.append((step, text))
        else:
            self._rec.gap(step, step, text)


def plain(name: str, value: Any) -> Any:
    """A checkpoint's tensor as an array of numbers, without a copy where it can be."""
    return widen(*stored(name, value))


def front(values: Any) -> Any:
    """Some rows of the first axis, evenly spread over it, enough to stand for a tensor."""
    return values[_spread(values.shape)] if np.ndim(values) > 1 else values


def _spread(shape: tuple[int, ...]) -> slice:
    return slice(0, shape[0], max(-(-shape[0] // ROWS), 1))


def _front(store: Store, frame: int, spec: Any) -> Any:
    region = (_spread(spec.shape), *(slice(None) for _ in spec.shape[1:])) if len(spec.shape) > 1 else None
    return widen(store.read(spec.name, np.array([frame]), region)[0], spec.dtype)
