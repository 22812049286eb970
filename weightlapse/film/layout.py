"""Where everything goes: one set of rules for films, page thumbnails and figures. Pure geometry, no pixels.

A matrix and its bias are one block. Blocks flow in the order of the network, down a column, then right, then to the next
shelf, like the text of a newspaper. The area of a block grows with the square root of its number of weights, so that a
small layer stays visible beside a large one; the largest size at which everything fits is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from weightlapse.film.grids import Grid, grid
from weightlapse.film.tiles import Tile


@dataclass(frozen=True)
class Block:
    """A tensor with the vectors that belong to it: ``beside`` along its rows, ``below`` along its columns."""

    title: str
    main: str
    grid: Grid
    beside: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.main, *self.beside, *self.below)


@dataclass(frozen=True)
class Measure:
    """Sizes in pixels that all rules share; ``unit`` is 1 at 1280 × 720."""

    unit: float
    text: int  # size of a label
    label: int  # height of the line above a block
    gap: int  # between blocks

    @staticmethod
    def of(width: int, height: int) -> Measure:
        unit = min(width / 1280, height / 720)
        text = round(13 * unit) if unit >= 1 else max(round(13 * math.sqrt(unit)), 10)
        return Measure(unit, text, even(text * 1.6), even(18 * max(unit, 0.5)))


@dataclass(frozen=True)
class Placed:
    """A block at its place: the box includes the label line, the tiles are at their final pixels."""

    block: Block
    x: int
    y: int
    width: int
    height: int
    tiles: tuple[Tile, ...]
    label: int

    def moved(self, x: int, y: int) -> Placed:
        dx, dy = x - self.x, y - self.y
        return replace(self, x=x, y=y, tiles=tuple(tile.at(tile.x + dx, tile.y + dy) for tile in self.tiles))


def even(value: float) -> int:
    """The largest even integer that is at most ``value``, at least 2: cells and places that H.264's halved chroma keeps apart."""
    return max(int(value) // 2 * 2, 2)


def blocks(shapes: Mapping[str, tuple[int, ...]]) -> list[Block]:
    """Tensors in network order, biases put beside their matrices, vectors of one module together.

    >>> [b.names for b in blocks({"fc.weight": (3, 4), "fc.bias": (3,), "ln.weight": (3,), "ln.bias": (3,)})]
    [('fc.weight', 'fc.bias'), ('ln.weight', 'ln.bias')]
    """
    taken: set[str] = set()
    out: list[Block] = []
    for name, shape in shapes.items():
        if name in taken:
            continue
        taken.add(name)
        if len(shape) >= 2:
            partner = _bias_of(name)
            bias = shapes.get(partner) if partner else None
            last = name.rpartition(".")[2].rpartition("/")[2] == "kernel"
            beside: tuple[str, ...] = ()
            below: tuple[str, ...] = ()
            if partner and bias is not None and partner not in taken and len(bias) == 1:
                if not last and bias[0] == shape[0]:
                    beside = (partner,)
                elif bias[0] == shape[-1]:
                    if len(shape) == 2:
                        below = (partner,)
                    else:
                        beside = (partner,)
            taken.update(beside + below)
            out.append(Block(name, name, grid(shape, channels_last=last and len(shape) > 2), beside, below, shapes))
        else:
            module = _module(name)
            same = tuple(
                other
                for other, s in shapes.items()
                if other not in taken and s == shape and _module(other) == module and not _claimed(other, shapes)
            )
            taken.update(same)
            out.append(Block(module if same and module else name, name, grid(shape), (), same, shapes))
    return out


def _bias_of(name: str) -> str | None:
    head, cut, last = _split(name)
    for word in ("weight", "kernel"):
        if word in last:
            return head + cut + last.replace(word, "bias")
    return None


def _split(name: str) -> tuple[str, str, str]:
    separator = "/" if "/" in name and "." not in name else "."
    return name.rpartition(separator)


def _module(name: str) -> str:
    return _split(name)[0]


def _claimed(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a later matrix will take this vector as its bias."""
    return any(len(s) >= 2 and _bias_of(other) == name for other, s in shapes.items())


def place(items: Sequence[Block], width: int, height: int, measure: Measure) -> tuple[list[Placed], int]:
    """The blocks inside ``width`` × ``height``, origin (0, 0), and how many did not fit in (0 except for hundreds in a tiny picture)."""
    if not items:
        return [], 0
    for label in (measure.label, 0):
        best: tuple[float, list[Placed]] | None = None
        for divisor in (1, 1.3, 1.6, 2, 2.5, 3, 4, 5, 6, 8, 10):
            found = _largest(items, width, height, replace(measure, label=label), int(height / divisor))
            if found and (best is None or found[0] > best[0] * 1.05):
                best = found
        if best:
            return _centred(best[1], width, height), 0
    fewer, missing = place(items[: len(items) * 3 // 4], width, height, measure) if len(items) > 1 else ([], 0)
    return fewer, missing + len(items) - len(items) * 3 // 4


def _largest(
    items: Sequence[Block], width: int, height: int, measure: Measure, shelf: int
) -> tuple[float, list[Placed]] | None:
    def fits(scales: Sequence[float]) -> list[Placed] | None:
        return _flow(
            [_sized(b, s * math.sqrt(b.grid.cells), width, shelf, measure) for b, s in zip(items, scales)],
            width,
            height,
            measure,
            shelf,
        )

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
    if len(items) <= 24:
        found = _use_leftover(items, math.exp(low), fits, found)
    return sum(math.sqrt(tile.width * tile.height) for p in found for tile in p.tiles), found


def _use_leftover(
    items: Sequence[Block], scale: float, fits: Callable[[Sequence[float]], list[Placed] | None], found: list[Placed]
) -> list[Placed]:
    """Cells are even, so sizes jump; let single blocks jump where there is still room."""
    scales = [scale] * len(items)
    for factor in (2.6, 1.8, 1.4):
        for index in range(len(items)):
            trial_scales = [s * factor if i == index and s < scale * 3 else s for i, s in enumerate(scales)]
            trial = fits(trial_scales)
            if trial is not None:
                scales, found = trial_scales, trial
    return found


def _flow(sized: Sequence[Placed], width: int, height: int, measure: Measure, shelf: int) -> list[Placed] | None:
    out: list[Placed] = []
    x = y = top = column = deepest = 0
    for block in sized:
        if block.width > width or block.height > shelf:
            return None
        if y > top and y + block.height > top + shelf:  # next column
            x, y, column = x + column + measure.gap, top, 0
        if x > 0 and x + max(column, block.width) > width:  # next shelf
            x, top, column, deepest = 0, deepest + measure.gap, 0, 0
            y = top
        if top + block.height > height:
            return None
        out.append(block.moved(x, y))
        column = max(column, block.width)
        y += block.height + measure.gap * 2 // 3
        deepest = max(deepest, out[-1].y + block.height)
        if deepest > height or x + column > width:
            return None
    return out


def _centred(placed: list[Placed], width: int, height: int) -> list[Placed]:
    """Spread what is left over between the shelves' columns, at most one gap each, and centre the rest."""
    right = max(p.x + p.width for p in placed)
    bottom = max(p.y + p.height for p in placed)
    dx, dy = even((width - right) / 2), min(even((height - bottom) / 2), even(height / 12))
    return [p.moved(p.x + (dx if right < width - 3 else 0), p.y + (dy if bottom < height - 3 else 0)) for p in placed]


def _sized(block: Block, area: float, width: int, shelf: int, measure: Measure) -> Placed:
    """The block with its main grid drawn in about ``area`` pixels, at (0, 0)."""
    room = (max(width, 2), max(shelf - measure.label, 2))
    biggest = even(46 * max(measure.unit, 0.5))
    if block.grid.rows == 1 and not block.grid.kernels:
        main = _strip(block.main, block.grid, area, room, measure, biggest)
    else:
        side = even(10 * max(measure.unit, 0.6)) + even(6 * measure.unit) if block.beside or block.below else 0
        main = _matrix(
            block, area, (room[0] - (side if block.beside else 0), room[1] - (side if block.below else 0)), biggest
        )
    main = main.at(0, measure.label)
    tiles = [main]
    for name in block.beside:
        tiles.append(_along_rows(name, grid(block.shapes[name]), main, measure))
    for name in block.below:
        tiles.append(_along_columns(name, grid(block.shapes[name]), main, tiles[-1], measure))
    right = max(tile.x + tile.width for tile in tiles)
    bottom = max(tile.y + tile.height for tile in tiles)
    wide = max(right, min(even(84 * max(measure.unit, 0.5)), width)) if measure.label else right
    return Placed(block, 0, 0, even(wide + 1), even(bottom + 1), tuple(tiles), measure.label)


def _matrix(block: Block, area: float, room: tuple[int, int], biggest: int) -> Tile:
    shape = block.grid
    parts = _parts(shape)
    rows, columns = -(-shape.rows // shape.unit_rows // parts) * shape.unit_rows, shape.columns * parts
    aspect = min(max(columns / rows, 0.25), 4.0)
    wide, high = min(math.sqrt(area * aspect), room[0]), min(math.sqrt(area / aspect), room[1])
    if shape.kernels:
        return _kernels(block, wide, high, parts, rows, columns, biggest)
    cell = min(wide / columns, high / rows)
    if cell >= 2 and columns / rows == aspect:
        side = min(even(cell), biggest)
        gap = 2 if side >= 16 and rows > 1 else 0  # a row is a unit: set it apart where there is room
        if gap and extent_of(rows, side, gap) > room[1]:
            gap = 0
        return Tile(block.main, shape, (side, side), gap=(gap, 0))
    if columns / rows == aspect:
        step = math.ceil(2 / cell)
        thinned = (step, step)
    else:
        thinned = (math.ceil(rows * 2 / max(high, 2)), math.ceil(columns * 2 / max(wide, 2)))
    cells = (-(-columns // thinned[1]), -(-rows // thinned[0]))
    size = (min(even(wide / cells[0]), biggest), min(even(high / cells[1]), biggest))
    if thinned[0] == thinned[1] > 1:
        size = (min(size), min(size))
    return Tile(block.main, shape, size, thinned=thinned)


def extent_of(rows: int, side: int, gap: int) -> int:
    return rows * side + (rows - 1) * gap


def _parts(shape: Grid) -> int:
    """Into how many columns the kernels of a layer are cut, so that it is neither a tower nor half empty."""
    if not shape.kernels:
        return 1
    units = shape.rows // shape.unit_rows
    if shape.columns * 2 >= shape.rows:
        return 1

    def badness(parts: int) -> float:
        per = -(-units // parts)
        return abs(math.log(shape.columns * parts / (per * shape.unit_rows) / 1.3)) + (per * parts - units) / units

    return min(range(1, units + 1), key=badness)


def _kernels(block: Block, wide: float, high: float, parts: int, rows: int, columns: int, biggest: int) -> Tile:
    shape = block.grid
    across, down = columns // shape.unit_columns, rows // shape.unit_rows
    gap = 2
    cell = min((wide - (across - 1) * gap) / columns, (high - (down - 1) * gap) / rows)
    if cell >= 2:
        side = min(even(cell), biggest)
        return Tile(
            block.main,
            shape,
            (side, side),
            parts=parts,
            group=(shape.unit_rows, shape.unit_columns),
            gap=(gap * (1 + (side >= 8)), gap * (1 + (side >= 8)))
            if (side * rows + (down - 1) * gap * 2 <= high and side * columns + (across - 1) * gap * 2 <= wide)
            else (gap, gap),
        )
    cell = min(wide / columns, high / rows)
    if cell >= 2:
        return Tile(block.main, shape, (even(cell), even(cell)), parts=parts)
    # one cell per kernel, or per so many kernels
    steps = (math.ceil(down * 2 / max(high, 2)), math.ceil(across * 2 / max(wide, 2)))
    step = max(steps)
    side = even(min(wide / -(-across // step), high / -(-down // step)))
    if parts > 1:
        parts = 1  # cut columns only where every kernel is whole
        steps = (
            math.ceil(shape.rows // shape.unit_rows * 2 / max(high, 2)),
            math.ceil(shape.columns // shape.unit_columns * 2 / max(wide, 2)),
        )
        thinned = (steps[0] * shape.unit_rows, steps[1] * shape.unit_columns)
        size = (even(wide / -(-shape.columns // thinned[1])), even(high / -(-shape.rows // thinned[0])))
        return Tile(block.main, shape, (min(size[0], biggest), min(size[1], biggest)), thinned=thinned)
    return Tile(block.main, shape, (side, side), thinned=(step * shape.unit_rows, step * shape.unit_columns))


def _strip(name: str, shape: Grid, area: float, room: tuple[int, int], measure: Measure, biggest: int) -> Tile:
    count = shape.columns
    height = even(12 * max(measure.unit, 0.6))
    side = min(even(math.sqrt(area / max(count, 1))), biggest)
    wide = min(max(math.sqrt(area * 12), 40 * measure.unit), room[0])
    if side * count <= wide or (side >= height and side * count <= room[0]):
        return Tile(
            name,
            shape,
            (side, min(max(side, height), even(room[1]))),
            gap=(0, 2 if side >= 16 and (side + 2) * count <= room[0] else 0),
        )
    rows = max(min(int(min(area / wide, room[1]) // (height + 2)), -(-count * side // int(wide))), 1)
    step = math.ceil(count * 2 / (wide * rows))
    cells = -(-count // step)
    cell = min(even(wide * rows / cells), biggest)
    rows = min(rows, -(-cells * cell // int(wide)))
    return Tile(
        name,
        shape,
        (cell, height),
        thinned=(1, step),
        parts=rows,
        across=False,
        group=(1, 1),
        gap=(2 if rows > 1 else 0, 0),
    )


def _along_rows(name: str, shape: Grid, main: Tile, measure: Measure) -> Tile:
    """A bias as an upright strip, one cell for each unit of ``main``."""
    wide, space = even(10 * max(measure.unit, 0.6)), even(6 * max(measure.unit, 0.6))
    wide = min(
        max(wide, main.cell[0] if main.thinned == (1, 1) and not main.grid.kernels else 0),
        even(22 * max(measure.unit, 0.6)),
    )
    x = main.x + main.width + space
    per_unit = main.grid.unit_rows
    if main.parts > 1:  # the kernels are cut into columns: the strip is not, so it stands for itself
        step = math.ceil(shape.columns * 2 / main.height)
        return Tile(
            name,
            shape,
            (wide, even(main.height / -(-shape.columns // step))),
            x,
            main.y,
            thinned=(step, 1),
            upright=True,
        )
    if main.thinned[0] > 1:
        return Tile(
            name, shape, (wide, main.cell[1]), x, main.y, thinned=(main.thinned[0] // per_unit, 1), upright=True
        )
    return Tile(name, shape, (wide, main.cell[1] * per_unit), x, main.y, upright=True, gap=(main.gap[0], 0))


def _along_columns(name: str, shape: Grid, main: Tile, above: Tile, measure: Measure) -> Tile:
    """A vector under ``main``, one cell for each of its columns."""
    high, space = even(10 * max(measure.unit, 0.6)), even(6 * max(measure.unit, 0.6))
    if main.grid.rows == 1:
        return replace(main, name=name, grid=shape, y=above.y + above.height + space // 2 * 2)
    high = min(max(high, main.cell[1] if main.thinned == (1, 1) else 0), even(22 * max(measure.unit, 0.6)))
    return Tile(
        name,
        shape,
        (main.cell[0], high),
        main.x,
        above.y + above.height + space,
        thinned=(1, main.thinned[1]),
        gap=(0, main.gap[1]),
    )
