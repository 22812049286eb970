"""A recording: weights over time, read from disk only where they are looked at."""

from __future__ import annotations

import html
import importlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from weightlapse.arguments import Former, renamed
from weightlapse.errors import InvalidArgument, MissingStep, NotARecording, RecordingIncomplete, UnknownTensor, closest
from weightlapse.recording.nearby import recordings_like
from weightlapse.recording.play import play
from weightlapse.recording.run import Run
from weightlapse.recording.straight import load_frame, state_into
from weightlapse.recording.stretch import LayoutStretch
from weightlapse.recording.track import Track
from weightlapse.store.layout import Layout, widen
from weightlapse.store.ranks import RankedStore, open_store
from weightlapse.store.reader import Store
from weightlapse.store.remote import is_url
from weightlapse.store.scalars import Scalars

if TYPE_CHECKING:
    import pyarrow
    import xarray

    from weightlapse.recording.export import ExportKind
    from weightlapse.recording.top import Quantity, Thing
    from weightlapse.wiring.data import Wiring


def load(path: str | os.PathLike[str]) -> Recording:
    """Open the recording at ``path``, a folder or an fsspec URL ("s3://bucket/run"); nothing but its index is read.

    Works while the recording is still being written, see :meth:`Recording.refresh`. What several processes wrote is merged.

    Raises :class:`NotARecording` when there is none, :class:`DamagedRecording` when its index cannot be trusted.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> with wl.watch({"w": np.zeros(3)}, tempfile.mkdtemp()) as rec:
    ...     rec.step({"w": np.ones(3)}, loss=0.5)
    >>> run = wl.load(rec.path)
    >>> run["w"].shape, run["w"][-1].tolist(), run.scalars["loss"].tolist()
    ((2, 3), [1.0, 1.0, 1.0], [nan, 0.5])
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidArgument(f"load({type(path).__name__}): give the path of a recording, such as recorder.path")
    if not os.fspath(path):
        raise InvalidArgument("load(''): the path is empty; give the path of a recording, such as recorder.path")
    try:
        return Recording(open_store(path), path)
    except NotARecording as error:
        if is_url(path):
            raise
        raise NotARecording(f"{error}{recordings_like(path)}") from None


def opened(run: Run | str | os.PathLike[str]) -> Run:
    """The recording itself, or the one at a path. Raises InvalidArgument for what is neither, such as the weights of one network."""
    if isinstance(run, (str, os.PathLike)):
        return load(run)
    if isinstance(run, Mapping) or not hasattr(run, "steps"):  # whatever stands in for a recording has them
        raise InvalidArgument(f"a recording (wl.load) or the path of one is needed here, not {type(run).__name__}")
    return run


class Listing(dict[str, Any]):
    """A dict that says no to changes: it is given to everybody who asks, and copied for nobody. ``dict(listing)`` is a plain one."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("what a recording says of its tensors cannot be changed; dict(...) makes a copy that can")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class Recording:
    """One training run. ``run["fc1.weight"]`` is a :class:`Track` (T, \\*S); ``run.state(step=500)`` all weights of one step.

    ``steps`` int64 (T,) are the optimizer steps of the T frames; ``scalars`` by name are float64 (T,), NaN where nothing was logged;
    ``events`` is a list of (step, text), ``gaps`` of (first missing step, last missing step, reason).
    """

    def __init__(self, store: Store | RankedStore, path: str | os.PathLike[str]) -> None:
        self._store = store
        self.path = path if isinstance(path, str) and "://" in path else Path(path)
        self._scalars: Scalars | None = None
        self._told_of_loss = False
        self._listed_for: list[Layout] = []
        self._layouts_for: Any = None
        self._layouts: list[LayoutStretch] = []
        self._listed: dict[str, dict[str, Any]] = {}

    def __reduce__(self) -> Any:
        return Recording, (self._store, self.path)

    # ---- what there is ---------------------------------------------------------------------------------------------

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of the frames, int64 (T,), ascending."""
        return self._store.steps

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return len(self._store.steps)

    @property
    def layouts(self) -> list[LayoutStretch]:
        """The stretches of frames over which the layout (names, shapes, dtypes, order) stays the same. Most recordings have one."""
        told = self._store.epochs
        if (
            self._layouts_for is not told or self._layouts[-1].stop != self.frames
        ):  # asked for by every look at a tensor
            starts = [span.start for span in told]
            stops = [*starts[1:], max(self.frames, starts[-1])]
            self._layouts = [
                LayoutStretch(self._store, span, min(stop, self.frames)) for span, stop in zip(told, stops)
            ]
            self._layouts_for = told
        return [*self._layouts]

    if not TYPE_CHECKING:  # a checker sees the new name alone
        epochs = Former("0.3", "layouts")

    @property
    def names(self) -> list[str]:
        """Names of all tensors, each once (see ``aliases`` for the further names of tied ones)."""
        return list(self._facts_of_layouts("shapes"))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor; of one that changes, its last."""
        return self._facts_of_layouts("shapes")

    @property
    def dtypes(self) -> dict[str, str]:
        """Recorded dtype of each tensor: a NumPy name, or one that NumPy does not have ("bfloat16", "float8_e4m3fn", "int4", ...)."""
        return self._facts_of_layouts("dtypes")

    @property
    def streams(self) -> dict[str, str]:
        """The stream of each tensor: "weights", "buffers", "gradients" or "optimizer"."""
        return self._facts_of_layouts("streams")

    @property
    def aliases(self) -> dict[str, list[str]]:
        """For each tied tensor its further names."""
        return {name: list(names) for name, names in self._facts_of_layouts("aliases").items()}

    def _facts_of_layouts(self, which: str) -> dict[str, Any]:
        """One of the listings of tensors, made once for each list of layouts: there may be ten thousand of them, each asked for by its name."""
        layouts = [layout for _, layout in self._store.layouts]
        if len(self._listed_for) != len(layouts) or any(a is not b for a, b in zip(layouts, self._listed_for)):
            tensors = [t for layout in layouts for t in layout.tensors]
            self._listed_for = layouts
            self._listed = {
                "shapes": Listing({t.name: t.shape for t in tensors}),
                "dtypes": Listing({t.name: t.dtype for t in tensors}),
                "streams": Listing({t.name: t.stream for t in tensors}),
                "aliases": Listing({t.name: t.aliases for t in tensors if t.aliases}),
            }
        return self._listed[which]

    @property
    def scalars(self) -> Scalars:
        """By name float64 (T,), NaN where nothing was logged; each look gives a new array."""
        if self._scalars is None:
            self._tell_of_loss()
            self._scalars = self._store.scalars
        return self._scalars

    def _tell_of_loss(self) -> None:
        """Warn, once, where some of what was logged and marked cannot be read: it looks like what never was."""
        if self._told_of_loss or not (damages := self._store.journal_damages()):
            return
        self._told_of_loss = True
        text = (
            f"{self.path}: {'; '.join(str(damage) for damage in damages[:3])}. Scalars, events and gaps that stood there look as if they had never been "
            "logged; the weights are untouched, and `weightlapse verify` lists what is damaged"
        )
        warnings.warn(text, RecordingIncomplete, stacklevel=3)

    @property
    def branches(self) -> dict[str, Recording]:
        """What was trained after step N before the recording was rewound to N: recordings of those frames alone, by name ("after-N")."""
        return {name: Recording(self._store.on_branch(name), self.path) for name in self._store.branches}

    @property
    def branch(self) -> str | None:
        """The name of the branch that this is, None for the recording itself."""
        return getattr(self._store, "branch", None)

    @property
    def name(self) -> str:
        """What to call it: the name of its folder, of a branch with the branch's."""
        folder = Path(str(self.path)).name or "recording"
        return folder if self.branch is None else f"{folder}, {self.branch}"

    @property
    def events(self) -> list[tuple[int, str]]:
        """What was marked, (step, text), in order."""
        self._tell_of_loss()
        return self._store.events

    @property
    def observed(self) -> list[tuple[int, dict[str, Any]]]:
        """What the recorder saw of the network at a few steps besides its frames, (step, facts): which weights were frozen or shared, what the
        optimizer did, how its activations lay on the example. Empty where nothing was seen. See ``docs/format.md``."""
        return self._store.observed

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        """Steps that are missing: (first, last, reason)."""
        self._tell_of_loss()
        return self._store.gaps

    @property
    def meta(self) -> dict[str, Any]:
        """What ``watch(..., meta=...)`` was given, and what the recorder notes of itself."""
        return self._store.meta

    @property
    def wiring(self) -> Wiring | None:
        """The :class:`weightlapse.Wiring` stored with the recording, or None."""
        spec = self._store.wiring_spec
        return None if spec is None else importlib.import_module("weightlapse.wiring.data").Wiring.from_spec(spec)

    @property
    def wiring_spec(self) -> str | None:
        """The wiring as text, see :meth:`weightlapse.Wiring.from_spec`."""
        return self._store.wiring_spec

    @property
    def stopped(self) -> str | None:
        """Why the recorder had to stop before training did, None when it did not."""
        return self._store.stopped

    @property
    def closed(self) -> bool:
        """True when the recorder ended in order; False while it records, and after a crash."""
        return self._store.closed

    @property
    def tolerance(self) -> float | None:
        """The tolerance that was asked for, as a fraction of a standard deviation; None is bit-exact. `bound` is what was kept."""
        return self._store.tolerance

    @property
    def nbytes(self) -> int:
        """Bytes of all recorded values without compression."""
        return self._store.raw_nbytes

    @property
    def stored_nbytes(self) -> int:
        """Bytes that the recording takes on disk, everything counted."""
        return self._store.stored_nbytes

    def refresh(self) -> int:
        """Take up what was written since the last look; returns the number of new frames."""
        self._scalars = None
        return self._store.refresh()

    def bound(self, name: str, frame: int | None = None) -> float:
        """The largest absolute error that values of this tensor may have at this frame, or at any; 0.0 where they are exact."""
        return self._store.bound(name, None if frame is None else self._frame(None, frame))

    # ---- values ----------------------------------------------------------------------------------------------------

    def __contains__(self, name: object) -> bool:
        return any(name in layout.index for _, layout in self._store.layouts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Track:
        if name not in self:
            raise UnknownTensor(f"{self.path} has no tensor {name!r}; {closest(str(name), self.names)}")
        spans = [span for span in self.layouts if len(span)] or self.layouts[-1:]
        kinds = {(s.shape, s.dtype) if name in span and (s := span.spec(name)) else None for span in spans}
        if len(kinds) > 1:
            told = "; ".join(span.tell(name) for span in spans)
            raise InvalidArgument(f"{name} is not the same over the whole run ({told}): use run.layouts[i][{name!r}]")
        return Track(self._store, spans[-1].spec(name), 0, self.frames)

    def _frame(self, step: int | None, frame: int | None) -> int:
        if (step is None) == (frame is None):
            raise InvalidArgument(
                "give either step= (an optimizer step) or frame= (a position in the recording; -1 is the last)"
            )
        if self.frames == 0:
            raise MissingStep(f"{self.path} has no frames yet")
        if frame is not None:
            if not -self.frames <= frame < self.frames:
                raise MissingStep(f"frame={frame}: {self.path} has the frames 0 to {self.frames - 1}")
            return int(frame) % self.frames
        found = np.flatnonzero(self.steps == step)
        if len(found) == 0:
            near = self.steps[np.argsort(np.abs(self.steps - int(step or 0)), kind="stable")[:2]]
            raise MissingStep(
                f"step {step} was not recorded; the nearest are {', '.join(map(str, sorted(near.tolist())))}"
            )
        return int(found[0])

    def state(
        self,
        step: int | None = None,
        *,
        frame: int | None = None,
        streams: Iterable[str] = ("weights", "buffers"),
        out: Mapping[str, Any] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """All tensors of one frame (the last where none is named) by name, tied ones under each of their names (the same array).

        ``out``: writable arrays (also tensors of torch in CPU memory, memory maps) by name, of the shape and dtype that the frame has here
        (see :attr:`Track.dtype`). Only these are read, of any stream, straight into them, and returned as arrays over the same memory. Where
        reading fails some of them may hold the frame already.

        Raises :class:`MissingStep` (a KeyError) that names the nearest recorded steps, :class:`UnknownTensor` and :class:`InvalidArgument`
        for what in ``out`` does not fit.

        >>> import numpy as np, tempfile, weightlapse as wl
        >>> path = tempfile.mkdtemp()
        >>> with wl.watch({"W": np.arange(6.0).reshape(2, 3)}, path) as rec:
        ...     rec.step({"W": np.ones((2, 3))})
        >>> mine = np.zeros((2, 3))
        >>> _ = wl.load(path).state(step=1, out={"W": mine})
        >>> mine.sum()
        np.float64(6.0)
        """
        number = self._frame(step, -1 if step is None and frame is None else frame)
        if out is not None:
            return state_into(self._store, number, out)
        wanted = set(streams)
        specs = [t for t in self._store.layout_at(number).tensors if t.stream in wanted]
        stored = self._store.read_frame(number, [t.name for t in specs])
        values = {t.name: widen(stored[t.name], t.dtype) for t in specs}
        return {name: values[t.name] for t in specs for name in (t.name, *t.aliases)}

    def layout_at(self, frame: int) -> Layout:
        """Which tensors, of what dtype and shape, a frame holds."""
        return self._store.layout_at(frame)

    def stored_frame(self, frame: int) -> dict[str, NDArray[Any]]:
        """One frame as it is stored: every tensor under its first name, what NumPy has no dtype for as patterns."""
        return self._store.read_frame(self._frame(None, frame))

    def load_into(self, model: Any, step: int | None = None, *, frame: int | None = None) -> None:
        """Put the weights (and buffers) of one frame back into a model, in place; the last frame when neither is given.

        Tensors in CPU memory are read straight into the model, without a second copy of it; nothing is changed when one does not fit. Should
        the recording turn out to be damaged on the way, the model may hold a part of the frame, and the error says so.
        """
        number = self._frame(step, -1 if step is None and frame is None else frame)
        load_frame(self._store, number, model)

    def play(
        self,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
        *,
        tensors: Iterable[str] | None = None,
        memory: int = 512 << 20,
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """(step, state) of frame after frame, ``range(start, stop, step)`` of them, read ahead in stretches while the last ones are looked at.

        ``tensors``: their names, by default all weights and buffers. ``memory``: bytes of frames that are held at most, but always one that is
        looked at and one that is read. Frames come with their layout; a compressed block is decoded once for each stretch, not
        once for each frame.
        """
        numbers = range(*slice(start, stop, step).indices(self.frames))
        return play(self._store, numbers, None if tensors is None else list(tensors), memory)

    def neuron(self, group: str, unit: int) -> dict[str, NDArray[Any]]:
        """One unit over time: "incoming" and "outgoing" weights, "bias", "gain", "statistics", each (T, ...).

        Where several tensors play one part, the further ones are named "part:tensor". Needs a recording with a wiring.
        """
        wiring = self.wiring
        if wiring is None:
            raise InvalidArgument(
                f"{self.path} holds no wiring, so which weights belong to a unit is unknown: "
                "record with watch(..., example=an_input) or watch(..., wiring=a_wiring)"
            )
        return importlib.import_module("weightlapse.recording.neuron").neuron(self, wiring, group, unit)

    # ---- questions -------------------------------------------------------------------------------------------------

    def table(self) -> pyarrow.Table:
        """The statistics of the recording as a ``pyarrow.Table``: a row for each tensor and block, a stretch of neighbouring frames.

        ``tensor``, ``stream``, ``first_step``, ``last_step``, ``frames``; ``min`` and ``max`` (of the finite values, NaN where there are none);
        ``nan``, ``inf``, ``zeros`` (counts); ``sum`` and ``sumsq`` (of the finite values); ``update_sumsq``, ``update_max`` (square sum and largest
        size of the changes from one frame to the next, where both are finite), ``changed`` (values that are another than in the frame
        before), ``updates`` (how many of the frames were compared with the one before: the first frame of all, and those behind a change of
        layout, are not); ``values`` (how many there are); ``rank`` (of a recording by many processes, whose parts have rows of their own).
        Everything counts as float64, complex numbers with both parts.

        Kept statistics are read; what has none (frames that are not compressed yet, older recordings) is read once. The mean of a
        tensor is ``sum / values``, its norm (the root mean square over the frames) ``sqrt(sumsq / frames)``.

        >>> import numpy as np, tempfile, weightlapse as wl
        >>> with wl.watch({"w": np.zeros(3)}, tempfile.mkdtemp() + "/run") as rec:
        ...     rec.step({"w": np.array([0.0, 3.0, np.nan])})
        >>> wl.load(rec.path).table().select(["tensor", "frames", "max", "nan", "changed", "update_sumsq"]).to_pylist()
        [{'tensor': 'w', 'frames': 2, 'max': 3.0, 'nan': 1, 'changed': 2, 'update_sumsq': 9.0}]
        """
        return importlib.import_module("weightlapse.recording.table").table(self._store)

    def top(
        self,
        what: Quantity,
        k: int = 100,
        *,
        steps: slice | None = None,
        of: Thing = "weights",
        tensors: str | Iterable[str] = "*",
        streams: Iterable[str] = ("weights",),
    ) -> list[tuple[str, tuple[Any, ...], float]]:
        """The ``k`` largest, as (tensor, index, value), largest first; of equal ones those of the earlier tensor, then of the lower index.

        - ``what``: ``"value"``: the largest absolute value at any recorded step of the stretch; ``"update"``: the largest absolute change from one
          recorded step of the stretch to the next; ``"change"``: that between its first and its last recorded step.
        - ``steps``: the stretch, ``slice(a, b)`` of optimizer steps, b not included; all by default.
        - ``of``: ``"weights"``, whose index is that in the tensor; ``"units"``: the rows of a tensor's first axis (along the axis of its outputs, where the
          wiring knows it), ``"tensors"``: index (). Of units and tensors "absolute" is the Euclidean length. ``run[tensor][(frame, *index)]`` reads it.
        - ``tensors``: a glob or several over names; ``streams``: which streams are looked at.

        Complex weights count with their modulus. NaN counts for nothing (``run.table()`` tells how many there are), an infinity is larger than any
        number. A tensor whose shape or dtype differs between the first and last step has no "change".

        The answer is exact. The statistics say of each block how large its values and updates can be, so only those are read that can hold
        one of the largest. Raises :class:`InvalidArgument` for an unknown question, :class:`UnknownTensor` where no tensor matches,
        :class:`MissingStep` where the stretch holds no recorded step.

        >>> import numpy as np, tempfile, weightlapse as wl
        >>> w = np.zeros((2, 3))
        >>> with wl.watch({"w": w}, tempfile.mkdtemp() + "/run") as rec:
        ...     for t in range(1, 5):
        ...         w[1, 2] += 0.5 * t
        ...         w[0, 0] = -1.0
        ...         rec.step()
        >>> run = wl.load(rec.path)
        >>> run.top("update", 2), run.top("change", 1, of="units", steps=slice(1, None))
        ([('w', (1, 2), 2.0), ('w', (0, 0), 1.0)], [('w', (1,), 4.5)])
        """
        ask = importlib.import_module("weightlapse.recording.asking").ask
        return ask(self, what, k, steps, of, tensors, streams)  # type: ignore[no-any-return]

    def query(self, sql: str) -> pyarrow.Table:
        """The answer to one SELECT, asked of DuckDB, as a ``pyarrow.Table``.

        Tables: ``tensors``, ``frames``, ``stats`` (:meth:`table`), ``scalars`` (a row for each logged number), ``events``, ``gaps``, and the table
        function ``weights('NAME', '100:200, 3')``: a slice of a tensor as NumPy writes it, time first, with the columns ``frame``, ``step``,
        ``index``, ``value``. Nothing is written, and no file outside of the recording is read.

        Raises :class:`InvalidArgument` with what DuckDB says; :class:`MissingExtra` without ``duckdb`` (``pip install 'weightlapse[query]'``).

        >>> import numpy as np, tempfile, weightlapse as wl
        >>> with wl.watch({"w": np.zeros(3)}, tempfile.mkdtemp() + "/run") as rec:
        ...     rec.step({"w": np.array([0.0, 3.0, 4.0])}, loss=0.5)
        >>> wl.load(rec.path).query("select tensor, sqrt(update_sumsq) as moved from stats").to_pylist()
        [{'tensor': 'w', 'moved': 5.0}]
        """
        return importlib.import_module("weightlapse.recording.query").query(self, sql)

    # ---- elsewhere -------------------------------------------------------------------------------------------------

    def to_xarray(self) -> xarray.Dataset:
        """An ``xarray.Dataset``: every tensor with a "step" dimension, scalars as variables of their own."""
        return importlib.import_module("weightlapse.recording.export").to_xarray(self)

    @renamed("0.3", dest="out")
    def export(
        self, kind: ExportKind, out: str | os.PathLike[str], *, partition: str | None = None, weights: bool = True
    ) -> None:
        """Write the recording as "zarr", "safetensors", "npz", "parquet" or "tensorboard" to ``out``.

        ``partition`` (parquet only): add it, under that name, to a tree of many recordings, ``out/TABLE/run=NAME/part-0.parquet``, which DuckDB, Polars
        and Spark read as one; ``weights=False`` leaves the values out and writes the other tables alone: stats, scalars, tensors, frames, events, gaps.
        """
        if partition is not None or not weights:
            importlib.import_module("weightlapse.recording.partitions").add(self, kind, out, partition, weights=weights)
            return
        importlib.import_module("weightlapse.recording.export").export(self, kind, out)

    # ---- to look at ------------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, str]:
        steps = f"{self.frames} frames" + (f", steps {self.steps[0]} to {self.steps[-1]}" if self.frames else "")
        numbers = sum(int(np.prod(shape)) for shape in self.shapes.values())
        facts = {
            "frames": steps + ("" if self.closed else " (not closed)"),
            "tensors": f"{len(self.names)} with {numbers:,} numbers",
            "bytes": f"{self.nbytes:,} raw, {self.stored_nbytes:,} stored",
            "storage": "bit-exact" if self.tolerance is None else f"within {self.tolerance:g} standard deviations",
        }
        if self.scalars:
            facts["scalars"] = ", ".join(self.scalars)
        if self.events or self.gaps:
            facts["events"] = f"{len(self.events)} events, {len(self.gaps)} gaps"
        return facts

    def __repr__(self) -> str:
        lines = [f"<Recording {self.path}>", *(f"  {key:8} {value}" for key, value in self._facts().items())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table of facts with a sparkline per scalar: static, so that it survives the export of a notebook."""
        rows = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in self._facts().items())
        for name, column in self.scalars.items():
            rows += f"<tr><th>{html.escape(name)}</th><td>{_sparkline(column)}</td></tr>"
        return f"<table><caption>{html.escape(str(self.path))}</caption>{rows}</table>"


def _sparkline(values: NDArray[np.float64], width: int = 240, height: int = 32) -> str:
    """A column of numbers as a small inline SVG line."""
    frames = np.flatnonzero(np.isfinite(values))
    if len(frames) == 0:
        return "no finite values"
    frames = frames[np.unique(np.linspace(0, len(frames) - 1, width).astype(int))]
    y = values[frames]
    span = (y.max() - y.min()) or 1.0
    x = frames / max(len(values) - 1, 1) * width
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, height - 2 - (y - y.min()) / span * (height - 4)))
    line = f'<polyline fill="none" stroke="currentColor" points="{points}"/>'
    return f'<svg width="{width}" height="{height}" role="img">{line}</svg> {y[-1]:.4g}'
