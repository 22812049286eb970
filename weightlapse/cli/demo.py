"""``weightlapse demo``: train a real network on real handwritten digits, record it, film it, page it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from weightlapse.errors import InvalidArgument, missing_extra
from weightlapse.progress import bar
from weightlapse.store.sizes import size

if TYPE_CHECKING:
    import torch

EPOCHS, BATCH, SEED = 16, 64, 0
PAGE_BYTES = 2_000_000  # small enough to mail; the page says what it left out


def _digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """scikit-learn's 1797 bundled digits as (N, 1, 8, 8) float32 in [0, 1], three quarters for training."""
    import torch

    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise missing_extra("scikit-learn", extra="all", purpose="the demo's handwritten digits") from None
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images.astype(np.float32) / 16, labels, test_size=0.25, stratify=labels, random_state=SEED)
    x_train, x_test, y_train, y_test = (torch.from_numpy(np.ascontiguousarray(p)) for p in parts)
    return x_train.view(-1, 1, 8, 8), y_train.long(), x_test.view(-1, 1, 8, 8), y_test.long()


def _network() -> torch.nn.Module:
    """Two convolutions and two dense layers, 9 802 weights, the same at every call."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    layers = {
        "conv1": nn.Conv2d(1, 8, 3, padding=1), "act1": nn.LeakyReLU(0.1),
        "conv2": nn.Conv2d(8, 16, 3, padding=1), "act2": nn.LeakyReLU(0.1), "pool": nn.MaxPool2d(2), "flatten": nn.Flatten(),
        "fc1": nn.Linear(256, 32), "act3": nn.LeakyReLU(0.1), "fc2": nn.Linear(32, 10),
    }  # fmt: skip
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


def _train(path: Path | None, *, epochs: int = EPOCHS, overwrite: bool = False) -> tuple[torch.nn.Module, list[float]]:
    """Train from the same start; record into ``path`` when given. Returns the network and the seconds of each step."""
    import torch

    from weightlapse.capture.watch import watch

    x, y, x_test, y_test = _digits()
    network = _network()
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    recorder = None
    if path is not None:
        recorder = watch(
            network, path, optimizer=optimizer, example=x[:4], meta={"name": "digits"}, overwrite=overwrite
        )
    order = torch.Generator().manual_seed(SEED)
    seconds: list[float] = []
    with bar("training" if path is None else "training and recording", epochs) as advance:
        for epoch in range(epochs):
            for batch in torch.randperm(len(x), generator=order).split(BATCH)[:-1]:  # the last one holds only four
                start = time.perf_counter()
                loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seconds.append(time.perf_counter() - start)
                if recorder is not None:
                    recorder.log(loss=loss.item())
            if recorder is not None:
                with torch.no_grad():
                    recorder.log(test_accuracy=(network(x_test).argmax(1) == y_test).float().mean().item())
                recorder.mark(f"epoch {epoch + 1}")
            advance(1)
    if recorder is not None:
        recorder.close()
    return network, seconds


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    import torch

    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@click.command(name="demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("weightlapse-demo"),
    show_default=True,
    help="Folder for the results.",
)
def command(out: Path) -> None:
    """Train a real network on real handwritten digits, record every step, film it, and leave a page to explore."""
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", extra="all", purpose="the demo's network") from None
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "recording").is_dir())):
        raise InvalidArgument(
            f"{out} exists and is not an earlier demo; nothing was written. Give another folder with --out."
        )
    torch.set_num_threads(1)  # a network this small only loses by more, and the figures below become steady

    from weightlapse.film.movie import make_film
    from weightlapse.recording.recording import load
    from weightlapse.view.page_file import make_page

    out.mkdir(parents=True, exist_ok=True)
    _train(None, epochs=1)  # warms everything up, so that the two timed trainings start alike
    alone, plain = _train(None)
    network, recorded = _train(out / "recording", overwrite=True)
    x_test, y_test = _digits()[2:]
    with torch.no_grad():
        accuracy = (network(x_test).argmax(1) == y_test).float().mean().item()

    run = load(out / "recording")
    title = "A network learns to read digits"
    make_film(run, out / "film.mp4", title=title)
    make_film(run, out / "weights.png", title=title)
    make_page(run, out / "page.html", max_bytes=PAGE_BYTES)

    # the fastest tenth: what the steps cost when nothing else on the machine gets between them
    before, after = float(np.quantile(plain, 0.1)), float(np.quantile(recorded, 0.1))
    weights = sum(int(np.prod(shape)) for shape in run.shapes.values())
    same = "identical, bit for bit, to" if _same(alone, network) else "DIFFERENT from"
    click.echo(
        f"trained a convolutional network on 1348 handwritten digits: {accuracy:.1%} of 449 others read right\n"
        f"recorded  {run.frames} frames ({run.frames - 1} optimizer steps and the start) of {weights} weights\n"
        f"stored    {size(run.stored_nbytes)} for {size(run.nbytes)} of weights ({run.nbytes / run.stored_nbytes:.2f} to 1, bit-exact)\n"
        f"cost      {(after - before) * 1e6:+.0f} µs a step, on {before * 1e6:.0f} µs ({after / before - 1:+.1%}, undisturbed steps)\n"
        f"result    {same} the same training without a recorder\n"
        f"\n{out}/\n"
        "  film.mp4      every step as a film\n"
        "  weights.png   all weights at the end\n"
        "  page.html     explore it: open this file in a browser\n"
        "  recording/    every weight at every step\n"
        "\nnext\n"
        f"  weightlapse view {out}/recording\n"
        f"  weightlapse info {out}/recording --wiring\n"
        f"  weightlapse doctor {out}/recording\n"
        f"  weightlapse film {out}/recording -o slow.gif --steps 0:60 --fps 10"
    )
