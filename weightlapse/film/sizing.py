"""How large a plate is drawn for a given area: the size of its cells, thinning, and the strips along it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from weightlapse.film.plates import Measure, Placed, Plate, even
from weightlapse.film.tiles import Tile
from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.compose import strip
from weightlapse.picture.ticks import Tick
from weightlapse.picture.ticks import side as side_of

NUMBERED = (
    "convolution",
    "attention",
    "gates",
    "experts",
    "stack",
)  # kinds whose rows are told apart by numbers or names
SPACE = 8  # pixels between these and the picture
OBLONG = 6  # a cell is at most this many times longer than it is high


def sized(plate: Plate, area: float, width: int, shelf: int, measure: Measure, biggest: int) -> Placed:
    """The plate with its main picture drawn in about ``area`` pixels, at (0, 0)."""
    room = (max(width, 2), max(shelf - measure.label, 2))
    if len(plate.arrangement.shape) <= 1:
        main = _strip(plate.main, plate.arrangement, area, room, measure, biggest)
    else:
        gutter = _gutter(plate, measure)
        side = even(10 * max(measure.unit, 0.6)) + max(even(6 * measure.unit), 4) if plate.beside or plate.below else 0
        inside = room[0] - gutter - (side if plate.beside else 0), room[1] - (side if plate.below else 0)
        main = _main(plate.main, plate.arrangement, area, (max(inside[0], 2), max(inside[1], 2)), biggest)
    left = _ticked(plate, main, measure) if len(plate.arrangement.shape) > 1 else 0
    main = main.at(left, measure.label)
    tiles = [main]
    for name in plate.beside:
        tiles.append(_along_rows(name, math.prod(plate.shapes[name]), main, tiles[-1], measure))
    for name in plate.below:
        tiles.append(_along_columns(name, math.prod(plate.shapes[name]), main, tiles[-1], measure))
    right = max(tile.x + tile.width for tile in tiles)
    bottom = max(tile.y + tile.height for tile in tiles)
    wide = max(right, min(measure.narrowest, width)) if measure.label else right
    return Placed(plate, 0, 0, even(wide + 1), even(bottom + 1), tuple(tiles), measure.label, measure.words)


def ticks(plate: Plate, main: Tile, measure: Measure) -> tuple[Tick, ...]:
    """What is written at the left of ``main``: numbers of filters, names of gates or of query, key and value; of other kinds nothing."""
    if plate.kind.word not in NUMBERED or not measure.label:
        return ()
    return side_of(main.arrangement, down=True, cell=main.cell[1] / main.thinned[0], room=tick_size(measure) * 2).ticks


def tick_size(measure: Measure) -> int:
    """Size of these letters."""
    return max(measure.words - 3, 9)


def _width(texts: Sequence[str], measure: Measure) -> int:
    return even(max(map(len, texts), default=0) * 0.64 * tick_size(measure) + SPACE + 2) if texts else 0


def _gutter(plate: Plate, measure: Measure) -> int:
    """The most that ticks may need at the left of a picture."""
    if plate.kind.word not in NUMBERED or not measure.label:
        return 0
    names = [name for level in plate.arrangement.down for name in level.names] or [str(max(plate.arrangement.shape))]
    return _width(names, measure)


def _ticked(plate: Plate, main: Tile, measure: Measure) -> int:
    return _width([tick.text for tick in ticks(plate, main, measure)], measure)


def _main(name: str, arrangement: Arrangement, area: float, room: tuple[int, int], biggest: int) -> Tile:
    """Square cells of whole, even pixels where there is room for all, else one cell for several weights."""
    rows, columns = arrangement.rows, arrangement.cols
    aspect = min(max(columns / rows, 0.25), 4.0)
    wide, high = max(min(math.sqrt(area * aspect), room[0]), 2), max(min(math.sqrt(area / aspect), room[1]), 2)
    cell = min(wide / columns, high / rows)
    if cell >= 2 and columns / rows == aspect:
        side = min(even(cell), biggest)
        return Tile(name, arrangement, (side, side))
    if columns / rows == aspect:
        thinned = (math.ceil(2 / cell),) * 2
    else:
        thinned = (math.ceil(rows * 2 / high), math.ceil(columns * 2 / wide))
    cells = (-(-columns // thinned[1]), -(-rows // thinned[0]))
    size = (min(even(wide / cells[0]), biggest), min(even(high / cells[1]), biggest))
    if thinned[0] == thinned[1] > 1:
        size = (min(size), min(size))
    return Tile(name, arrangement, (min(size[0], OBLONG * size[1]), min(size[1], OBLONG * size[0])), thinned=thinned)


def _strip(
    name: str, arrangement: Arrangement, area: float, room: tuple[int, int], measure: Measure, biggest: int
) -> Tile:
    """A vector as one row, or, where it would be too long, in several lines."""
    count = arrangement.cols
    height = min(even(12 * max(measure.unit, 0.6)), even(room[1]))
    side = min(even(math.sqrt(area / count)), biggest)
    wide = max(min(max(math.sqrt(area * 12), 40 * measure.unit), room[0]), 2)
    if side * count <= wide or (side >= height and side * count <= room[0]):
        return Tile(name, arrangement, (side, min(max(side, height), even(room[1]))))
    rows = max(min(int(min(area / wide, room[1]) // height), -(-count * side // int(wide))), 1)
    lines = strip(count, rows) if rows > 1 else arrangement
    step = math.ceil(lines.cols * 2 / wide)
    cells = -(-lines.cols // step)
    return Tile(name, lines, (min(even(wide / cells), biggest), height), thinned=(1, step))


def _large(main: Tile, measure: Measure) -> bool:
    """Cells in which a number can be written: those of a bias are then as large."""
    return min(main.cell) >= 40 * max(measure.unit, 0.5)


def _along_rows(name: str, count: int, main: Tile, left: Tile, measure: Measure) -> Tile:
    """A bias as an upright strip, one cell for each unit of ``main`` where its units run straight down."""
    wide, space = even(10 * max(measure.unit, 0.6)), max(even(6 * measure.unit), 4)
    per_unit, rest = divmod(main.arrangement.rows, count)
    straight = not rest and not any(level.axis == main.arrangement.down[0].axis for level in main.arrangement.across)
    if main.thinned == (1, 1) and per_unit == 1:
        wide = min(
            max(wide, main.cell[0]), main.cell[0] if _large(main, measure) else even(22 * max(measure.unit, 0.6))
        )
    x, column = left.x + left.width + space, strip(count, 1, upright=True)
    if straight and main.thinned[0] == 1:
        return Tile(name, column, (wide, main.cell[1] * per_unit), x, main.y)
    if straight and main.thinned[0] % per_unit == 0:
        return Tile(name, column, (wide, main.cell[1]), x, main.y, thinned=(main.thinned[0] // per_unit, 1))
    step = math.ceil(
        count * 2 / main.height
    )  # its cells and those of the main picture are not of one size: it stands for itself
    return Tile(name, column, (wide, even(main.height / -(-count // step))), x, main.y, thinned=(step, 1))


def _along_columns(name: str, count: int, main: Tile, above: Tile, measure: Measure) -> Tile:
    """A vector under ``main``, one cell for each of its columns."""
    high, space = even(10 * max(measure.unit, 0.6)), max(even(6 * measure.unit), 4)
    if len(main.arrangement.shape) <= 1:
        return Tile(name, main.arrangement, main.cell, main.x, above.y + above.height + space // 2 * 2, main.thinned)
    if main.thinned == (1, 1):
        high = min(max(high, main.cell[1]), even(22 * max(measure.unit, 0.6)))
    return Tile(
        name, strip(count, 1), (main.cell[0], high), main.x, above.y + above.height + space, (1, main.thinned[1])
    )
