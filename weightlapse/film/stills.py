"""Single pictures: PNG, SVG, PDF, and numbered series of PNG."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.film.encode import rgb, whole_file
from weightlapse.film.panels import Moment
from weightlapse.film.scene import Scene
from weightlapse.film.surface import Surface
from weightlapse.progress import track

_PATTERN = re.compile(r"%0?\d*d")


def numbered(path: Path) -> bool:
    """Whether the name holds a place for a number: ``frame-%04d.png``."""
    return bool(_PATTERN.search(path.name))


def still(
    path: Path, scene: Scene, moment: Moment, size: tuple[int, int], table: NDArray[np.uint8], title: str
) -> None:
    """One picture of ``moment``."""
    if path.suffix.lower() != ".png":
        from weightlapse.film.vector import write_vector

        with whole_file(path) as out:
            write_vector(out, path.suffix.lower()[1:], scene, moment, size, table, title)
        return
    surface = Surface(size[0], size[1], table)
    scene.draw(surface, moment)
    with whole_file(path) as out:
        _png(out, surface, title, moment.step)


def pictures(
    path: Path, scene: Scene, moments: Iterable[Moment], size: tuple[int, int], table: NDArray[np.uint8]
) -> None:
    """One numbered PNG per moment, from 0."""
    if path.suffix.lower() != ".png" or len(_PATTERN.findall(path.name)) != 1:
        raise InvalidArgument(
            f"{path.name!r}: a series of pictures is PNG with one number in the name, such as 'frame-%04d.png'"
        )
    surface = Surface(size[0], size[1], table)
    for number, moment in enumerate(track(moments, "drawing")):
        scene.draw(surface, moment)
        with whole_file(path.with_name(path.name % number)) as out:
            _png(out, surface, path.stem, moment.step)


def _png(out: Any, surface: Surface, title: str, step: int) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_itxt("Title", title)
    words.add_itxt("Comment", f"weightlapse, step {step}")
    Image.fromarray(rgb(surface)).save(out, format="PNG", pnginfo=words, compress_level=4)
