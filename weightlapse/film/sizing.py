"""How large a block is drawn for a given area: the size of its cells, thinning, folding, and the strips along it."""

from __future__ import annotations

import math
from dataclasses import replace

from weightlapse.film.blocks import Block, Measure, Placed, even
from weightlapse.film.grids import Grid, extent, grid
from weightlapse.film.tiles import Tile


def sized(block: Block, area: float, width: int, shelf: int, measure: Measure, biggest: int) -> Placed:
    """The block with its main grid drawn in about ``area`` pixels, at (0, 0)."""
    room = (max(width, 2), max(shelf - measure.label, 2))
    if block.grid.rows == 1 and not block.grid.kernels:
        main = _strip(block.main, block.grid, area, room, measure, biggest)
    else:
        side = even(10 * max(measure.unit, 0.6)) + max(even(6 * measure.unit), 4) if block.beside or block.below else 0
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
    wide = max(right, min(measure.narrowest, width)) if measure.label else right
    return Placed(block, 0, 0, even(wide + 1), even(bottom + 1), tuple(tiles), measure.label, measure.words)


def _matrix(block: Block, area: float, room: tuple[int, int], biggest: int) -> Tile:
    shape = block.grid
    parts = column_parts(shape)
    rows, columns = -(-shape.rows // shape.unit_rows // parts) * shape.unit_rows, shape.columns * parts
    aspect = min(max(columns / rows, 0.25), 4.0)
    wide, high = min(math.sqrt(area * aspect), room[0]), min(math.sqrt(area / aspect), room[1])
    if shape.kernels:
        return _kernels(block, wide, high, parts, rows, columns, biggest)
    cell = min(wide / columns, high / rows)
    if cell >= 2 and columns / rows == aspect:
        side = min(even(cell), biggest)
        gap = 2 if side >= 16 and rows > 1 else 0  # a row is a unit: set it apart where there is room
        if gap and extent(rows, side, 1, gap) > room[1]:
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
    return Tile(block.main, shape, (min(size[0], 6 * size[1]), min(size[1], 6 * size[0])), thinned=thinned)


def column_parts(shape: Grid) -> int:
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
    """Kernels set apart by gaps; without gaps where there is little room; one cell for one or several kernels where there is less."""
    shape = block.grid
    unit = (shape.unit_rows, shape.unit_columns)
    for gap in (4, 2, 0):
        across, down = (columns // unit[1] - 1) * gap, (rows // unit[0] - 1) * gap
        cell = min((wide - across) / columns, (high - down) / rows)
        if cell >= (8 if gap == 4 else 2):
            side = min(even(cell), biggest)
            return Tile(block.main, shape, (side, side), parts=parts, group=unit, gap=(gap, gap))
    units = (shape.rows // unit[0], shape.columns // unit[1])
    steps = (math.ceil(units[0] * 2 / max(high, 2)), math.ceil(units[1] * 2 / max(wide, 2)))
    size = (min(even(wide / -(-units[1] // steps[1])), biggest), min(even(high / -(-units[0] // steps[0])), biggest))
    return Tile(
        block.main,
        shape,
        (min(size[0], 6 * size[1]), min(size[1], 6 * size[0])),
        thinned=(steps[0] * unit[0], steps[1] * unit[1]),
    )


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


def _large(main: Tile, measure: Measure) -> bool:
    """Cells in which a number can be written: those of a bias are then as large."""
    return min(main.cell) >= 40 * max(measure.unit, 0.5)


def _along_rows(name: str, shape: Grid, main: Tile, measure: Measure) -> Tile:
    """A bias as an upright strip, one cell for each unit of ``main``."""
    wide, space = even(10 * max(measure.unit, 0.6)), max(even(6 * measure.unit), 4)
    wide = min(
        max(wide, main.cell[0] if main.thinned == (1, 1) and not main.grid.kernels else 0),
        main.cell[0] if _large(main, measure) else even(22 * max(measure.unit, 0.6)),
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
    high, space = even(10 * max(measure.unit, 0.6)), max(even(6 * measure.unit), 4)
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
