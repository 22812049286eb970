"""Damage to a recording, one change at a time: what disks, copies, editors and attackers do to files."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Draw = random.Random


class Record(NamedTuple):
    """A record of a file, found by its magic and the length that it says; nothing of the package's own code is used here."""

    start: int
    end: int
    kind: bytes


def records_of(data: bytes) -> list[Record]:
    found, at = [], 0
    while at + 32 <= len(data):
        magic, kind, length = struct.unpack_from("<4s4sQ", data, at)
        end = at + 32 + -(-length // 8) * 8
        if magic != b"WLPS" or end > len(data):
            break
        found.append(Record(at, end, kind))
        at = end
    return found


def files_of(run: Path) -> list[Path]:
    return sorted(p for p in run.rglob("*") if p.is_file() and p.name != "lock")


def _file(run: Path, draw: Draw) -> Path:
    """Any file of the recording; small ones as often as large ones."""
    return draw.choice(files_of(run))


def _rewrite(file: Path, data: bytes | bytearray) -> str:
    file.write_bytes(data)
    return file.name


# ---- bytes ---------------------------------------------------------------------------------------------------------


def bit(run: Path, twin: Path, draw: Draw) -> str:
    file = _file(run, draw)
    data = bytearray(file.read_bytes())
    for _ in range(draw.choice([1, 1, 1, 8])):
        if data:
            at = draw.randrange(len(data))
            data[at] ^= 1 << draw.randrange(8)
    return _rewrite(file, data)


def byte_of_a_header(run: Path, twin: Path, draw: Draw) -> str:
    """Headers are a small part of a file, and all that a reader believes."""
    file = _file(run, draw)
    data = bytearray(file.read_bytes())
    found = records_of(data)
    if found:
        record = draw.choice([found[0], found[-1], draw.choice(found)])
        data[record.start + draw.randrange(min(48, record.end - record.start))] ^= draw.randrange(1, 256)
    return _rewrite(file, data)


def cut(run: Path, twin: Path, draw: Draw) -> str:
    file = _file(run, draw)
    data = file.read_bytes()
    found = records_of(data)
    places = [draw.randrange(len(data) + 1), max(0, len(data) - draw.randrange(1, 64))]
    if found:
        places += [draw.choice(found).start, draw.choice(found).start + 32, found[-1].start + draw.randrange(1, 32)]
    return _rewrite(file, data[: min(draw.choice(places), max(len(data) - 1, 0))])


def zeros(run: Path, twin: Path, draw: Draw) -> str:
    """A page that never reached the disk."""
    file = _file(run, draw)
    data = bytearray(file.read_bytes())
    page = draw.choice([8, 64, 512, 4096])
    at = draw.randrange(len(data) // page + 1) * page
    data[at : at + page] = bytes(len(data[at : at + page]))
    return _rewrite(file, data)


def zeros_at_the_end(run: Path, twin: Path, draw: Draw) -> str:
    """A file that got its length and not its content, as after a power cut."""
    file = _file(run, draw)
    data = file.read_bytes()
    at = draw.randrange(len(data) + 1)
    return _rewrite(file, data[:at] + bytes(len(data) - at + draw.choice([0, 0, 4096])))


def noise(run: Path, twin: Path, draw: Draw) -> str:
    file = _file(run, draw)
    data = bytearray(file.read_bytes())
    at, length = draw.randrange(len(data) + 1), draw.choice([1, 8, 100, 5000])
    data[at : at + length] = draw.randbytes(len(data[at : at + length]))
    return _rewrite(file, data)


def inserted(run: Path, twin: Path, draw: Draw) -> str:
    file = _file(run, draw)
    data = bytearray(file.read_bytes())
    at = draw.choice([draw.randrange(len(data) + 1), len(data)])
    data[at:at] = draw.randbytes(draw.choice([1, 8, 64, 1000]))
    return _rewrite(file, data)


def taken_out(run: Path, twin: Path, draw: Draw) -> str:
    file = _file(run, draw)
    data = bytearray(file.read_bytes())
    count = draw.choice([1, 8, 64, 1000])
    at = draw.randrange(max(len(data) - count, 1))  # something follows: without it the file would only be cut short
    del data[at : at + count]
    return _rewrite(file, data)


def newlines(run: Path, twin: Path, draw: Draw) -> str:
    """A transfer that took the file for text."""
    file = _file(run, draw)
    return _rewrite(file, file.read_bytes().replace(b"\n", b"\r\n"))


# ---- whole records -------------------------------------------------------------------------------------------------


def _with_records(run: Path, draw: Draw, change: Callable[[bytes, list[Record]], bytes]) -> str:
    file = draw.choice([p for p in files_of(run) if p.suffix in (".log", ".seg", ".blk")] or files_of(run))
    data = file.read_bytes()
    found = records_of(data)
    return _rewrite(file, change(data, found) if len(found) > 1 else data[:-1])


def record_doubled(run: Path, twin: Path, draw: Draw) -> str:
    def change(data: bytes, found: list[Record]) -> bytes:
        record, at = draw.choice(found), draw.choice(found).end
        return data[:at] + data[record.start : record.end] + data[at:]

    return _with_records(run, draw, change)


def record_gone(run: Path, twin: Path, draw: Draw) -> str:
    def change(data: bytes, found: list[Record]) -> bytes:
        record = draw.choice(found)
        return data[: record.start] + data[record.end :]

    return _with_records(run, draw, change)


def records_swapped(run: Path, twin: Path, draw: Draw) -> str:
    def change(data: bytes, found: list[Record]) -> bytes:
        alike = [r for r in found if sum(r.end - r.start == o.end - o.start for o in found) > 1] or found
        a = draw.choice(alike)
        b = draw.choice([r for r in alike if r != a and r.end - r.start == a.end - a.start] or [a])
        out = bytearray(data)
        out[a.start : a.end], out[b.start : b.end] = data[b.start : b.end], data[a.start : a.end]
        return bytes(out)

    return _with_records(run, draw, change)


def record_of_another_place(run: Path, twin: Path, draw: Draw) -> str:
    """A record over another of the same length, of this recording or its twin."""
    sources = [*files_of(run), *files_of(twin)]

    def change(data: bytes, found: list[Record]) -> bytes:
        record = draw.choice(found)
        source = draw.choice(sources).read_bytes()
        fits = [r for r in records_of(source) if r.end - r.start == record.end - record.start]
        other = draw.choice(fits) if fits else record
        return data[: record.start] + (source if fits else data)[other.start : other.end] + data[record.end :]

    return _with_records(run, draw, change)


def spliced(run: Path, twin: Path, draw: Draw) -> str:
    """The first part of a file of this recording and the rest of the twin's."""
    file = _file(run, draw)
    kind = file.name.split("-")[0].removesuffix(file.suffix)  # a journal may bear the recording's id in its name
    other = draw.choice(sorted((twin / file.relative_to(run).parent).glob(f"{kind}*{file.suffix}")))
    data, theirs = file.read_bytes(), other.read_bytes()
    mine = [r.end for r in records_of(data)] or [0]
    where = draw.choice(mine)
    both = data[:where] + theirs[where:] if draw.random() < 0.5 else theirs[:where] + data[where:]
    if data.startswith(both):
        raise ValueError("the twin has nothing to add: this is a cut, which is another change")
    return _rewrite(file, both)


def last_record_hurt(run: Path, twin: Path, draw: Draw) -> str:
    file = draw.choice([p for p in files_of(run) if p.suffix == ".log"] or files_of(run))
    data = bytearray(file.read_bytes())
    found = records_of(data)
    if found:
        data[draw.randrange(found[-1].start, len(data))] ^= draw.randrange(1, 256)
    return _rewrite(file, data)


# ---- whole files ---------------------------------------------------------------------------------------------------


def emptied(run: Path, twin: Path, draw: Draw) -> str:
    return _rewrite(_file(run, draw), b"")


def gone(run: Path, twin: Path, draw: Draw) -> str:
    file = _file(run, draw)
    file.unlink()
    return file.name


def of_the_twin(run: Path, twin: Path, draw: Draw) -> str:
    file = _file(run, draw)
    other = twin / file.relative_to(run)
    if not other.is_file():
        other = _file(twin, draw)
    shutil.copy2(other, file)
    return file.name


def added_from_the_twin(run: Path, twin: Path, draw: Draw) -> str:
    """A file that this recording does not have, under its own or another number."""
    other = draw.choice([p for p in files_of(twin) if p.suffix in (".seg", ".blk")] or files_of(twin))
    name = other.name if draw.random() < 0.5 else f"{draw.randrange(12):06d}{other.suffix}"
    target = run / other.relative_to(twin).parent / name
    target.parent.mkdir(exist_ok=True)
    shutil.copy2(other, target)
    return target.name


def exchanged(run: Path, twin: Path, draw: Draw) -> str:
    kinds = [p for p in files_of(run) if p.suffix in (".seg", ".blk")]
    a, b = (draw.choice(kinds), draw.choice(kinds)) if kinds else (_file(run, draw),) * 2
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)
    return f"{a.name} and {b.name}"


def renamed(run: Path, twin: Path, draw: Draw) -> str:
    kinds = [p for p in files_of(run) if p.suffix in (".seg", ".blk")] or files_of(run)
    file = draw.choice(kinds)
    target = file.with_name(f"{draw.randrange(12):06d}{file.suffix}" if draw.random() < 0.8 else f"x{file.name}")
    file.replace(target)
    return f"{file.name} to {target.name}"


def copied(run: Path, twin: Path, draw: Draw) -> str:
    """The same file twice, or a log where a block should be and the other way round."""
    kinds = [p for p in files_of(run) if p.suffix in (".seg", ".blk")] or files_of(run)
    file = draw.choice(kinds)
    below, suffix = draw.choice([("log", ".seg"), ("blocks", ".blk")])
    target = (
        run / below / f"{draw.choice([int(file.stem) if file.stem.isdigit() else 0, draw.randrange(12)]):06d}{suffix}"
    )
    target.parent.mkdir(exist_ok=True)
    if target != file:
        shutil.copy2(file, target)
    return f"{file.name} as {below}/{target.name}"


def of_the_right_name(run: Path, twin: Path, draw: Draw) -> str:
    """An empty, cut or torn block beside a log, or a log beside a block: existing is not being whole."""
    stems = [p for p in files_of(run) if p.suffix in (".seg", ".blk")] or files_of(run)
    file = draw.choice(stems)
    below, suffix = ("blocks", ".blk") if file.suffix == ".seg" else ("log", ".seg")
    target = file.parent.parent / below / f"{file.stem}{suffix}"
    target.parent.mkdir(exist_ok=True)
    source = twin / target.relative_to(run)
    theirs = source.read_bytes() if source.is_file() else draw.randbytes(300)
    if not target.exists():
        target.write_bytes(draw.choice([b"", bytes(4096), theirs, theirs[: len(theirs) // 2], file.read_bytes()]))
    return target.name


def leftovers(run: Path, twin: Path, draw: Draw) -> str:
    """What a kill leaves behind: unfinished files, journals of overwrites, files of the user."""
    name = draw.choice(
        [
            "blocks/000000.tmp",
            "manifest.json.tmp",
            "log/000007.seg",
            "journal-0123abcd.log",
            "blocks/000003.blk.damaged",
            "log/000009.seg",
            "best.pt",
        ]
    )
    target = run / name
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        source = _file(draw.choice([run, twin]), draw).read_bytes()
        target.write_bytes(draw.choice([b"", source[:40], source, draw.randbytes(200)]))
    return name


def odd_file(run: Path, twin: Path, draw: Draw) -> str:
    """Something that is no file where one is expected."""
    file = _file(run, draw)
    other = twin / file.relative_to(run)
    file.unlink()
    how = draw.choice(["folder", "pipe", "dangling", "loop", "link to the twin", "link to nothing"])
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(
            {"dangling": file.parent / "nowhere", "loop": file, "link to the twin": other}.get(how, Path("/dev/null"))
        )
    return f"{file.name}: {how}"


def odd_folder(run: Path, twin: Path, draw: Draw) -> str:
    folder = run / draw.choice(["log", "blocks"])
    if folder.is_dir():
        shutil.rmtree(folder)
    how = draw.choice(["file", "loop", "the twin's", "gone"])
    if how == "file":
        folder.write_bytes(b"x")
    elif how != "gone":
        folder.symlink_to(folder if how == "loop" else twin / folder.name)
    return f"{folder.name}: {how}"


# ---- the manifest --------------------------------------------------------------------------------------------------

ODD_VALUES = [
    None,
    0,
    -1,
    1.5,
    1e308,
    1 << 70,
    "",
    "x",
    "0" * 32,
    [],
    {},
    True,
    "../../x",
    "journal-0123abcd.log",
    {"world_size": 3},
]


def manifest_field(run: Path, twin: Path, draw: Draw) -> str:
    file = run / "manifest.json"
    head = json.loads(file.read_bytes())
    key = draw.choice(
        [*head, "journal", "first_segment", "replaced", "born", "version", "id", "tolerance", "meta", "unknown"]
    )
    if draw.random() < 0.3:
        head.pop(key, None)
    else:
        theirs = json.loads((twin / "manifest.json").read_bytes()).get(key)
        head[key] = draw.choice([*ODD_VALUES, theirs, theirs])
    file.write_text(json.dumps(head))
    return f"manifest.json: {key} = {str(head.get(key))[:40]}"


def manifest_distributed(run: Path, twin: Path, draw: Draw) -> str:
    file = run / "manifest.json"
    head = json.loads(file.read_bytes())
    whole = {"rank": 0, "world_size": 2, "shards": {"w": {"shape": [6, 5], "offset": [0, 0]}}}
    keys = draw.choice([["distributed"], ["distributed", "world_size"], ["distributed", "shards"], ["distributed", "shards", "w"],
                        ["distributed", "shards", "w", "shape"], ["distributed", "shards", "w", "offset"]])  # fmt: skip
    at = head.setdefault("meta", {})
    at.setdefault("distributed", whole)
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = draw.choice([*ODD_VALUES, [0], [-3, 0], [1 << 40, 1 << 40], ["a", "b"]])
    file.write_text(json.dumps(head))
    return f"manifest.json: {'.'.join(keys)}"


PLAIN: list[Callable[[Path, Path, Draw], str]] = [
    *(bit, byte_of_a_header, cut, zeros, zeros_at_the_end, noise, inserted, taken_out, newlines),
    *(record_doubled, record_gone, records_swapped, record_of_another_place, spliced, last_record_hurt),
    *(emptied, gone, of_the_twin, added_from_the_twin, exchanged, renamed, copied, of_the_right_name, leftovers, odd_file, odd_folder),
    *(manifest_field, manifest_distributed),
]  # fmt: skip


# ---- lies: changes whose checksums are right -----------------------------------------------------------------------


def _seal(run: Path, kind: bytes, place: int, first_kind: bytes) -> int:
    """Where a checksum begins, as docs/format.md has it; 0 in files of version 1."""
    head = json.loads((run / "manifest.json").read_bytes())
    if head["version"] == 1 or kind in (b"HEAD", b"SEGM", b"BLCK") or first_kind == b"LAYT":
        return 0
    return (zlib.crc32(bytes.fromhex(head["id"])) + place) & 0xFFFFFFFF


HUGE = [0, 1, -1, 5, 1 << 20, (1 << 24) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]


def lie(run: Path, twin: Path, draw: Draw) -> str:
    """A record that claims something else, with right checksums: huge counts, odd JSON, bombs. Values are left alone."""
    while True:
        file = draw.choice([p for p in files_of(run) if p.suffix in (".log", ".seg", ".blk")])
        data = file.read_bytes()
        found = [r for r in records_of(data) if r.kind not in (b"FRAM", b"FRMP", b"CHNK")]
        if found:
            break
    record = draw.choice(found)
    _, _, length, number, _, _ = struct.unpack_from("<4s4sQqII", data, record.start)
    payload = bytearray(data[record.start + 32 : record.start + 32 + length])
    how = draw.choice(["number", "payload", "bomb", "short"])
    if how == "number":
        number = draw.choice(HUGE)
    elif how == "short":
        del payload[draw.randrange(len(payload) + 1) :]
    elif how == "bomb":
        payload = (
            payload[:16] + zlib.compress(bytes(300 << 20), 1)
            if record.kind == b"INDX"
            else bytearray(zlib.compress(bytes(64 << 20), 1))
        )
    elif record.kind in (b"LAYT", b"FORK", b"GAP_", b"OPEN", b"HEAD"):
        payload = bytearray(_odd_json(bytes(payload), draw))
    elif record.kind == b"SCAL" and len(payload) >= 24:
        rows = draw.choice([1, 5])
        payload = bytearray(struct.pack("<qqd", draw.choice(HUGE), draw.choice(HUGE), 1.0) * rows)
    elif record.kind == b"INDX":
        try:
            start = 16 if payload[16:17] == b"\x78" else 0
            inside = bytearray(zlib.decompress(bytes(payload[start:])))
            struct.pack_into("<Q", inside, 8 * draw.randrange(4), draw.choice(HUGE) & ((1 << 64) - 1))
            payload = payload[:start] + zlib.compress(bytes(inside))
        except zlib.error:
            pass
    elif len(payload) >= 8:
        struct.pack_into("<Q", payload, 8 * draw.randrange(len(payload) // 8), draw.choice(HUGE) & ((1 << 64) - 1))
    place = record.start
    crc = zlib.crc32(payload, _seal(run, record.kind, place, records_of(data)[0].kind))
    head = struct.pack("<4s4sQqI", b"WLPS", record.kind, len(payload), number, crc)
    made = head + struct.pack("<I", zlib.crc32(head)) + payload + bytes(-len(payload) % 8)
    file.write_bytes(data[: record.start] + made + data[record.end :])
    return f"{file.name}: {record.kind.decode()} {how}"


def scalar_names(run: Path, twin: Path, draw: Draw) -> str:
    """Thousands of names in a few bytes, and a close that claims millions of frames."""
    file = draw.choice([p for p in files_of(run) if p.suffix == ".log"])
    data = bytearray(file.read_bytes())
    first = records_of(data)[0].kind
    for k in range(2000):
        _append(run, data, b"NAME", 1000 + k, b"n%d" % k, first)
    _append(run, data, b"CLOS", draw.choice([1 << 20, (1 << 24) - 1, 1 << 24, 1 << 40]), b"", first)
    file.write_bytes(data)
    return f"{file.name}: names and a close"


def _append(run: Path, data: bytearray, kind: bytes, number: int, payload: bytes, first: bytes) -> None:
    crc = zlib.crc32(payload, _seal(run, kind, len(data), first))
    head = struct.pack("<4s4sQqI", b"WLPS", kind, len(payload), number, crc)
    data += head + struct.pack("<I", zlib.crc32(head)) + payload + bytes(-len(payload) % 8)


def _odd_json(payload: bytes, draw: Draw) -> bytes:
    value = json.loads(payload)
    if draw.random() < 0.3:
        return draw.choice(
            [b"[]", b"3", b"null", b'""', b"[" * 50_000, b"{}", b"\xff", payload[:-1], b'{"tensors": null}']
        )
    places: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            places.extend((node, key) for key in node)
            for inner in node.values():
                walk(inner)
        elif isinstance(node, list):
            places.extend((node, k) for k in range(len(node)))
            for inner in node:
                walk(inner)

    walk(value)
    if places:
        node, key = draw.choice(places)
        if isinstance(node, dict) and draw.random() < 0.3:
            del node[key]
        else:
            node[key] = draw.choice([*ODD_VALUES, "float32", "w", -5, 1 << 62, [1 << 20] * 8])  # type: ignore[index]
    return json.dumps(value).encode()


LIES: list[Callable[[Path, Path, Draw], str]] = [lie, lie, lie, scalar_names]
