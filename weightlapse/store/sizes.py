"""How large something is, for people."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def size(nbytes: float, digits: int = 2) -> str:
    """Bytes in powers of ten, ``digits`` of them, three from a hundred on.

    >>> size(17), size(1500), size(497_759_232), size(1e12), size(1.25e9, digits=3)
    ('17 B', '1.5 kB', '498 MB', '1 TB', '1.25 GB')
    """
    value, unit = float(nbytes), "B"
    for larger in _UNITS:
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.{digits}g} {unit}"
