"""The names that tensors and scalars bear in other formats: never two the same, never a path, and to be read back.

In each format a tensor keeps its name where it can. Where it cannot, bytes of it are written as ``%XX``, as in a URL (so ``%`` itself is always
``%25``), and ``urllib.parse.unquote`` reads them back.

- **Everywhere but in safetensors** a tensor that changes its shape within the run is written once per layout, as ``NAME@FIRST_FRAME``. A tensor
  whose own name ends like that has ``%40`` for the ``@``.
- **A name that the format needs itself** ("step" in an npz, say) gets ``tensor:`` in front; so do names that begin with ``tensor:``, so
  that taking one ``tensor:`` away always gives the name back. Scalars have ``scalar:`` in the same way.
- **Where names become files** (:func:`file_names`; in an npz :func:`member_name`) nothing is left that a file system reads as something else:
  separators, leading dots, the devices of Windows (``CON``, ``aux.weight``), trailing dots and spaces. Names that differ only in case have their
  capital letters as ``%XX``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from urllib.parse import quote

_LIKE_A_PIECE = re.compile(r"@(?=\d+$)")
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[\d¹²³]|lpt[\d¹²³]) *([.:].*)?$", re.IGNORECASE | re.DOTALL)
_FORBIDDEN = re.compile(r'[\0-\x1f\x7f\\<>"|?*]')  # by some file system
_LONGEST = 200


def piece_name(name: str, start: int | None) -> str:
    """The name of a whole tensor (``start`` None), or of what it is from frame ``start`` on.

    >>> piece_name("w", None), piece_name("w", 5), piece_name("w@5", None), piece_name("a%", None)
    ('w', 'w@5', 'w%405', 'a%25')
    """
    escaped = _LIKE_A_PIECE.sub("%40", name.replace("%", "%25"))
    return escaped if start is None else f"{escaped}@{start}"


def apart(name: str, kind: str, is_taken: Callable[[str], bool]) -> str:
    """``name``, with ``kind:`` in front where the format has that name for something else.

    >>> taken = {"step"}.__contains__
    >>> apart("w", "tensor", taken), apart("step", "tensor", taken), apart("tensor:step", "tensor", taken)
    ('w', 'tensor:step', 'tensor:tensor:step')
    """
    return f"{kind}:{name}" if name.startswith(f"{kind}:") or is_taken(name) else name


def member_name(name: str) -> str:
    """A name (in which ``%`` is escaped already) as a path that leads nowhere but down, on any system: "/" stays.

    The ending ".npy" is not kept: NumPy would take such a name for that of a member.

    >>> member_name("net/fc.weight"), member_name("../../x"), member_name("/x"), member_name("aux.weight"), member_name("a./b")
    ('net/fc.weight', '%2E%2E/%2E%2E/x', '%2Fx', '%61ux.weight', 'a%2E/b')
    """
    if name.endswith(".npy"):
        name = name[:-4] + "%2Enpy"
    parts = name.split("/")
    path = _tame(parts[0])
    for part in parts[1:]:
        # a separator beside nothing would begin at the root, or vanish
        path += "/" + _tame(part) if path and part and not path.endswith("%2F") else "%2F" + _tame(part)
    return path


def _tame(part: str) -> str:
    part = _FORBIDDEN.sub(lambda found: _hex(found[0]), part)
    if part.startswith(".") or _DEVICE.match(part):
        part = _hex(part[0]) + part[1:]
    if part.endswith((".", " ")):
        part = part[:-1] + _hex(part[-1])
    return part


def _hex(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def file_names(names: Iterable[str]) -> dict[str, str]:
    """For each name one that every file system takes, different from the others even where case does not count.

    At most 200 characters: what is longer is cut and ends in "~" and a hash of the whole name.

    >>> list(file_names(["net/fc1.weight", "../x", "W", "w", "CON", "zarr.json"]).values())
    ['net%2Ffc1.weight', '%2E.%2Fx', '%57', 'w', '%43ON', '%7Aarr.json']
    """
    every = list(dict.fromkeys(names))
    alike = Counter(name.casefold() for name in every)
    return {name: _file_name(name, loud=alike[name.casefold()] == 1) for name in every}


def _file_name(name: str, *, loud: bool) -> str:
    """``loud`` names keep their capitals."""
    quoted = quote(name, safe="+=,-_ ").replace("~", "%7E")
    if not loud:
        quoted = re.sub(r"%..|[A-Z]", lambda found: found[0] if len(found[0]) == 3 else _hex(found[0]), quoted)
    # "__" and zarr.json are Zarr's own
    if quoted.startswith(("__", ".")) or quoted.casefold() == "zarr.json" or _DEVICE.match(quoted):
        quoted = _hex(quoted[0]) + quoted[1:]
    if quoted.endswith((".", " ")):
        quoted = quoted[:-1] + _hex(quoted[-1])
    if len(quoted) > _LONGEST:
        quoted = f"{quoted[:180]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return quoted or "%"
