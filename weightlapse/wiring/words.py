"""A wiring in sentences: what ``print(w)`` and ``w.explain`` say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weightlapse.errors import InvalidArgument, UnknownTensor, closest

if TYPE_CHECKING:
    from weightlapse.wiring.data import Wiring
    from weightlapse.wiring.members import Group, Member

_VERBS = {"permutation": "permuted", "sign": "flipped in sign", "scale": "rescaled"}


def group_sentence(g: Group) -> str:
    """One sentence: how many units, where they are made, read and touched, and what may be done with them."""
    made = [_place(m) for m in g.producers]
    read = [_place(m) for m in g.members if "in" in m.roles and "out" not in m.roles]
    other = [_place(m) for m in g.members if not m.roles & {"out", "in"}]
    text = f"{g.name}: {g.size} units"
    if g.parent is not None:
        text += f" inside unit {g.parent[1]} of {g.parent[0]}"
    for verb, places in (("made by", made), ("shared by", other), ("read by", read)):
        if places:
            text += f", {verb} {_list(places)}"
    text += "; may be " + _list([_VERBS[s] for s in _VERBS if s in g.symmetries])
    if g.ops:
        text += f" (passes {', '.join(sorted(g.ops))})"
    if g.blockers:
        text += f"; cannot be widened: {'; '.join(g.blockers)}"
    return text + "."


def wiring_text(w: Wiring) -> str:
    """All groups, one sentence each; the like-sounding children of a group's units are told once."""
    top = [g for g in w.groups if g.parent is None]
    lines = [f"{len(w.groups)} groups of interchangeable units in {len(w.shapes)} tensors."]
    for g in top:
        lines += _tree(w, g, "")
    lines += [f"Tied: {', '.join([first, *rest])} are one tensor." for first, rest in w.aliases.items()]
    if w.unseen:
        lines.append(f"Not seen by the traced run: {_list(list(w.unseen))}.")
    lines += [f"Dropped: {text}" for text in w.dropped]
    return "\n".join(lines)


def _tree(w: Wiring, g: Group, indent: str) -> list[str]:
    lines = [f"{indent}{g}"]
    children = w.children(g.name)
    for unit in (0,) if g.size else ():
        for child in (c for c in children if c.parent is not None and c.parent[1] == unit):
            lines += _tree(w, child, indent + "  ")
    alike = sum(c.parent is not None and c.parent[1] > 0 for c in children)
    if alike:
        lines.append(f"{indent}  (and {alike} more such groups in the other units)")
    return lines


def axis_sentence(w: Wiring, tensor: str, axis: int) -> str:
    name = w.canonical_name(tensor)
    if name in w.unseen and name not in w.shapes:
        return f"{tensor}[{axis}]: fixed: weights in whole numbers, which the trace cannot follow"
    if name not in w.shapes:
        raise UnknownTensor(f"the wiring knows no tensor {tensor!r} ({closest(tensor, w.shapes)})")
    shape = w.shapes[name]
    if not -len(shape) <= axis < len(shape):
        raise InvalidArgument(f"{tensor!r} has shape {shape}, so there is no axis {axis}")
    axis %= len(shape)
    parts = [
        f"{_role(m)} of group {g.name!r}{_extent(m, shape[axis])}"
        for g, m in w.groups_of(name, axis)
        if g.parent is None
    ]
    nested = [g for g, _ in w.groups_of(name, axis) if g.parent is not None]
    if nested:
        parts.append(f"nested groups {_list([repr(g.name) for g in nested], 4)}")
    why = w.fixed.get((name, axis))
    if name in w.unseen and not parts:
        why = "the traced run never used this tensor"
    if why:
        parts.append(f"fixed{' elsewhere' if parts else ''}: {why}")
    return f"{tensor}[{axis}] ({shape[axis]} positions): " + ("; ".join(parts) or "fixed: no group was declared for it")


def _extent(m: Member, length: int) -> str:
    text = f" ({m.index.shape[0]} units" + (f", {m.k} positions each" if m.k > 1 else "")
    if m.index.size < length:
        text += f", positions {int(m.index.min())} to {int(m.index.max())}"
    if m.where is not None:
        text += f", only at {len(m.where[1])} positions of axis {m.where[0]}"
    return text + ")"


def _role(m: Member) -> str:
    words = {"out": "producer", "in": "consumer", "add": "bias", "mul": "gain", "stat": "running statistics"}
    return " and ".join(words[r] for r in m.role.split("+"))


def _place(m: Member) -> str:
    blocks = f" x{m.k}" if m.k > 1 else ""
    return f"{m.tensor}[{m.axis}]{blocks}"


def _list(items: list[str], most: int = 8) -> str:
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} more"]
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else "nothing"
