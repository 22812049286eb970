"""Draws docs/explain/wiring.svg: one unit of a convolution in every tensor where it lives.

The cells are not placed by hand: they are the index matrices of a traced network. python docs/explain/wiring_drawing.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl

CELL, UNIT = 13, 2
COLOURS = {"out": "#2a78b8", "add": "#2a78b8", "mul": "#5b9a3c", "stat": "#8b8b8b", "in": "#d9822b"}
TELLS = {
    "conv.weight": "row 2 makes the unit: out",
    "conv.bias": "add",
    "norm.weight": "mul",
    "norm.running_mean": "stat",
    "fc.weight": "a block of 4 columns reads it: in (k = 4)",
}


def network() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(2, 5, 2), nn.BatchNorm2d(5), nn.Linear(20, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))

    return Net()


def cells(x: int, y: int, grid: np.ndarray, colour: str) -> list[str]:
    return [
        f'<rect x="{x + c * CELL}" y="{y + r * CELL}" width="{CELL - 1}" height="{CELL - 1}" rx="2" fill="{colour if on else "#dfe3e8"}"/>'
        for r, row in enumerate(grid)
        for c, on in enumerate(row)
    ]


def main() -> None:
    wiring = wl.trace(network(), torch.randn(4, 2, 3, 3))
    group = wiring.group("conv")
    parts, x = [], 24
    for name, text in TELLS.items():
        member = next(m for m in group.members if m.tensor == name)
        shape = wiring.shapes[name]
        grid = np.zeros((shape[0], int(np.prod(shape[1:]))), dtype=bool)
        if member.axis == 0:
            grid[member.index[UNIT]] = True
        else:
            grid[:, member.index[UNIT]] = True
        parts.append(f'<text x="{x}" y="34" class="name">{name}</text>')
        parts += cells(x, 46, grid, COLOURS[member.role])
        parts.append(f'<text x="{x}" y="{46 + grid.shape[0] * CELL + 18}" class="note">{text}</text>')
        x += max(grid.shape[1] * CELL, 8 * len(name), 6 * len(text)) + 26
    style = (
        "text{font-family:system-ui,sans-serif;fill:#3a4450}.name{font-size:12px;font-weight:600}.note{font-size:11px}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x} 160" width="{x}" height="160" role="img" aria-label="One unit in five tensors">'
    body = "\n".join(
        [head, f"<style>{style}</style>", '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>"]
    )
    (Path(__file__).parent / "wiring.svg").write_text(body + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
