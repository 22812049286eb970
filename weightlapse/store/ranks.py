"""A recording that several processes wrote, each its own shard of the tensors, read as one.

Rank 0 writes the recording itself (its shards, everything that is not sharded, scalars and events), rank r the recording ``ranks/NNNN``
inside of it. The manifest of each says in ``meta["distributed"]`` which part of which tensor its arrays are; see ``docs/format.md``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording, InvalidArgument, NotARecording
from weightlapse.store.folder import LocalFolder
from weightlapse.store.journal import LayoutEpoch
from weightlapse.store.layout import MAX_ROW, Layout, TensorSpec
from weightlapse.store.reader import Store
from weightlapse.store.remote import RemoteFolder, is_url
from weightlapse.store.scalars import Scalars
from weightlapse.store.segment import Damage, Frames, Region

_MAX_RANKS = 1 << 16


def rank_folder(rank: int) -> str:
    """Where a rank other than 0 records, below the recording."""
    return f"ranks/{rank:04d}"


def open_store(path: str | os.PathLike[str]) -> Store | RankedStore:
    """The recording at a path or an fsspec URL, its ranks merged."""

    def at(where: str) -> Store:
        return Store.open(RemoteFolder(where) if is_url(where) else LocalFolder(where))

    root = os.fspath(path)
    main = at(root)
    distributed = main.meta.get("distributed")
    if distributed is None:
        return main
    count = distributed.get("world_size") if isinstance(distributed, dict) else None
    if type(count) is not int or not 1 <= count <= _MAX_RANKS:
        raise NotARecording(f"{root} says it was written by {str(count)[:40]} processes: its manifest was changed")
    others = []
    for rank in range(1, count):
        try:
            others.append(at(f"{root.rstrip('/')}/{rank_folder(rank)}"))
        except NotARecording as error:
            raise DamagedRecording(
                f"{root} was written by {count} processes, and the part of rank {rank} is missing ({error})"
            ) from None
    return RankedStore([main, *others])


@dataclass(frozen=True)
class _Shard:
    """The part ``[offset, offset + shape)`` of a tensor that one rank holds."""

    store: Store
    frames: NDArray[np.int64]  # merged frame number -> frame number of that rank
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    name: str = ""
    target: Any = None  # where in the whole tensor its values go


class RankedStore:
    """Has the face of :class:`Store`. Its frames are the steps that every rank holds."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = list(stores)
        self._main = stores[0]
        self.location = self._main.location
        self.meta = self._main.meta
        self.tolerance = self._main.tolerance
        self._merge()

    def _merge(self) -> None:
        self.steps: NDArray[np.int64] = reduce(
            np.intersect1d, [store.steps[store.steps >= 0] for store in self._stores]
        )
        specs: dict[str, TensorSpec] = {}
        self._shards: dict[str, list[_Shard]] = {}
        for store in self._stores:
            if len(store.layouts) != 1:
                raise DamagedRecording(
                    f"{store.location} has several layouts, which a rank of a sharded recording cannot have"
                )
            frames = _frames_of(store, self.steps)
            for spec in store.layouts[0][1].tensors:
                shape, offset = _place_of(store, spec)
                specs.setdefault(spec.name, TensorSpec(spec.name, spec.dtype, shape, spec.stream, spec.aliases))
                self._shards.setdefault(spec.name, []).append(_Shard(store, frames, offset, spec.shape))
                if specs[spec.name].shape != shape or len(offset) != len(shape) or len(spec.shape) != len(shape):
                    raise DamagedRecording(f"the ranks of {self.location} disagree about the shape of {spec.name}")
        for name, shards in self._shards.items():
            distinct = {(shard.offset, shard.shape) for shard in shards}
            if sum(math.prod(shape) for _, shape in distinct) != specs[name].size:
                raise DamagedRecording(
                    f"the shards of {name} in {self.location} do not make up the whole tensor {specs[name].shape}"
                )
        self._layout = Layout(specs.values())

    def parts(self) -> list[tuple[Store, NDArray[np.int64], dict[str, tuple[int, ...]]]]:
        """What each rank wrote: its store, the number that each merged frame has there, and where its tensors begin within the whole ones.

        Of parts that several ranks hold only the first has them.
        """
        places: list[dict[str, tuple[int, ...]]] = [{} for _ in self._stores]
        numbers = {id(store): rank for rank, store in enumerate(self._stores)}
        for name, shards in self._shards.items():
            seen = set()
            for shard in shards:
                if (shard.offset, shard.shape) not in seen:
                    seen.add((shard.offset, shard.shape))
                    places[numbers[id(shard.store)]][name] = shard.offset
        return [(store, _frames_of(store, self.steps), own) for store, own in zip(self._stores, places)]

    @property
    def branches(self) -> list[str]:
        """None: many processes are not rewound together."""
        return []

    def on_branch(self, name: str) -> RankedStore:
        """Raises InvalidArgument, always: recordings of many processes cannot be rewound and have no branches."""
        raise InvalidArgument(f"{self.location} was recorded by many processes and has no branches")

    def refresh(self) -> int:
        """As `Store.refresh` of every rank; new frames are the steps that all of them hold now and did not before."""
        before = len(self.steps)
        for store in self._stores:
            store.refresh()
        self._merge()
        return len(self.steps) - before

    # ---- what there is ---------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> list[LayoutEpoch]:
        """One, from frame 0: a rank with several layouts is refused when it is opened."""
        return [LayoutEpoch(0, self._layout)]

    @property
    def layouts(self) -> list[tuple[int, Layout]]:
        """(first frame, layout), of which there is one: whole tensors, not the shards of the ranks."""
        return [(0, self._layout)]

    def layout_at(self, frame: int) -> Layout:
        """The one layout, whatever the frame."""
        return self._layout

    @property
    def scalars(self) -> Scalars:
        """Those of rank 0, at the steps that every rank holds."""
        frames, every = _frames_of(self._main, self.steps), self._main.scalars
        return Scalars(list(every), lambda name: every[name][frames], lambda name: every.logged(name)[frames])

    @property
    def events(self) -> list[tuple[int, str]]:
        """Those of rank 0, and of the others what concerns them alone: where they ended before the rest."""
        last = max(int(store.steps.max(initial=-1)) for store in self._stores)
        short = [(rank, int(store.steps.max(initial=-1))) for rank, store in enumerate(self._stores)]
        told = [(step, f"rank {rank} recorded nothing after this step") for rank, step in short if step < last]
        told += [
            (step, f"rank {r}: {text}")
            for r, s in enumerate(self._stores[1:], 1)
            for step, text in s.events
            if "stopped" in text
        ]
        return sorted([*self._main.events, *told], key=lambda event: event[0])

    @property
    def observed(self) -> list[tuple[int, dict[str, Any]]]:
        """(step, facts) of rank 0, which alone looks at the network."""
        return self._main.observed

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        """(first, last, reason) of all ranks, each once: a step that one rank misses is missing."""
        return sorted({gap for store in self._stores for gap in store.gaps})

    @property
    def wiring_spec(self) -> str | None:
        """As rank 0 wrote it, of the whole tensors; None where it did not."""
        return self._main.wiring_spec

    @property
    def stopped(self) -> str | None:
        """Why ranks had to stop, each with its number, or None when none did."""
        told = [f"rank {rank}: {store.stopped}" for rank, store in enumerate(self._stores) if store.stopped is not None]
        return "; ".join(told) or None

    @property
    def closed(self) -> bool:
        """Whether every rank ended in order."""
        return all(store.closed for store in self._stores)

    @property
    def raw_nbytes(self) -> int:
        """Bytes of all values of the frames that every rank holds, of whole tensors and without padding."""
        return self._layout.value_nbytes * len(self.steps)

    @property
    def stored_nbytes(self) -> int:
        """Bytes on disk of all ranks, replicas and frames that not all of them hold included."""
        return sum(store.stored_nbytes for store in self._stores)

    # ---- values ----------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> TensorSpec:
        if name not in self._layout.index:
            self._main.read(name, slice(0, 0))  # raises, naming the nearest
        return self._layout.tensors[self._layout.index[name]]

    def read(self, name: str, frames: Frames, region: Region | None = None) -> NDArray[Any]:
        """As :meth:`Store.read`, each rank asked for its part of the region only."""
        spec = self._known(name)
        total = len(self.steps)
        numbers = np.arange(total)[frames] if isinstance(frames, slice) else np.asarray(frames, np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= total):
            raise InvalidArgument(f"frame {numbers.max()} is not among the {total} frames of {self.location}")
        where = [range(*part.indices(n)) for part, n in zip(region or (slice(None),) * len(spec.shape), spec.shape)]
        out = np.zeros((len(numbers), *(len(axis) for axis in where)), spec.storage)
        for shard in self._shards[spec.name]:
            cuts = [_overlap(axis, start, n) for axis, start, n in zip(where, shard.offset, shard.shape)]
            if len(numbers) and all(inside.stop > inside.start for _, inside in cuts):
                local = tuple(read for read, _ in cuts)
                out[(slice(None), *(inside for _, inside in cuts))] = shard.store.read(
                    spec.name, shard.frames[numbers], local
                )
        return out

    def read_frame(
        self, frame: int, names: Sequence[str] | None = None, out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """As :meth:`Store.read_frame`: each rank reads what it alone holds, and its parts go to their places."""
        wanted = dict.fromkeys(names if names is not None else [spec.name for spec in self._layout.tensors])
        specs = {name: self._known(name) for name in wanted}
        found = {n: np.empty(s.shape, s.storage) if out is None else out[n] for n, s in specs.items()}
        homes: dict[Store, list[_Shard]] = {}
        for name, values in found.items():
            placed = set()
            for shard in self._shards[name]:
                if (shard.offset, shard.shape) not in placed:  # of replicas either counts
                    placed.add((shard.offset, shard.shape))
                    homes.setdefault(shard.store, []).append(replace(shard, name=name, target=_part(values, shard)))
        for store, shards in homes.items():
            local = int(shards[0].frames[frame])
            direct = {s.name: s.target for s in shards if s.target.flags.c_contiguous}
            store.read_frame(local, list(direct), direct)
            for shard in shards:
                if shard.name not in direct:
                    shard.target[...] = store.read_frame(local, [shard.name])[shard.name]
        return found

    def bound(self, name: str, frame: int | None = None) -> float:
        """As `Store.bound`: the largest among the shards of the tensor."""
        shards = self._shards[self._known(name).name]
        if frame is None:
            return max(shard.store.bound(name) for shard in shards)
        return max(shard.store.bound(name, int(shard.frames[frame])) for shard in shards)

    def journal_damages(self) -> list[Damage]:
        """Of rank 0, whose scalars and events these are."""
        return self._main.journal_damages()

    def verify(self) -> list[Damage]:
        """As `Store.verify` of every rank; files of ranks but the first bear their folder in front, and frames are numbered within their rank."""
        found = []
        for rank, store in enumerate(self._stores):
            prefix = "" if rank == 0 else f"{rank_folder(rank)}/"
            found += [Damage(prefix + d.file, d.what, d.first, d.stop) for d in store.verify()]
        return found


def _part(values: NDArray[Any], shard: _Shard) -> NDArray[Any]:
    where: Any = (*(slice(a, a + n) for a, n in zip(shard.offset, shard.shape)), ...)
    return values[where]  # type: ignore[no-any-return]


def _place_of(store: Store, spec: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape of the whole tensor, where this rank's part begins in it), from a manifest that may say anything."""
    distributed = store.meta.get("distributed")
    places = distributed.get("shards", {}) if isinstance(distributed, dict) else None
    place = (
        places.get(spec.name, {"shape": list(spec.shape), "offset": [0] * len(spec.shape)})
        if isinstance(places, dict)
        else None
    )
    numbers = [place.get(key) for key in ("shape", "offset")] if isinstance(place, dict) else [None, None]
    if not all(
        isinstance(n, list) and len(n) <= 64 and all(type(i) is int and 0 <= i <= MAX_ROW for i in n) for n in numbers
    ):
        raise DamagedRecording(
            f"meta.distributed of {store.location} does not say where {spec.name} belongs: {str(place)[:80]}"
        )
    shape, offset = (tuple(n or ()) for n in numbers)
    if (
        len(shape) != len(offset)
        or len(shape) != len(spec.shape)
        or any(o + n > s for o, n, s in zip(offset, spec.shape, shape))
    ):
        raise DamagedRecording(
            f"meta.distributed of {store.location} puts {spec.name} {spec.shape} at {offset} of {shape}, outside of it"
        )
    return shape, offset


def _frames_of(store: Store, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frame numbers at which a rank holds these steps, which it does; lost frames (step -1) are none of them."""
    known = np.flatnonzero(store.steps >= 0)
    known = known[np.argsort(store.steps[known], kind="stable")]
    return known[np.searchsorted(store.steps[known], steps)]


def _overlap(axis: range, start: int, length: int) -> tuple[slice, slice]:
    """Of the indices in ``axis`` those in ``[start, start + length)``: as a slice of the shard, and as positions within ``axis``."""
    first = max(0, -((axis.start - start) // axis.step)) if len(axis) else 0
    stop = min(len(axis), -((axis.start - start - length) // axis.step)) if len(axis) else 0
    if stop <= first:
        return slice(0, 0), slice(0, 0)
    return slice(axis[first] - start, axis[stop - 1] - start + 1, axis.step), slice(first, stop)
