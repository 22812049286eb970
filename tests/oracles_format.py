"""A second reader of whole recordings, written from docs/format.md alone: slow, strict, and sharing nothing with the package.

It is a conformance test of the page: what the page does not say, it cannot read. Anything that does not hold is an AssertionError.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracles_store import ITEM, read_chunk

FRAMES = (b"FRAM", b"FRMP", b"FRPK")
UNSEALED_KINDS = (b"HEAD", b"SEGM", b"BLCK")
Frame = dict[str, bytes]


@dataclass
class Part:
    """What one file holds: frames ``first``, ``first + 1``, ..., and the file's number."""

    number: int
    first: int
    steps: list[int]
    layout: list[dict[str, Any]]
    frames: list[Frame]


@dataclass
class Line:
    frames: list[int] = field(default_factory=list)  # their numbers, in the order of this line
    steps: list[int] = field(default_factory=list)
    layouts: list[list[dict[str, Any]]] = field(default_factory=list)
    values: list[Frame] = field(default_factory=list)
    scalars: dict[str, list[float]] = field(default_factory=dict)
    events: list[tuple[int, str]] = field(default_factory=list)
    gaps: list[tuple[int, int, str]] = field(default_factory=list)


@dataclass
class Whole:
    """All that a recording says: its main line, and the branches by name."""

    manifest: dict[str, Any]
    main: Line
    branches: dict[str, Line]
    closed: bool
    wiring: str | None
    stopped: str | None


def _two_bytes(tensor: dict[str, Any]) -> bool:
    """Whether a value (a complex one as a whole) takes two bytes."""
    return ITEM[tensor["dtype"]] * (2 if tensor["dtype"].startswith(("complex", "bcomplex")) else 1) == 2


def _block(width: int, words: Iterator[int]) -> list[int]:
    """32 numbers of so many bits."""
    taken = [next(words) for _ in range(width)]
    return [sum((word >> j & 1) << i for i, word in enumerate(taken)) for j in range(32)]


def _bytes_of(numbers: list[int], step: float, dtype: str, nbytes: int, *, two: bool) -> bytes:
    """What numbers stand for, as the bytes of the tensor."""
    if step == 0:
        bits = 16 if two else 32
        data = b"".join((n % (1 << bits)).to_bytes(bits // 8, "little") for n in numbers)
        assert data[nbytes:].strip(b"\0") == b""
        return data[:nbytes]
    values = np.array([((n + (1 << 31)) % (1 << 32)) - (1 << 31) for n in numbers]).astype(np.float64) * step
    if dtype == "bfloat16":
        wide = values.astype(np.float32).view(np.uint32).astype(np.int64)
        return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype("<u2").tobytes()
    return values.astype(dtype).tobytes()


class Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = (folder / "manifest.json").read_bytes()
        self.manifest = json.loads(data)
        assert self.manifest["format"] == "weightlapse recording"
        assert self.manifest["version"] in (1, 2, 3)
        assert self.manifest["byte_order"] == "little"
        assert re.fullmatch("[0-9a-f]{32}", self.manifest["id"])
        self.id = bytes.fromhex(self.manifest["id"])
        self.key = zlib.crc32(self.id)
        self.old_allowed = self.manifest["version"] == 1 or self.manifest.get("born") == 1
        self.journal = self._journal(data)

    # ---- records ---------------------------------------------------------------------------------------------------

    def records(
        self, data: bytes, *, sealed: bool, first_frame: int | None = None
    ) -> list[tuple[bytes, int, bytes, int]]:
        """(kind, number, payload, offset) of every record of a file that is whole."""
        found: list[tuple[bytes, int, bytes, int]] = []
        at = frames = 0
        while at < len(data):
            magic, kind, length, number, crc, own = struct.unpack_from("<4s4sQqII", data, at)
            assert magic == b"WLPS", (kind, at)
            place = at
            if kind in FRAMES:
                if first_frame is None:
                    first_frame = found[0][1]
                place = first_frame + frames
                frames += 1
            seal = (self.key + place) & 0xFFFFFFFF if sealed and kind not in UNSEALED_KINDS else 0
            assert own == zlib.crc32(data[at : at + 28], seal if kind in FRAMES else 0), (kind, at)
            payload = data[at + 32 : at + 32 + length]
            assert len(payload) == length
            if kind == b"FRMP":
                row = struct.unpack_from("<6Q", found[0][2])
                sums = payload[row[2] :]
                assert zlib.crc32(sums, seal) == crc
                pages = [payload[p : min(p + row[5], row[2])] for p in range(0, row[2], row[5])]
                assert struct.pack(f"<{len(pages)}I", *map(zlib.crc32, pages)) == sums
                payload = payload[: row[2]]
            elif kind == b"FRPK":
                (head,) = struct.unpack_from("<I", payload, 8)
                assert head % 8 == 0
                assert zlib.crc32(payload[:head], seal) == crc
            else:
                assert zlib.crc32(payload, seal) == crc, (kind, at)
            found.append((kind, number, payload, at))
            at += 32 + -(-length // 8) * 8
            assert data[found[-1][3] + 32 + length : at].strip(b"\0") == b""
        return found

    def _journal(self, manifest: bytes) -> list[tuple[bytes, int, bytes, int]]:
        name = self.manifest.get("journal", "journal.log")
        assert name in ("journal.log", f"journal-{self.manifest['id'][:8]}.log")
        data = (self.folder / name).read_bytes()
        sealed = data[4:8] == b"HEAD"
        assert sealed or self.old_allowed
        found = self.records(data, sealed=sealed)
        if sealed:
            assert found[0][2] == manifest
            found = found[1:]
        assert found[0][0] == b"LAYT"
        return found

    # ---- frames ----------------------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """Every file of the recording, blocks before the logs of the same number."""
        found: dict[int, Part] = {}
        for below, pattern in (("log", r"(\d{6,})\.seg"), ("blocks", r"(\d{6,})\.blk")):
            for file in sorted((self.folder / below).glob("*")):
                named = re.fullmatch(pattern, file.name)
                if not named or (below == "log" and file.stat().st_size < 96):
                    continue
                part = (self._segment if below == "log" else self._block)(file.read_bytes(), int(named[1]))
                if part is None:
                    continue
                if part.number in found:
                    assert found[part.number].steps == part.steps, "both hold the same frames"
                found[part.number] = part
        return sorted(found.values(), key=lambda part: part.number)

    def _belongs(self, id: bytes | None, number: int, name: int) -> bool:
        """Whether a file counts; what an overwrite left behind does not."""
        replaced = self.manifest.get("replaced")
        if id is None:
            if replaced == "" and number < self.manifest.get("first_segment", 0):
                return False
            assert self.old_allowed
        elif id != self.id:
            assert replaced is not None
            assert id.hex() == replaced
            return False
        assert number == name
        return True

    def _layout(self, crc: int, copies: list[bytes]) -> list[dict[str, Any]]:
        every = [payload for kind, _, payload, _ in self.journal if kind == b"LAYT"]
        return next(json.loads(p)["tensors"] for p in [*every, *copies] if zlib.crc32(p) == crc)

    def _segment(self, data: bytes, name: int) -> Part | None:
        assert data[4:8] == b"SEGM"
        (length,) = struct.unpack_from("<Q", data, 8)
        opening = data[32 : 32 + length]
        sealed = length > 32
        numbers = struct.unpack("<6Q", opening[:48]) if sealed else (*struct.unpack("<4Q", opening), 64, 0)
        if not self._belongs(opening[48:] if sealed else None, numbers[0], name):
            return None
        found = self.records(data, sealed=sealed)
        frames = [r for r in found if r[0] in FRAMES]
        assert not frames or frames[0][3] == numbers[4]
        assert {r[0] for r in frames} <= {{0: b"FRAM", 1: b"FRPK"}.get(numbers[5], b"FRMP")}
        assert numbers[5] != 1 or self.manifest["version"] == 3
        if sealed:
            before = found[: len(found) - len(frames)]
            assert [r[0] for r in before][:2] == [b"SEGM", b"LAYT"]
            assert before[-1][:3] == before[0][:3]
        layout = self._layout(numbers[3], [p for kind, _, p, _ in found if kind == b"LAYT"])
        if numbers[5] == 1:
            values = self._unpacked([r[2] for r in frames], layout)
        else:
            values = [self._frame(r[2], layout) for r in frames]
        return Part(numbers[0], found[0][1], [r[1] for r in frames], layout, values)

    def _unpacked(self, payloads: list[bytes], layout: list[dict[str, Any]]) -> list[Frame]:
        """The frames of a segment of packed ones."""
        found: list[Frame] = []
        before: dict[str, tuple[float, list[int]]] = {}
        for k, payload in enumerate(payloads):
            number, page, head, tensors, widths, words = struct.unpack_from("<4I2Q", payload)
            assert (number, page, tensors) == (k, 65536, len(layout))
            entries = [struct.unpack_from("<2d2Q2I", payload, 32 + 40 * i) for i in range(tensors)]
            data = payload[head:]
            pages = [data[at : at + page] for at in range(0, len(data), page)]
            at = 32 + 40 * tensors
            assert payload[at : at + 4 * len(pages)] == struct.pack(f"<{len(pages)}I", *map(zlib.crc32, pages))
            assert payload[at + 4 * len(pages) : head].strip(b"\0") == b""
            assert head == -(-(at + 4 * len(pages)) // 8) * 8
            sizes = self.sizes(layout)
            counts = [-(-n * item // (2 if _two_bytes(t) else 4)) for t, (_, n, item) in zip(layout, sizes)]
            groups = sum(-(-count // 1024) for count in counts)
            outer = -(-groups // 4) * 4
            assert len(data) == outer + 4 * (widths + words)
            assert data[groups:outer].strip(b"\0") == b""
            sources = [
                iter(struct.unpack(f"<{widths}I", data[outer : outer + 4 * widths])),
                iter(struct.unpack(f"<{words}I", data[outer + 4 * widths :])),
            ]
            taken, group, frame = [0, 0], 0, {}
            for (step, bound, first, second, key, zero), t, (name, n, item), count in zip(
                entries, layout, sizes, counts
            ):
                assert [first, second, zero] == [*taken, 0]
                assert key in (0, 1)
                assert key == 1 or k > 0
                assert step >= 0
                assert bound >= 0
                assert step == 0 or t["dtype"] in ("float32", "bfloat16", "float16")
                numbers: list[int] = []
                for _ in range(-(-count // 1024)):
                    own = _block(data[group], sources[0])
                    taken[0] += data[group]
                    group += 1
                    for width in own:
                        numbers += [(z >> 1) ^ -(z & 1) for z in _block(width, sources[1])]
                        taken[1] += width
                assert not any(numbers[count:])
                numbers = numbers[:count]
                if not key:
                    assert before[name][0] == step
                    numbers = [a + b for a, b in zip(before[name][1], numbers)]
                before[name] = (step, numbers)
                frame[name] = _bytes_of(numbers, step, t["dtype"], n * item, two=_two_bytes(t))
            assert [next(source, None) for source in sources] == [None, None]
            found.append(frame)
        return found

    def _frame(self, row: bytes, layout: list[dict[str, Any]]) -> Frame:
        frame, at = {}, 0
        for name, count, item in self.sizes(layout):
            frame[name] = row[at : at + count * item]
            at += -(-count * item // 8) * 8
        assert at == len(row)
        return frame

    @staticmethod
    def sizes(layout: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
        """(name, numbers, bytes of a number) of each tensor; a complex value is two numbers."""
        return [
            (t["name"], math.prod(t["shape"]) * (2 if t["dtype"].startswith("complex") else 1), ITEM[t["dtype"]])
            for t in layout
        ]

    def _block(self, data: bytes, name: int) -> Part | None:
        assert data[4:8] == b"BLCK"
        (length,) = struct.unpack_from("<Q", data, 8)
        sealed = length > 56
        number, _, row_nbytes, crc, count, height, index = struct.unpack_from("<7Q", data, 32)
        if not self._belongs(data[32 + 56 : 32 + length] if sealed else None, number, name):
            return None
        found = self.records(data, sealed=sealed)
        kinds = [r[0] for r in found]
        assert kinds[-1] == b"INDX"
        assert found[-1][3] == index
        assert kinds[1] == b"STEP"
        steps = list(struct.unpack(f"<{count}q", zlib.decompress(found[1][2][length:])))
        layout = self._layout(crc, [p for kind, _, p, _ in found if kind == b"LAYT"])
        sizes = self.sizes(layout)
        assert row_nbytes == sum(-(-n * item // 8) * 8 for _, n, item in sizes)
        frames = [{tensor: bytearray(n * item) for tensor, n, item in sizes} for _ in range(count)]
        heads: list[tuple[int, int, int]] = []
        for kind, named, payload, offset in found:
            if kind == b"CHNK":
                assert named in (0, number + 1)
                heads.append(self._chunk(payload, offset, sealed, frames, sizes, height))
        self._index(found[-1][2], sealed, heads, -(-count // height), steps, len(layout))
        return Part(number, found[0][1], steps, layout, [{k: bytes(v) for k, v in frame.items()} for frame in frames])

    def _chunk(
        self, payload: bytes, offset: int, sealed: bool, frames: Any, sizes: Any, height: int
    ) -> tuple[int, int, int]:
        """Put a chunk's values into the frames; returns where it is, its length and the checksum of its head."""
        row, rows, pieces = struct.unpack_from("<3I", payload)
        start = 16 if sealed else 12
        table = [struct.unpack_from("<IQQ", payload, start + 20 * k) for k in range(pieces)]
        at = -(-(start + 20 * pieces) // 8) * 8
        chunk = payload[at:]
        assert row % height == 0
        (head,) = struct.unpack_from("<I", chunk, 4)
        if sealed:
            check = zlib.crc32(struct.pack("<3I", row, rows, head) + payload[start : start + 20 * pieces], self.key)
            assert struct.unpack_from("<I", payload, 12)[0] == check
        columns = read_chunk(chunk)
        assert columns.shape == (rows, sum(stop - first for _, first, stop in table))
        done = 0
        for tensor, first, stop in table:
            name, _, item = sizes[tensor]
            assert columns.itemsize == item
            for t in range(rows):
                frames[row + t][name][first * item : stop * item] = columns[t, done : done + stop - first].tobytes()
            done += stop - first
        return offset + 32 + at, len(chunk), head

    def _index(
        self,
        payload: bytes,
        sealed: bool,
        heads: list[tuple[int, int, int]],
        blocks: int,
        steps: list[int],
        tensors: int,
    ) -> None:
        """The index says again what the other records say."""
        if sealed:
            assert payload[:16] == self.id
            payload = payload[16:]
        data = zlib.decompress(payload)
        chunks, pieces, bounds, count = struct.unpack_from("<4Q", data)
        assert len(heads) == chunks * blocks
        assert bounds in (0, tensors)
        at = 32 + 4 * chunks + 20 * pieces
        places = struct.unpack_from(f"<{2 * len(heads)}Q", data, at)
        assert list(zip(places[::2], places[1::2])) == [(offset, length) for offset, length, _ in heads]
        at += 16 * len(heads)
        if sealed:
            assert list(struct.unpack_from(f"<{len(heads)}I", data, at)) == [head for *_, head in heads]
            at += 4 * len(heads)
        at += 8 * blocks * bounds
        assert list(struct.unpack_from(f"<{count}q", data, at)) == steps
        assert at + 8 * count == len(data)

    # ---- all of it -------------------------------------------------------------------------------------------------

    def whole(self) -> Whole:
        frames: dict[int, tuple[int, list[dict[str, Any]], Frame]] = {}
        for part in self.parts():  # of two files that hold a frame the one with the higher number counts
            for k, (step, frame) in enumerate(zip(part.steps, part.frames)):
                frames[part.first + k] = step, part.layout, frame
        numbers: list[int] = sorted(frames)
        assert numbers == list(range(len(numbers))), "no frame is missing"
        main, branches = Line(), {}
        names: dict[int, str] = {}
        logged: list[tuple[int, int, float]] = []
        closed, wiring, stopped = False, None, None
        forks = [(number, json.loads(p)) for kind, number, p, _ in self.journal if kind == b"FORK"]
        order = list(range(forks[0][0] if forks else len(numbers)))
        told: dict[str, Line] = {}
        for kind, number, payload, _ in self.journal:
            closed = kind == b"CLOS"
            if kind == b"NAME":
                names[number] = payload.decode()
            elif kind == b"SCAL":
                logged += list(struct.iter_unpack("<qqd", payload))
            elif kind == b"OPEN":
                stopped = None
                logged = [entry for entry in logged if entry[0] < number]
            elif kind == b"EVNT":
                main.events.append((number, payload.decode()))
            elif kind == b"STOP":
                stopped = payload.decode()
            elif kind == b"GAP_":
                gap = json.loads(payload)
                main.gaps.append((number, gap["last"], gap["reason"]))
            elif kind == b"WIRE":
                wiring = payload.decode()
            elif kind == b"CLOS":
                assert number <= len(numbers)
            elif kind == b"FORK":
                fork = json.loads(payload)
                branch = told[fork["name"]] = Line(order[fork["keep"] :])
                branch.events = [e for e in main.events if e[0] > fork["step"]]
                branch.gaps = [g for g in main.gaps if g[0] > fork["step"]]
                main.events = [e for e in main.events if e[0] <= fork["step"]]
                main.gaps = [g for g in main.gaps if g[0] <= fork["step"]]
                following = next((n for n, _ in forks if n > number), len(numbers))
                order = order[: fork["keep"]] + list(range(number, following))
        assert not closed or self.journal[-1][1] == len(numbers)
        main.frames = order
        branches = told
        for line in (main, *branches.values()):
            line.steps = [frames[f][0] for f in line.frames]
            line.layouts = [frames[f][1] for f in line.frames]
            line.values = [frames[f][2] for f in line.frames]
            where = {f: k for k, f in enumerate(line.frames)}
            line.scalars = {name: [math.nan] * len(line.frames) for name in names.values()}
            for frame, id, value in logged:
                if frame in where:
                    line.scalars[names[id]][where[frame]] = value
        return Whole(self.manifest, main, branches, closed, wiring, stopped)


def read(folder: Path) -> Whole:
    return Reader(folder).whole()


def patterns(frame: Frame, name: str, like: np.ndarray) -> np.ndarray:
    """A tensor of a frame as an array of the dtype and shape of ``like``."""
    return np.frombuffer(frame[name], like.dtype).reshape(like.shape)
