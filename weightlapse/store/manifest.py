"""The manifest: what makes a folder a recording. Written before the first frame, by a rename; its bytes are also the journal's first record."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

from weightlapse import __version__
from weightlapse.errors import DamagedRecording, InvalidArgument, NotARecording
from weightlapse.store.folder import Folder
from weightlapse.store.log import HEAD, UNSEALED, Seal, read_record
from weightlapse.store.portable import replace, sync

NAME = "manifest.json"
JOURNAL = "journal.log"
FORMAT = "weightlapse recording"
VERSION = 3
UNPACKED = 2  # the version of recordings whose frames are never packed: older readers know it
MAX_NBYTES = 16 << 20
LARGEST_TOLERANCE = (
    1.0  # an error as large as the spread of the tensor: with more, nothing of the weights would be left
)
_JOURNAL_NAME = re.compile(r"journal(-[0-9a-f]{8})?\.log")


def make(meta: dict[str, Any], tolerance: float | None, *, packed: bool = False) -> dict[str, Any]:
    """The manifest of a new recording; ``meta`` is the user's own and must be expressible in JSON. ``packed``: frames may be packed."""
    return {
        "format": FORMAT,
        "version": VERSION if packed else UNPACKED,
        "id": uuid.uuid4().hex,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "byte_order": "little",
        "tolerance": tolerance,
        "software": {"weightlapse": __version__, "python": platform.python_version()},
        "meta": meta,
    }


def seal_of(manifest: dict[str, Any]) -> Seal:
    """Where the checksums of this recording's files begin."""
    return Seal(zlib.crc32(bytes.fromhex(manifest["id"])))


def identity(manifest: dict[str, Any]) -> bytes:
    """The 16 bytes that name the recording in its files."""
    return bytes.fromhex(manifest["id"])


def id_in(data: bytes) -> str | None:
    """The id in the bytes of a manifest, None where they are none."""
    try:
        return str(json.loads(data)["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def encode(manifest: dict[str, Any]) -> bytes:
    """The bytes of a manifest; raises :class:`InvalidArgument` where the user's ``meta`` is no JSON, or too much of it."""
    try:
        data = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=True).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"meta cannot be written as JSON ({error}); use numbers, strings, lists and dicts"
        ) from error
    if len(data) > MAX_NBYTES:
        raise InvalidArgument(f"meta takes {len(data)} bytes as JSON; at most {MAX_NBYTES} are kept in a recording")
    return data


def write(folder: Path, data: bytes) -> None:
    """Write the manifest so that a reader sees all of it or none."""
    temporary = folder / f"{NAME}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        sync(file.fileno())
    replace(temporary, folder / NAME)


def read(folder: Folder) -> tuple[dict[str, Any], str | None]:
    """The checked manifest of a folder, and what is wrong with its file where the copy in the journal had to serve.

    Raises :class:`NotARecording` when there is no manifest, or neither the file nor the copy can be used.
    """
    where = folder.location
    try:
        file = folder.open(NAME)
    except (FileNotFoundError, NotADirectoryError):
        raise NotARecording(_absent(where)) from None
    except DamagedRecording as error:
        raise NotARecording(str(error)) from None
    if file.size > MAX_NBYTES:
        raise NotARecording(f"the {NAME} in {where} has {file.size} bytes, more than any recording's: it was not read")
    try:
        data = file.read(0, file.size)
    except (DamagedRecording, FileNotFoundError) as error:
        raise NotARecording(str(error)) from None
    for copy in _copies(folder):
        if data != copy and (_is_damaged(data, copy) or id_in(data) == id_in(copy)):
            return _checked(copy, where), "was changed or damaged; its copy in the journal counts"
    return _without_absurd_tolerance(_checked(data, where))


def _without_absurd_tolerance(manifest: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What no recorder ever wrote is not compressed by: the log would lose its values. Reading needs no tolerance."""
    told = manifest["tolerance"]
    if told is None or told <= LARGEST_TOLERANCE:
        return manifest, None
    return (
        {
            **manifest,
            "tolerance": None,
        },
        f"says tolerance {told:g}, which no recording has: it was changed, and what is not compressed yet is kept exactly",
    )


def _is_damaged(data: bytes, copy: bytes) -> bool:
    """Whether ``data`` is the copy with some bytes changed, lost or zeroed, rather than something else that was put in its place."""
    if len(data) != len(copy):
        return not data or (len(data) >= 64 and copy.startswith(data))
    return not any(data) or sum(a != b for a, b in zip(data, copy)) <= max(8, len(copy) // 100)


def _absent(where: str) -> str:
    path = Path(where)
    left = sorted(path.parent.glob(f".{path.name}.*.old/{NAME}")) if "://" not in where and path.name else []
    if left:  # an overwrite by version 1 that was killed between its two renames
        return f"{where} is not a recording: it was being overwritten when its writer died; the old recording lies in {left[0].parent}: move it back"
    return f"{where} is not a recording: it has no {NAME}; give the folder that weightlapse.watch was told to write"


def _copies(folder: Folder) -> list[bytes]:
    """The manifests that journals of this folder hold."""
    found = []
    for name in folder.names(""):
        if _JOURNAL_NAME.fullmatch(name):
            with contextlib.suppress(DamagedRecording, OSError):
                record = read_record(folder.open(name), 0, UNSEALED, MAX_NBYTES)
                if record is not None and record.kind == HEAD:
                    found.append(record.payload)
    return found


def _checked(data: bytes, where: str) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotARecording(
            f"the {NAME} in {where} is not JSON ({error}): the folder cannot be read as a recording"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise NotARecording(f"the {NAME} in {where} does not say {FORMAT!r}: some other program wrote this folder")
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise NotARecording(
            f"{where} has format version {str(version)[:40]}; this weightlapse ({__version__}) reads up to {VERSION}: update it"
        )
    tolerance = manifest.get("tolerance")
    if not isinstance(manifest.get("meta"), dict) or not (
        tolerance is None or (type(tolerance) is float and tolerance > 0)
    ):
        raise NotARecording(
            f"the {NAME} in {where} has no usable meta or tolerance: it was changed after it was written"
        )
    manifest.setdefault("tolerance", None)
    number = manifest.get("id")
    if not isinstance(number, str) or not re.fullmatch(r"[0-9a-f]{32}", number):
        raise NotARecording(f"the {NAME} in {where} has no usable id: it was changed after it was written")
    if not _JOURNAL_NAME.fullmatch(str(manifest.get("journal", JOURNAL))):
        raise NotARecording(f"the {NAME} in {where} names no usable journal: it was changed after it was written")
    return manifest
