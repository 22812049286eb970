"""One finding: what, where, since when, why it matters, what to try."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    ``kind``: its name. ``severity``: ``"error"`` (the run is broken), ``"warning"`` (it is worse than it could be) or ``"note"``.
    ``tensor``: where. ``units``: which units (rows, channels) or, for single weights, their flat positions; may be empty.
    ``first_step``: the first recorded step at which it holds. ``text``: one sentence what and why. ``advice``: what to try.
    """

    kind: str
    tensor: str
    units: tuple[int, ...]
    first_step: int
    severity: str
    text: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return asdict(self) | {"units": list(self.units)}

    def __str__(self) -> str:
        where = f", {self.tensor}" if self.tensor else ""
        return f"[{self.severity}] {self.kind}{where}, from step {self.first_step}: {self.text} {self.advice}"


def listed(items: Any, most: int = 8) -> str:
    """``3, 7, 9`` or ``3, 7, 9 ... (120 in all)``."""
    values = [str(i) for i in items]
    return ", ".join(values) if len(values) <= most else f"{', '.join(values[:most])} ... ({len(values)} in all)"
