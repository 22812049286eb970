"""Keras and JAX trainings, healthy and with a planted fault, and what the doctor says of them: JSON on standard output."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np

import weightlapse as wl
from weightlapse.adapters.keras import WatchCallback

FOLDER = Path(sys.argv[1])
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 4, 256)
CENTRES = RNG.standard_normal((4, 12))
X = (CENTRES[Y] + 1.2 * RNG.standard_normal((256, 12))).astype("float32")
IMAGES = np.repeat(X[:, :, None, None], 4, 2).repeat(3, 3)
found = []


def judged(
    name: str, framework: str, folder: Path, expected: list[str] | None = None, where: str = "", fault: str = ""
) -> None:
    findings = [{"kind": f.kind, "tensor": f.tensor, "severity": f.severity} for f in wl.diagnose(wl.load(folder))]
    found.append(
        {
            "name": name,
            "framework": framework,
            "expected": expected,
            "where": where,
            "fault": fault,
            "findings": findings,
        }
    )


def keras_run(
    name,
    layers,
    *,
    rate=3e-3,
    x=X,
    y=Y,
    expected=None,
    where="",
    fault="",
    change=None,
    optimizer="adam",
    looked_at=False,
    loss=None,
):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(4, name="last")], name="net")
    if change is not None:
        change(model)
    made = {"adam": keras.optimizers.Adam(rate), "sgd": keras.optimizers.SGD(rate, momentum=0.9)}.get(
        optimizer, optimizer
    )
    model.compile(made, loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {"example": x[:16]} if looked_at else {}
    folder = FOLDER / name.replace(" ", "_").replace(",", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y, batch_size=32, epochs=8, verbose=0, shuffle=False, callbacks=[WatchCallback(folder, **options)])
    judged(name, "Keras", folder, expected, where, fault)


def off(layer):
    def change(model):
        bias = model.layers[layer].bias
        bias.assign(np.asarray(bias) - 50)

    return change


def steep(model):
    kernel = model.layers[0].kernel
    kernel.assign(np.asarray(kernel) * 100)


def dense(units, activation, name):
    return keras.layers.Dense(units, activation=activation, name=name)


def poisoned(model):
    kernel = model.layers[0].kernel
    kernel.assign(np.asarray(kernel) * np.where(np.arange(16) == 3, np.nan, 1))


def copied(model):
    first, second = model.layers[0].kernel, model.layers[1].kernel
    a, b = np.array(first), np.array(second)
    a[:, 9], b[9] = a[:, 4], b[4]
    first.assign(a)
    second.assign(b)


keras_run("dense, ReLU, Adam", [dense(16, "relu", "first"), dense(16, "relu", "second")])
keras_run("convolution, batch norm, SGD", [keras.layers.Conv2D(8, 3, activation="relu", name="conv"), keras.layers.BatchNormalization(name="norm"), keras.layers.Flatten()], x=IMAGES, rate=0.01, optimizer="sgd")  # fmt: skip
keras_run(
    "learning rate too high",
    [dense(16, "relu", "first")],
    rate=0.3,
    optimizer="adam",
    expected=["lr_high"],
    where="*",
    fault="Adam, 0.3",
)
keras_run(
    "NaN from the start",
    [dense(16, "tanh", "first")],
    expected=["nonfinite"],
    where="net/first/kernel",
    fault="one column of a kernel",
    change=poisoned,
)
keras_run(
    "copied units",
    [dense(16, "tanh", "first"), dense(8, "tanh", "second")],
    expected=["replicas"],
    where="net/first/kernel",
    fault="unit 9 is unit 4",
    change=copied,
)

frozen = dense(16, "relu", "frozen")
frozen.trainable = False
keras_run("fine-tuning: one layer of three frozen", [dense(16, "relu", "first"), frozen], looked_at=True)
keras_run("LSTM, Adam", [keras.layers.Reshape((3, 4)), keras.layers.LSTM(8, name="lstm")], looked_at=True)
two = [dense(16, "relu", "first"), dense(16, "relu", "second")]
keras_run("first ReLU layer dead", two, expected=["dead"], where="net/first/kernel", fault="first biases at -50 from the start, Adam", change=off(0), looked_at=True)  # fmt: skip
apart = [
    dense(16, "relu", "first"),
    keras.layers.Dense(16, name="second"),
    keras.layers.ReLU(),
    dense(16, "relu", "third"),
]
keras_run("middle ReLU layer dead", apart, expected=["dead"], where="net/second/kernel", fault="biases of the second layer at -50, ReLU as a layer of its own", change=off(1), looked_at=True)  # fmt: skip
keras_run("tanh layer saturated", [dense(16, "tanh", "first"), dense(16, "tanh", "second")], expected=["saturated"], where="net/first/kernel", fault="first layer times 100, Adam", change=steep, looked_at=True)  # fmt: skip
keras_run("decay too strong", [dense(16, "relu", "first")], expected=["decay_dominated"], where="*", fault="AdamW, weight_decay=10", optimizer=keras.optimizers.AdamW(3e-3, weight_decay=10.0))  # fmt: skip


def loss_of(params, x, y):
    h = jnp.tanh(x @ params["a"]["w"] + params["a"]["b"])
    logits = h @ params["b"]["w"] + params["b"]["b"]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])


GRADIENT = jax.jit(jax.value_and_grad(loss_of))


def jax_run(name, *, rate=0.1, scale=0.3, skip="", expected=None, where="", fault="", steps=80, jump=None):
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "a": {"w": scale * jax.random.normal(keys[0], (12, 16)), "b": jnp.zeros(16)},
        "b": {"w": 0.3 * jax.random.normal(keys[1], (16, 4)), "b": jnp.zeros(4)},
    }
    folder = FOLDER / ("jax_" + name.replace(" ", "_").replace(",", ""))
    rng = np.random.default_rng(1)
    with wl.watch(params, folder) as rec:
        for step in range(1, steps + 1):
            pick = rng.integers(0, len(X), 32)
            loss, grads = GRADIENT(params, X[pick], Y[pick])
            now = rate if jump is None or step != jump else 3000 * rate
            held = params[skip] if skip else None
            params = jax.tree.map(lambda p, g: p - now * g, params, grads)  # noqa: B023
            if skip:
                params[skip] = {"w": held["w"], "b": params[skip]["b"]}
            rec.step(params, loss=float(loss))
    judged(name, "JAX", folder, expected, where, fault)


jax_run("dense, tanh, gradient descent")
jax_run(
    "forgotten by the optimizer", skip="a", expected=["never_updated"], where="a.w", fault="one matrix never updated"
)
jax_run(
    "learning rate jumps", jump=50, expected=["loss_spike", "divergence"], where="*", fault="one step 3000 times as far"
)
print(json.dumps(found))
