"""How fast is a network that writes weights per input, against one framework call per sample and against hypernetwork libraries?

All train the same thing where they can: x^2 + 2yz on integers 0..9, a 3-10-26 generator for a 3-5-1 task, target rule, batch 1, RMSprop on
both sides. Rounds alternate between the competitors, and the fastest counts: what else runs on a machine only ever adds.

    python bench/lift.py [--rounds N] [--peers FOLDER]     FOLDER: where hypnettorch and hyper-nn lie, if not installed
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

import weightlapse as wl
from weightlapse.lift.generators import glorot_

HERE = Path(__file__).parent
ROWS = 10_000
Train = Callable[[int], None]  # trains on so many samples


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(0, 10, (ROWS, 3), generator=torch.Generator().manual_seed(0)).float()
    return x, (x[:, 0] ** 2 + 2 * x[:, 1] * x[:, 2])[:, None]


def task() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))


def generator() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 26))
    glorot_(made)
    return made


def ours(engine: str) -> Train:
    x, y = data()
    net = wl.Lift(task(), generator())
    return lambda count: wl.fit_lift(net, x[:count], y[:count], engine=engine) and None


def rms(parameters: list[torch.Tensor], gradients: list[torch.Tensor], moments: list[torch.Tensor]) -> None:
    for p, g, v in zip(parameters, gradients, moments, strict=True):
        v.mul_(0.9).addcmul_(g, g, value=0.1)
        p.data.addcdiv_(g, v.sqrt().add_(1e-7), value=-1e-3)


def per_sample(
    write: Callable[[torch.Tensor], list[torch.Tensor]], run: Callable, parameters: list[torch.Tensor]
) -> Train:
    """The target rule with autograd, one sample at a time, around any generator (``write``) and any way to ``run`` the task."""
    x, y = data()
    moments = [torch.zeros_like(p) for p in parameters]
    task_moments: list[torch.Tensor] = []

    def train(count: int) -> None:
        for i in range(count):
            written = write(x[i : i + 1])
            moved = [w.detach().clone().requires_grad_() for w in written]
            gradients = torch.autograd.grad(((run(x[i : i + 1], moved) - y[i : i + 1]) ** 2).mean(), moved)
            if not task_moments:
                task_moments.extend(torch.zeros_like(w) for w in moved)
            rms(moved, list(gradients), task_moments)
            size = sum(w.numel() for w in moved)
            loss = sum(((w - m.detach()) ** 2).sum() for w, m in zip(written, moved, strict=True)) / size
            rms(parameters, list(torch.autograd.grad(loss, parameters)), moments)

    return train


def torch_loop() -> Train:
    net, lift = task(), generator()
    names, shapes = [n for n, _ in net.named_parameters()], [p.shape for p in net.parameters()]
    sizes = [p.numel() for p in net.parameters()]

    def write(x: torch.Tensor) -> list[torch.Tensor]:
        return [w.reshape(s) for w, s in zip(lift(x)[0].split(sizes), shapes, strict=True)]

    return per_sample(
        write, lambda x, w: functional_call(net, dict(zip(names, w, strict=True)), (x,)), list(lift.parameters())
    )


def keras_loop(by_fit: bool) -> Train:
    import keras

    def compiled(*widths: int) -> keras.Model:
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(widths[0], "relu"), keras.layers.Dense(widths[1])]
        )
        model.compile(keras.optimizers.RMSprop(1e-3, 0.9, epsilon=1e-7), "mse")
        return model

    x, y = (t.numpy() for t in data())
    net, lift = compiled(5, 1), compiled(10, 26)

    def train(count: int) -> None:
        for i in range(count):
            flat = lift(x[i : i + 1]).numpy()[0]
            net.set_weights([flat[:15].reshape(3, 5), flat[15:20], flat[20:25].reshape(5, 1), flat[25:]])
            step = net.fit if by_fit else net.train_on_batch
            step(x[i : i + 1], y[i : i + 1], **({"verbose": 0} if by_fit else {}))
            target = np.concatenate([w.ravel() for w in net.get_weights()])[None]
            step = lift.fit if by_fit else lift.train_on_batch
            step(x[i : i + 1], target, **({"verbose": 0} if by_fit else {}))

    return train


def hypnettorch_nets() -> tuple[nn.Module, nn.Module]:
    from hypnettorch.hnets import HMLP
    from hypnettorch.mnets import MLP

    net = MLP(n_in=3, n_out=1, hidden_layers=[5], no_weights=True, verbose=False)
    lift = HMLP(net.param_shapes, uncond_in_size=3, cond_in_size=0, layers=(10,), no_cond_weights=True, verbose=False)
    return net, lift


def hypnettorch() -> Train:
    net, lift = hypnettorch_nets()
    return per_sample(
        lambda x: lift(uncond_input=x),
        lambda x, w: net(x, weights=w),
        [p for p in lift.parameters() if p.numel()],
    )


def hyper_nn_net() -> nn.Module:
    from hypernn.torch import TorchDynamicHyperNetwork

    return TorchDynamicHyperNetwork.from_target(task(), embedding_dim=10, num_embeddings=3, input_dim=3)


def hyper_nn() -> Train:
    made = hyper_nn_net()
    return per_sample(
        lambda x: [made.generate_params(x)[0]], lambda x, w: made.target_forward(x, generated_params=w[0]),
        [p for p in made.parameters() if p.numel()],
    )  # fmt: skip


def forwards() -> dict[str, tuple[int, Callable[[int], object]]]:
    """name -> (rows measured, function of a number of rows): outputs on rows that each have their own weights."""
    x, _ = data()
    net = wl.Lift(task(), generator())
    names = [n for n, _ in task().named_parameters()]
    plain, written = task(), net.weights_for(x)
    found: dict[str, tuple[int, Callable[[int], object]]] = {
        "weightlapse `net(x)`": (ROWS, lambda n: net(x[:n])),
        "weightlapse, any task (vmap)": (ROWS, lambda n: net._run_any(x[:n], net.flat_weights_for(x[:n]))),
        "torch, `functional_call` per row": (
            300, lambda n: [functional_call(plain, {k: written[k][i] for k in names}, (x[i : i + 1],)) for i in range(n)],
        ),
    }  # fmt: skip
    try:
        hnet, hlift = hypnettorch_nets()
        found["hypnettorch, row by row"] = (
            300,
            lambda n: [hnet(x[i : i + 1], weights=hlift(uncond_input=x[i : i + 1])) for i in range(n)],
        )
        made = hyper_nn_net()
        found["hyper-nn, row by row"] = (
            300,
            lambda n: [made(x[i : i + 1], generate_params_kwargs={"x": x[i : i + 1]}) for i in range(n)],
        )
    except ImportError:
        pass
    return found


COMPETITORS: dict[str, tuple[Callable[[], Train], int, str]] = {
    "weightlapse, NumPy": (lambda: ours("numpy"), ROWS, "exact, float64"),
    "weightlapse, compiled": (lambda: ours("numba"), ROWS, "exact, float64"),
    "torch autograd, one call per sample": (torch_loop, 200, "exact, float32"),
    "Keras, train_on_batch per sample": (lambda: keras_loop(False), 40, "exact but for epsilon (inside the root)"),
    "Keras, fit per sample (as first published)": (
        lambda: keras_loop(True),
        6,
        "exact but for epsilon (inside the root)",
    ),
    "hypnettorch, one call per sample": (
        hypnettorch,
        200,
        "takes one weight set per call: a batch with per-input weights is refused",
    ),
    "hyper-nn, one call per sample": (hyper_nn, 200, "only its own RNN generator (another network), batch 1 only"),
}


def measure(run: Callable[[int], object], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.peers is not None:
        sys.path.insert(0, str(arguments.peers))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    ours("auto")(ROWS)
    first = time.perf_counter() - start
    trains: dict[str, Train] = {}
    notes = {name: note for name, (_, _, note) in COMPETITORS.items()}
    for name, (make, _, _) in COMPETITORS.items():
        try:
            trains[name] = make()
            trains[name](2)
        except ImportError as error:
            notes[name] = f"not installed ({error.name})"
    speeds: dict[str, list[float]] = {name: [] for name in trains}
    for _ in range(arguments.rounds):
        for name, train in trains.items():
            speeds[name].append(measure(train, COMPETITORS[name][1]))
    base = max(speeds["weightlapse, NumPy"])
    facts = f"{len(os.sched_getaffinity(0))} cores, one thread, Python {platform.python_version()}, torch {torch.__version__}, "
    facts += f"NumPy {np.__version__}, weightlapse {wl.__version__}; fastest of {arguments.rounds} rounds"
    lines = [
        "# Networks that write weights: speed",
        "",
        facts,
        "",
        "## Training online (target rule, one update per sample)",
        "",
    ]
    lines += [
        "| | samples per second | an epoch of 10 000 | NumPy loop is faster by | remark |",
        "|---|---|---|---|---|",
    ]
    for name in COMPETITORS:
        if name not in speeds:
            lines.append(f"| {name} | | | | {notes[name]} |")
            continue
        speed = max(speeds[name])
        lines.append(f"| {name} | {speed:,.0f} | {ROWS / speed:,.2f} s | {base / speed:,.2f} | {notes[name]} |")
    lines += ["", f"The first call in a fresh process, 10 000 samples and all: {first:.2f} s.", ""]
    lines += ["## Running a batch in which every row has its own weights", "", "| | 10 000 rows |", "|---|---|"]
    with torch.no_grad():
        for name, (count, run) in forwards().items():
            run(min(count, 50))
            seconds = min(ROWS / measure(run, count) for _ in range(arguments.rounds))
            lines.append(f"| {name} | {seconds * 1e3:,.1f} ms |")
    text = "\n".join(lines) + "\n"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "lift.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
