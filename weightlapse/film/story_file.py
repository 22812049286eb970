"""What lies beside a film that tells a story: a poster frame, and a JSON file of what is shown when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.errors import InvalidArgument
from weightlapse.film.encode import whole_file
from weightlapse.film.scene import Order
from weightlapse.film.story import Story, by_tensor
from weightlapse.film.story_map import letter
from weightlapse.recording.run import Run

KEY = "weightlapse film"


def beside(film: Path) -> tuple[Path, Path]:
    """The poster and the description of ``film``: ``x.poster.png``, ``x.json``.

    Raises InvalidArgument where the description would replace a file that is none.
    """
    poster, told = film.with_name(film.stem + ".poster.png"), film.with_suffix(".json")
    if told.exists():
        try:
            known = KEY in json.loads(told.read_text(encoding="utf-8"))
        except (ValueError, OSError, TypeError):
            known = False
        if not known:
            raise InvalidArgument(
                f"{str(told)!r} exists and is no description of a film; it would be replaced. "
                "Give the film another name, or story=False to write the film alone"
            )
    return poster, told


def poster_picture(story: Story, pictures: int) -> int:
    """The picture that tells most: where something breaks, or else the end of the film."""
    broken = [caption.picture for caption in story.captions if caption.severity == "error"]
    return broken[0] if broken else pictures - 1


def describe(run: Run, order: Order, story: Story, fps: float, title: str) -> dict[str, Any]:
    """Everything that the film shows and when, as JSON can hold it."""
    steps = np.asarray(run.steps)
    shown = order.frames
    rates = by_tensor(story)
    return {
        KEY: 1,
        "title": title,
        "size": list(order.size),
        "pictures": len(shown),
        "fps": fps,
        "seconds": len(shown) / fps,
        "time": {
            "first_step": int(steps[shown].min()),
            "last_step": int(steps[shown].max()),
            "axis": "log" if order.log_steps else "linear",
            "note": order.note,
        },
        "colours": {"scale": order.scale, "change": "relative change per step", "sampled": story.changes.sampled},
        "network": [
            {
                "row": row,
                "layers": [
                    {
                        "tensors": list(plate.names),
                        "kind": plate.kind.word,
                        "weights": sum(int(np.prod(plate.shapes[name])) for name in plate.names),
                        "change_per_step": {name: rates[name] for name in plate.names},
                    }
                    for plate in part
                ],
            }
            for row, part in story.rows
        ],
        "chapters": [
            {
                "pictures": [chapter.start, chapter.stop],
                "seconds": [chapter.start / fps, chapter.stop / fps],
                "frames": list(chapter.frames),
                "steps": list(chapter.steps),
                "enlarged": [
                    {"letter": letter(i), "tensor": name, "change_per_step": rate}
                    for i, (name, rate) in enumerate(chapter.leaders)
                ],
            }
            for chapter in story.chapters
        ],
        "captions": [
            {
                "picture": caption.picture,
                "seconds": caption.picture / fps,
                "step": caption.step,
                "text": caption.text,
                "kind": caption.kind,
                "severity": caption.severity,
                "tensor": caption.tensor or None,
            }
            for caption in story.captions
        ],
        "not_examined": story.unexamined or None,
    }


def write(target: Path, told: dict[str, Any]) -> None:
    """The description as a file, whole or not at all."""
    with whole_file(target) as file:
        file.write((json.dumps(told, indent=1, allow_nan=False) + "\n").encode())
