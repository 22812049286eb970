"""The pictures in the documentation are made by the program that says so."""

from __future__ import annotations

from pathlib import Path

from tests.framework_presence import require
from tests.scripts import run_script

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"


def shape(path: Path) -> tuple[tuple[int, int], int]:
    """Size and number of pictures."""
    from PIL import Image

    with Image.open(path) as image:
        return image.size, getattr(image, "n_frames", 1)


def test_pictures_are_made_by_their_program(tmp_path: Path) -> None:
    require("torch", "sklearn", "matplotlib")
    out = tmp_path / "out"
    out.mkdir()
    done = run_script(PICTURES / "film.py", tmp_path, str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    made = {path.name for path in out.iterdir()}
    assert made == {"digits.gif", "growth.gif", "pair.png", "plots.png", "story.png"}
    for name in made:
        assert shape(out / name) == shape(PICTURES / name)  # training differs in its last digits between machines
