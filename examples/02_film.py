"""A film, a still and a plot of a recording made by hand, in plain NumPy."""

import numpy as np

import weightlapse as wl

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (256, 2))
target = np.sign(x[:, :1] * x[:, 1:])  # the four quarters of a square: no single neuron can do it
weights = {
    "hidden.weight": rng.normal(size=(2, 8)),
    "hidden.bias": np.zeros(8),
    "out.weight": rng.normal(size=(8, 1)) / 3,
}

with wl.watch(weights, "run") as rec:
    for _ in range(400):
        hidden = np.tanh(x @ weights["hidden.weight"] + weights["hidden.bias"])
        error = hidden @ weights["out.weight"] - target
        back = (error @ weights["out.weight"].T) * (1 - hidden**2)
        steps = {"hidden.weight": x.T @ back, "hidden.bias": back.sum(0), "out.weight": hidden.T @ error}
        weights = {name: value - 1.0 * steps[name] / len(x) for name, value in weights.items()}
        rec.step(weights, loss=float((error**2).mean()))

run = wl.load("run")
print(wl.make_film(run, "film.mp4", seconds=8))
print(wl.make_film(run, "last.png"))
wl.plot.lines(run, "out.weight").figure.savefig("lines.png")
print("loss", run.scalars["loss"][1], "->", run.scalars["loss"][-1])
