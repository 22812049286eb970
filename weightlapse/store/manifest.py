"""The manifest: what makes a folder a recording. Written once, before the first frame, by a rename."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from pathlib import Path
from typing import Any

from weightlapse import __version__
from weightlapse.errors import InvalidArgument, NotARecording
from weightlapse.store.folder import Folder

NAME = "manifest.json"
FORMAT = "weightlapse recording"
VERSION = 1
_MAX_NBYTES = 16 << 20


def make(meta: dict[str, Any], tolerance: float | None) -> dict[str, Any]:
    """The manifest of a new recording; ``meta`` is the user's own and must be expressible in JSON."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": uuid.uuid4().hex,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "byte_order": "little",
        "tolerance": tolerance,
        "software": {"weightlapse": __version__, "python": platform.python_version()},
        "meta": meta,
    }


def encode(manifest: dict[str, Any]) -> bytes:
    try:
        data = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=True).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"meta cannot be written as JSON ({error}); use numbers, strings, lists and dicts"
        ) from error
    if len(data) > _MAX_NBYTES:
        raise InvalidArgument(f"meta takes {len(data)} bytes as JSON; at most {_MAX_NBYTES} are kept in a recording")
    return data


def write(folder: Path, data: bytes) -> None:
    """Write the manifest so that a reader sees all of it or none."""
    temporary = folder / f"{NAME}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def read(folder: Folder) -> dict[str, Any]:
    """The checked manifest of a folder; :class:`NotARecording` says what is wrong with it otherwise."""
    where = folder.location
    try:
        nbytes = folder.size(NAME)
    except (FileNotFoundError, NotADirectoryError):
        raise NotARecording(
            f"{where} is not a recording: it has no {NAME}; give the folder that weightlapse.watch was told to write"
        ) from None
    if nbytes > _MAX_NBYTES:
        raise NotARecording(f"the {NAME} in {where} has {nbytes} bytes, more than any recording's: it was not read")
    try:
        manifest = json.loads(folder.data(NAME).tobytes())
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
    return manifest
