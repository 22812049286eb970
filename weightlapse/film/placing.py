"""Where everything goes: one set of rules for films, page thumbnails and figures. Pure geometry, no pixels.

A matrix and its bias are one plate. Plates flow in the order of the network, down a column, then right, then to the next
shelf, like the text of a newspaper. The area of a plate grows with the square root of its number of weights, so that a
small layer stays visible beside a large one; the largest size at which everything fits is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from weightlapse.film.plates import Measure, Placed, Plate, even
from weightlapse.film.sizing import sized


def place(
    items: Sequence[Plate], width: int, height: int, measure: Measure, *, middle: bool = True
) -> tuple[list[Placed], int]:
    """The plates inside ``width`` × ``height``, origin (0, 0), and how many did not fit in (0 except for hundreds in a tiny picture).

    ``middle``: what leaves much room stands in the middle of it.
    """
    if not items:
        return [], 0
    for style in (measure, measure.compact(), measure.unlabelled()):
        best: tuple[float, list[Placed]] | None = None
        for divisor in (1, 1.3, 1.6, 2, 2.5, 3, 4, 5, 6, 8, 10):
            found = _largest(items, width, height, style, int(height / divisor))
            if found and (best is None or found[0] > best[0] + 0.05):
                best = found
        if best:
            return _settled(best[1], width, height) if middle else best[1], 0
    fewer, missing = (
        place(items[: len(items) * 3 // 4], width, height, measure, middle=middle) if len(items) > 1 else ([], 0)
    )
    return fewer, missing + len(items) - len(items) * 3 // 4


def _largest(
    items: Sequence[Plate], width: int, height: int, measure: Measure, shelf: int
) -> tuple[float, list[Placed]] | None:
    biggest = even(max(min(width, height) / 5, 46 * max(measure.unit, 0.5)))

    def fits(scales: Sequence[float]) -> list[Placed] | None:
        sizes = [sized(b, s * _share(b), width, shelf, measure, biggest) for b, s in zip(items, scales)]
        return _flow(sizes, width, height, measure, shelf)

    low, high, found = 0.0, math.log(width * height), fits([1.0] * len(items))
    if found is None:
        return None
    for _ in range(10):
        middle = (low + high) / 2
        trial = fits([math.exp(middle)] * len(items))
        if trial is None:
            high = middle
        else:
            low, found = middle, trial
    if len(items) <= 60:
        found = _use_leftover(items, math.exp(low), fits, found)
    return _merit(found), found


def _merit(placed: Sequence[Placed]) -> float:
    """How well space is used: the mean logarithm of the plates' areas, large layers counting more, less what thinning hides."""
    shares = [_share(p.plate) for p in placed]
    mains = [p.tiles[0] for p in placed]
    values = [math.log(tile.width * tile.height) - math.log(tile.thinned[0] * tile.thinned[1]) for tile in mains]
    return sum(share * value for share, value in zip(shares, values)) / sum(shares)


def _share(plate: Plate) -> float:
    """Relative area of a plate; a vector needs little to be read."""
    cells = plate.arrangement.rows * plate.arrangement.cols
    return math.sqrt(cells) * (0.25 if len(plate.arrangement.shape) <= 1 and cells > 4 else 1.0)


def _use_leftover(
    items: Sequence[Plate], scale: float, fits: Callable[[Sequence[float]], list[Placed] | None], found: list[Placed]
) -> list[Placed]:
    """Cells are even, so sizes jump; let single plates jump where there is still room."""
    kinds = [(plate.arrangement.shape, len(plate.names)) for plate in items]  # equal layers keep equal sizes
    scales = [scale] * len(items)
    largest_first = dict.fromkeys(kind for kind, _ in sorted(zip(kinds, items), key=lambda pair: -_share(pair[1])))
    for factor in (2.6, 1.8, 1.4):
        for kind in largest_first:
            bigger = [s * factor if k == kind and s * factor < scale * 4 else s for s, k in zip(scales, kinds)]
            trial = fits(bigger)
            if trial is not None:
                scales, found = bigger, trial
    return found


def _flow(sized: Sequence[Placed], width: int, height: int, measure: Measure, shelf: int) -> list[Placed] | None:
    out: list[Placed] = []
    x = y = top = column = deepest = 0
    for plate in sized:
        if plate.width > width or plate.height > shelf:
            return None
        if y > top and y + plate.height > top + shelf:  # next column
            x, y, column = x + column + measure.gap, top, 0
        if x > 0 and x + max(column, plate.width) > width:  # next shelf
            x, top, column, deepest = 0, deepest + measure.gap, 0, 0
            y = top
        if top + plate.height > height:
            return None
        out.append(plate.moved(x, y))
        column = max(column, plate.width)
        y += plate.height + even(measure.gap * 2 / 3)
        deepest = max(deepest, out[-1].y + plate.height)
        if deepest > height or x + column > width:
            return None
    return out


def _settled(placed: list[Placed], width: int, height: int) -> list[Placed]:
    """At the top left, in line with everything else; a small network that leaves much room stands in the middle of it."""
    right = max(p.x + p.width for p in placed)
    bottom = max(p.y + p.height for p in placed)
    dx = even((width - right) / 2) if right < width * 0.7 else 0
    dy = even((height - bottom) / 3) if bottom < height * 0.6 else 0
    return [p.moved(p.x + dx, p.y + dy) for p in placed]
