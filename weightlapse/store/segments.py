"""Which segments a recording has: the files of ``blocks/`` and ``log/``, put in order, with what is missing between them named."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.belonging import Belonging, Leftover
from weightlapse.store.block import block_name
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.cache import Cache
from weightlapse.store.files import File
from weightlapse.store.folder import Folder
from weightlapse.store.layout import Layout
from weightlapse.store.lines import OPEN_END, Ranges
from weightlapse.store.packed_segment import open_segment
from weightlapse.store.raw import RawSegment, segment_name
from weightlapse.store.segment import Begun, Damage, Frames, LostSegment, Out, Region, Segment, SegmentPart

STUB_NBYTES = 96  # a shorter log file holds no frame, whatever else it holds
_TRIES = 8  # a compaction may finish between listing and opening; eight in a row will not
_MOST_LOST = 1 << 20


class TwoCopies:
    """A segment whose log and block are both there: what the first of them has lost is read from the other."""

    def __init__(self, first: BlockSegment | RawSegment, open_other: Callable[[], BlockSegment | RawSegment]) -> None:
        self.copy = first
        self.open_other = open_other
        self._other: BlockSegment | RawSegment | None = None
        self._looked = False
        self.first, self.count, self.layout, self.steps = first.first, first.count, first.layout, first.steps

    @property
    def other(self) -> BlockSegment | RawSegment | None:
        """The second copy, where it holds the same frames."""
        if not self._looked:
            self._looked = True
            try:
                other = self.open_other()
            except (DamagedRecording, FileNotFoundError):
                return None
            if (other.first, other.count, other.layout) == (self.first, self.count, self.layout):
                self._other = other
        return self._other

    def _either(self, read: Callable[[Any], Any]) -> Any:
        try:
            return read(self.copy)
        except DamagedRecording:
            if self.other is None:
                raise
            return read(self.other)

    def read(self, tensor: int, frames: Frames, region: Region) -> NDArray[Any]:
        """As `Segment.read`, from the first copy, or, where that is damaged, from the other. Raises where both are."""
        values: NDArray[Any] = self._either(lambda segment: segment.read(tensor, frames, region))
        return values

    def begin(self, tensor: int, frames: Frames, region: Region) -> Begun:
        """As `Segment.begin`; a fault that shows in either half is made good by reading from the other copy."""
        try:
            fresh, finish = self.copy.begin(tensor, frames, region)
        except DamagedRecording:
            return [], lambda: self.read(tensor, frames, region)

        def finish_either() -> NDArray[Any]:
            try:
                return finish()
            except DamagedRecording:
                return self.read(tensor, frames, region)

        return fresh, finish_either

    def read_frame(self, tensors: Sequence[int], frame: int, out: Out = None) -> list[NDArray[Any]]:
        """As `Segment.read_frame`, from whichever copy can be read; ``out`` is filled anew by the second try."""
        values: list[NDArray[Any]] = self._either(lambda segment: segment.read_frame(tensors, frame, out))
        return values

    def bound(self, tensor: int, frame: int) -> float:
        """The larger bound of both copies, once the other was opened: values may have come from it."""
        other = self._other  # where values may have come from it
        return max(self.copy.bound(tensor, frame), 0.0 if other is None else other.bound(tensor, frame))

    def bound_changes(self) -> range:
        """Those of the copy that has more of them, which has those of the other among them."""
        changes = [c.bound_changes() for c in (self.copy, self._other) if c is not None]
        return max(changes, key=len)

    def verify(self) -> list[Damage]:
        """The damages of the first copy; where the other is whole there they cost no frames, and say which file still holds them."""
        found = self.copy.verify()
        if not found or self.other is None:
            return found
        lost = {k for d in self.other.verify() for k in range(d.first, d.stop)}
        told = []
        for damage in found:
            whole = not lost.intersection(range(damage.first, damage.stop))
            what = f"{damage.what}; {self.other.file} still holds it" if whole else damage.what
            told.append(Damage(damage.file, what, *((0, 0) if whole else (damage.first, damage.stop))))
        return told


class SegmentList:
    """Finds segments again and again while a recording grows; files that have not changed are not opened anew."""

    def __init__(self, folder: Folder, cache: Cache, ours: Belonging) -> None:
        self._folder = folder
        self._cache = cache
        self._ours = ours
        self._open: dict[str, tuple[Hashable, int, Any]] = {}
        self.damages: list[Damage] = []  # of whole files
        self.leftovers: list[str] = []  # files of the recording that this one replaced
        self.stubs: list[str] = []  # segments that were never begun
        self.last_number = -1
        self.written = 0  # frames that were ever written, on all lines

    def find(self, frames: int) -> list[Segment]:
        """All segments by first frame; a :class:`LostSegment` stands for each run of frames (of ``frames`` at least) without a file."""
        for attempt in range(_TRIES):
            try:
                return self._in_order(self._found(), frames)
            except FileNotFoundError:  # a log became a block after it was listed
                if attempt == _TRIES - 1:
                    raise DamagedRecording(
                        f"files of {self._folder.location} come and go while they are read"
                    ) from None
        raise AssertionError

    def _found(self) -> list[tuple[int, Segment]]:
        # the log is listed first: what has left it by then is in blocks
        logs = _numbered(self._folder.names("log"), ".seg")
        blocks = _numbered(self._folder.names("blocks"), ".blk")
        self.damages, self.leftovers, self.stubs = [], [], []
        self.last_number = max((*logs, *blocks), default=-1)
        found: list[tuple[int, Segment]] = []
        for number in sorted({*logs, *blocks}):
            is_last = number == self.last_number
            block = self._block(number) if number in blocks else None
            if block is not None and number in logs:
                found.append((number, self._both(number, block, is_last=is_last)))
                continue
            segment = block if block is not None else self._raw(number, is_last=is_last) if number in logs else None
            if segment is not None:
                found.append((number, segment))
        return found

    def _known(self, file: File, *more: Any) -> Any:
        known = self._open.get(file.name)
        return known[2] if known is not None and known[:2] == ((file.key, *more), file.size) else None

    def _block(self, number: int) -> BlockSegment | None:
        name = block_name(number)
        try:
            file = self._folder.open(name)
            known = self._known(file)
            if known is None:
                known = BlockSegment(number, file, self._ours, self._cache)
                self._open[name] = ((file.key,), file.size, known)
            return known  # type: ignore[no-any-return]
        except DamagedRecording as error:
            self._note(name, error)
            return None

    def _open_raw(self, number: int, *, is_last: bool) -> RawSegment:
        file = self._folder.open(segment_name(number))
        known = self._known(file, is_last)
        if known is None:
            known = open_segment(number, file, self._ours, is_last=is_last)
            self._open[file.name] = ((file.key, is_last), file.size, known)
        return known  # type: ignore[no-any-return]

    def _both(self, number: int, block: BlockSegment, *, is_last: bool) -> Segment:
        """The block counts, unless it had to be searched for what it holds."""
        if block.rebuilt is not None:
            try:
                return TwoCopies(self._open_raw(number, is_last=is_last), lambda: block)
            except DamagedRecording:
                return block
        return TwoCopies(block, lambda: self._open_raw(number, is_last=is_last))

    def _raw(self, number: int, *, is_last: bool) -> RawSegment | None:
        try:
            return self._open_raw(number, is_last=is_last)
        except DamagedRecording as error:
            if self._size(segment_name(number)) < STUB_NBYTES:  # its writer was killed, or begins it now
                self.stubs.append(segment_name(number))
            else:
                self._note(segment_name(number), error)
            return None

    def _size(self, name: str) -> int:
        try:
            return self._folder.open(name).size
        except (DamagedRecording, FileNotFoundError):
            return 1 << 62

    def _note(self, name: str, error: DamagedRecording) -> None:
        if isinstance(error, Leftover):
            self.leftovers.append(name)
        else:
            self.damages.append(Damage(name, str(error)))

    def _in_order(self, found: list[tuple[int, Segment]], frames: int) -> list[Segment]:
        """Frames that two files hold count where they were written last: a writer that could not take a write back went on in the next file."""
        ordered: list[Segment] = []
        expected = 0
        pairs = sorted(found, key=lambda entry: (entry[1].first, entry[0]))
        for i, (_, segment) in enumerate(pairs):
            following = min((s.first for n, s in pairs[i + 1 :] if n > pairs[i][0]), default=1 << 62)
            count = min(segment.count, max(following - segment.first, 0))
            if isinstance(segment, RawSegment) and count < segment.count:
                segment.cut_to(count)
            skipped = max(expected - segment.first, 0)
            if count <= skipped:
                continue
            if segment.first > expected:
                if segment.first - expected > _MOST_LOST:
                    self.damages.append(
                        Damage(
                            "log", f"a file claims frame {segment.first}, {segment.first - expected} behind all others"
                        )
                    )
                    continue
                ordered.append(self._lost(expected, segment.first))
            whole = (skipped, count) == (0, segment.count)
            ordered.append(
                segment if whole else SegmentPart(segment, skipped, count - skipped, segment.first + skipped)
            )
            expected = segment.first + count
        if frames - expected > _MOST_LOST:  # the claim of a hostile number: not worth an array
            self.damages.append(Damage("log", f"{frames} frames are claimed, and no file holds more than {expected}"))
        elif frames > expected:
            ordered.append(self._lost(expected, frames))
            expected = frames
        self.written = expected
        return ordered

    def _lost(self, first: int, stop: int) -> LostSegment:
        epochs = self._ours.journal.epochs
        layout = next(
            (e.layout for e in reversed(epochs) if e.start <= first), epochs[0].layout if epochs else Layout([])
        )
        reasons = "; ".join(f"{d.file}: {d.what}" for d in self.damages) or "deleted or cut short?"
        return LostSegment(first, stop - first, layout, f"no file of {self._folder.location} holds them ({reasons})")


def on_line(segments: list[Segment], line: Ranges) -> list[Segment]:
    """The segments of a line, or the parts of them that are on it, numbered along it."""
    if line == ((0, OPEN_END),):
        return segments
    found: list[Segment] = []
    at = 0
    for first, stop in line:
        for segment in segments:
            a, b = max(first, segment.first), min(stop, segment.first + segment.count)
            if a < b:
                found.append(SegmentPart(segment, a - segment.first, b - a, at))
                at += b - a
    return found


def _numbered(names: list[str], suffix: str) -> set[int]:
    """The numbers of the files that bear the name of a segment: six digits, more only where six are not enough."""
    stems = (n[: -len(suffix)] for n in names if n.endswith(suffix))
    return {int(s) for s in stems if s.isascii() and s.isdigit() and f"{int(s):06d}" == s}


def rising(segments: list[Segment]) -> bool:
    """Whether the known steps rise from each of these segments to the next, as they do on every line."""
    last = -1
    for segment in segments:
        known = segment.steps[segment.steps >= 0]
        if len(known):
            if known[0] <= last:
                return False
            last = int(known[-1])
    return True
