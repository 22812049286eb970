"""The camera: copies what a model holds into the ring, in a new layout where its tensors are no longer those of the old one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weightlapse.adapters.source import Source
from weightlapse.capture.keeping import KeepingWriter
from weightlapse.capture.layouts import difference, layout_of, rows_of
from weightlapse.capture.packed_ring import Packing, make_ring
from weightlapse.capture.pump import Pump
from weightlapse.capture.ring import Ring
from weightlapse.errors import CannotRecord
from weightlapse.store.layout import Layout
from weightlapse.store.writer import Writer

_RESTLESS = "the model's tensors change while they are being read: record from the thread that trains"


class Camera:
    """Frames of ``source``. :meth:`copy` fills the ring's next row, :meth:`publish` gives it to the recorder's thread."""

    def __init__(
        self,
        source: Source,
        writer: Writer | KeepingWriter,
        ring: Ring,
        *,
        memory: int | None,
        packing: Packing | None = None,
        stretch: bool,
        renewed: Callable[[Ring, Layout], None],
        replaced: Callable[[], None],
    ) -> None:
        """``stretch``: full rings are no reason to wait.

        ``renewed`` is told of the ring and layout, at once and when they change; ``replaced`` when parameters are others than before.
        """
        self.source = source
        self.ring = ring
        self.layout = writer.layout
        self.pump = Pump(writer, ring)
        self.stretch = stretch
        self.on_device = source.on_device
        self.reads_gradients = source.graded
        self.announced = False  # whether every update is announced, so that copies from a device may run until then
        self._memory = memory
        self._packing = packing if writer.takes_packed else None
        self._renewed = renewed
        self._replaced = replaced
        self._generation = source.generation
        self._base = writer.frames  # frames written before this ring's first
        self._branched = writer.branched  # of them those that a rewound recording has left behind
        self._stale = False  # whether the source must be listed anew before it is copied
        self._graded: int | None = None  # the row that holds the gradients of the update under way
        self.bind()

    def bind(self) -> None:
        """From now on copy into the rows of the present ring, or pack where it has none; whoever is to know of a new ring is told."""
        self.source.bind(rows_of(self.layout, self.ring.rows) if self.ring.has_rows else None)
        self._renewed(self.ring, self.layout)

    @property
    def taken(self) -> int:
        """Frames ever taken, on all branches: the number of the next one."""
        return self._base + self.ring.filled

    @property
    def frames(self) -> int:
        """Frames of the recording so far; of one that keeps only some those that are written."""
        taken = self.pump.writer.recorded if self.pump.writer.numbers_first else self.taken
        return taken - self._branched

    def has_room(self) -> bool:
        """Whether there is a row for the next frame; waits for one, unless that is in vain or not wanted."""
        ring = self.ring
        return ring.has_room() or (not self.stretch and ring.wait_for_room(lambda: self.pump.stuck))

    def settle(self) -> None:
        """Let the device wait for copies that are under way before it changes what they copy."""
        if self.on_device:
            self.source.settle()

    def before(self, step: int) -> None:
        """The update ``step`` begins: read the gradients, before it can change them."""
        if self._stale or not self.source.refresh():
            self.relayout(None, step)
        self.source.before(self.ring.slot)
        self._graded = self.ring.slot

    def before_any(self) -> None:
        """Prepares the next row for a frame before any update: its gradients are NaN."""
        self.source.before_any(self.ring.slot)
        self._graded = self.ring.slot

    def copy(self, params: Any, step: int) -> None:
        """The present values into the ring's next row."""
        ring = self.ring
        if self._stale or not self.source.copy(ring.filled % ring.capacity, params):
            self.relayout(params, step)
            if not self.source.copy(self.ring.slot, params):
                raise CannotRecord(_RESTLESS)
        if self._generation != (generation := self.source.generation):
            self._generation = generation
            self._replaced()
        if self.reads_gradients and self._graded != self.ring.slot:
            self.source.before(self.ring.slot)  # nobody said that an update begins: the gradients as they are now
        self._graded = None

    def publish(self, step: int) -> None:
        """The row is a frame; where it is still being copied from a device, the recorder's thread waits for it."""
        if not self.on_device:
            self.ring.publish(step)
            return
        self.ring.publish(step, self.source.pending)
        if not self.announced:  # nobody will say when the next update begins: it might be at once
            self.source.settle()

    def relayout(self, params: Any, step: int, *, note: str = "", lineage: Any = None) -> None:
        """The arrays are no longer those of the layout: from ``step`` on another layout holds."""
        self._stale = True  # until all of the following is done
        if self.source.shards:
            raise CannotRecord("a sharded model changed its tensors, which cannot be recorded on many processes")
        layout = layout_of(self.source.arrays(params))
        note = note or difference(self.layout.tensors, layout.tensors)
        ring = make_ring(self.source, layout, self._memory, self._packing)
        taken = self.taken

        def begin(writer: Writer) -> None:
            writer.relayout(layout, note, lineage)
            writer.event(step, note)

        if not self.pump.exchange(ring, begin):
            raise CannotRecord(
                f"the model has other tensors now, and the store takes nothing at the moment ({self.pump.paused})"
            )
        self._base, self.ring, self.layout = taken, ring, layout
        self.bind()
        self._stale = False
