"""Makes the notebooks of this folder from the programs in examples/documents: the same code in cells, with what to look at. Run it after changing either."""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE.parent / "documents"

# Of each document: its title and first words; what to look at before the cell that begins with the given words; the last cell; what to try.
TEXTS: dict[str, tuple[str, dict[str, str], str, str]] = {
    "neuron": (
        "# One neuron\n\nA neuron with two inputs and tanh learns `tanh(a + b)`. Where do its two weights go? Lines that end in `# weightlapse` record it; the rest is plain Keras.",
        {
            "rng =": "500 points, and what the neuron should say about them.",
            "print": "The callback records every weight before the first update and after each one: 16 batches an epoch make 16 frames.",
            "run =": "Read back: a tensor is an array over time, `run[name][frame]`. The bias is there too; nobody had to think of it.",
        },
        'wl.load("run")  # plays here: press the space bar, or draw at the time line',
        "- The target has the weights 1 and 1 and no bias. How near is the neuron, and does the bias make up for what the weights lack?\n"
        '- `wl.measure(run, "update_ratio")` is how much a step changes the weights, as a share of them. When has it learnt?\n'
        "- Train with `SGD(5.0)`, then ask `wl.diagnose(run)`.",
    ),
    "imitation": (
        "# Imitation\n\nNetwork A is drawn at random; network B learns to answer like A. Do B's weights become A's? Lines that end in `# weightlapse` record it; the rest is plain Keras.",
        {
            "def network": "Two networks of one build, with weights of their own.",
            "@tf": "One step of training, compiled. The recorder sees the optimizer inside of it.",
            "wl.watch": "A stands still: one frame. B is recorded at every update. `example` lets the recorder trace which numbers belong to the same hidden unit.",
            "print(wl": "A, B, B in A's order of units, and the difference, side by side.",
        },
        'wl.load("B")',
        '- The answers become alike; do the weights? `print(wl.compare("A", "B").verdict)` looks for a reordering of B\'s units that makes them so.\n'
        "- Train 2000 steps. Does the picture on the right go grey?\n"
        "- Whole answers: `weightlapse study imitation`, or the gallery.",
    ),
    "net2net": (
        "# Net2Net\n\nA trained network is copied into a wider one that should compute the same. It does; but look at what was copied. Lines that end in `# weightlapse` were added to plain PyTorch.",
        {
            "columns": "Four columns of very different size, and targets between -1 and 1. Nothing is scaled.",
            "def network": "The two builders; `wl.watch` is one line before the loop.",
            "teacher,": "The teacher.",
            "# The document": "The wider student: copied rows, and their copies divided.",
            "try:": "The losses agree. Ask whether that means anything: both networks may be dead.",
            "alive": "What the rule should have been, on a network that lives, with a certificate that says how it was tried.",
        },
        'wl.load("teacher")',
        '- Since which step is the teacher dead? `wl.measure(wl.load("teacher"), "norm")` shows what happened before.\n'
        "- Scale the columns (`x = (x - x.mean(0)) / x.std(0)`) and run everything again.\n"
        '- `wl.widen(teacher, {"0": 20}, x[:64])` now, and `grown.model` trains on.',
    ),
    "lift": (
        "# Lift\n\nA network writes the 26 weights of another one, anew for each sample, and learns from what one step of training would have made of them. Lines that end in `# weightlapse` record "
        "it; the rest is plain Keras.",
        {
            "x =": "`a² + 2bc` of three digits, and the shapes of the network that is written.",
            "lift =": "The writing network, and the optimizer of what it writes.",
            "def task": "The written network, as a function of its weights.",
            "@tf": "One sample: write, try, see where the weights should have gone, learn to write that.",
            "rec =": "Every sample is an update, so every sample is a frame.",
            "print(wl": "326 weights, sample by sample.",
        },
        'wl.load("lift")',
        "- Look at the rows of the second kernel: which of the 26 weights does the network really vary with its input?\n"
        '- `wl.measure(wl.load("lift"), "update_ratio")`: is it still learning at the end?\n'
        "- `wl.fit_lift` does the same updates in PyTorch, an epoch in a fraction of a second.",
    ),
    "mass": (
        "# Mass\n\nFifteen inputs, of which two are large and one decides. Which weights carry the answer? TensorFlow as it was: a graph, a session; values exist only inside of it, so the "
        "arrays that `session.run` gives are handed over. Lines that end in `# weightlapse` were added.",
        {
            "features": "Two large inputs, thirteen of noise; the sign of the first is the label.",
            "X, Y": "The graph.",
            "with tf": "Frames at steps 0, 40, 80, ...",
            "run =": "The share of the squared weights that each group has, at the end and over time.",
        },
        'wl.load("run")',
        "- Which of the two large inputs wins, and since when? And what does the noise have, all thirteen together?\n"
        "- Let the label be the sign of the second input, and run everything again.\n"
        "- Ten rules that were proposed for this picture, tried: `weightlapse study mass`, or the gallery.",
    ),
}


def code(program: str) -> str:
    """The program with its budget in place of the command line's."""
    text = re.sub(r'\A""".*?"""\n', "", program, flags=re.S)
    text = re.sub(r"^(\w+) = int\(sys\.argv\[1\]\) if .* else (.*)$", r"\1 = \2", text, flags=re.M)
    text = re.sub(r"^(\w+) = \[int\(n\) for n in sys\.argv.*\] or (\[.*\])$", r"\1 = \2", text, flags=re.M)
    return re.sub(r"^import sys\n", "", text, flags=re.M).strip() + "\n"


def paragraphs(text: str) -> list[str]:
    """The code between empty lines outside of functions; the imports are one."""
    found = [part.strip("\n") for part in re.split(r"\n\n+(?=\S)", text)]
    first = next(k for k, part in enumerate(found) if not part.startswith(("import", "from")))
    return ["\n".join(found[:first]), *found[first:]]


def notebook(name: str) -> str:
    title, words, last, tasks = TEXTS[name]
    cells: list[dict[str, object]] = []

    def add(kind: str, text: str) -> None:
        cell: dict[str, object] = {"cell_type": kind, "id": f"{name}-{len(cells)}", "metadata": {}}
        cells.append({**cell, **({"execution_count": None, "outputs": []} if kind == "code" else {}), "source": text.splitlines(keepends=True)})  # fmt: skip

    add("markdown", title)
    left = dict(words)
    for part in paragraphs(code((PROGRAMS / f"{name}.py").read_text(encoding="utf-8"))):
        for start in [start for start in left if part.startswith(start)]:
            add("markdown", left.pop(start))
        add("code", part)
    if left:
        raise SystemExit(f"{name}: no cell begins with {list(left)}")
    add("markdown", "The recording shows itself:")
    add("code", last)
    add(
        "markdown", f"**To try** (where a recording is made again: another name for it, or `overwrite=True`)\n\n{tasks}"
    )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}  # fmt: skip
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in TEXTS:
        (HERE / f"{name}.ipynb").write_text(notebook(name), encoding="utf-8")
