"""Keras networks as first-class citizens on one backend: a share of the zoo, twins with other names, growth, a Lift, films, wirings in recordings."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from keras import layers as L

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import weightlapse as wl
from tests import keras_zoo as zoo
from weightlapse.adapters.keras import WatchCallback

FOLDER, BACKEND = Path(sys.argv[1]), os.environ["KERAS_BACKEND"]
assert keras.backend.backend() == BACKEND
random.seed(0)
np.random.seed(0)  # noqa: NPY002  fit shuffles with it

# ---- a share of the zoo, each backend another one, so that all three together see most of it ---------------------------------
SHARE = {
    "tensorflow": (
        "dense_batch_norm",
        "conv_batch_norm",
        "separable",
        "lstm",
        "attention",
        "several_inputs",
        "grouped",
    ),
    "jax": ("dense_prelu", "conv_transposed", "depthwise", "bidirectional", "transformer"),
    "torch": (
        "dense_relu_dropout",
        "conv_one_dimension",
        "residual",
        "gru",
        "grouped_attention",
        "nested",
        "subclassed",
    ),
}
for name in SHARE[BACKEND]:
    found = zoo.check(name, zoo.ZOO[name], grow=1)
    assert found.sizes == zoo.SIZES[name], (name, found.sizes)
    assert max(found.permuted, found.aligned) < 1e-5, (name, found)
    assert len(found.grown) + len(found.refused) == 1
    assert all("'" in why for why in found.refused.values())


# ---- two networks of one architecture, with the numbers that Keras gave their layers --------------------------------------------
def net(*names):
    a, b, c = names or (None, None, None)
    return keras.Sequential(
        [keras.Input((3,)), L.Dense(8, "tanh", name=a), L.Dense(10, "relu", name=b), L.Dense(2, name=c)]
    )


x = np.random.default_rng(0).standard_normal((32, 3)).astype("float32")
y = x[:, :2] * x[:, 1:]
first = net()
paths = [v.path for v in first.variables]
for twin in (net(), net("p", "q", "r"), keras.models.clone_model(first)):
    own = [v.path for v in twin.variables]
    w = wl.trace(first, x)
    state = zoo.state_of(first)
    for g in w.groups:
        state = wl.permute(state, w, g.name, np.roll(np.arange(g.size), 3))
    for v, n in zip(twin.variables, paths, strict=True):
        v.assign(state[n])
    found = wl.compare(first, twin, data=x)
    assert found.verdict == "same up to symmetry", found.explain()
    al = wl.align(first, twin, w)
    assert al.distance_after < 1e-6
    assert list(al.state) == own
    assert list(al.apply(zoo.state_of(twin))) == own
    assert all(np.allclose(al.state[n], v) for n, v in zip(own, zoo.state_of(first).values(), strict=True))
    said = wl.diff(first, twin, wiring=w).summary
    assert "in another order" in said, said
    assert "the same function" in said, said
assert wl.compare(first, net(), data=x).verdict == "different"
other = net()
for v, n in zip(other.variables, first.variables, strict=True):
    v.assign(np.array(keras.ops.convert_to_numpy(n.value)))
assert wl.diff(first, other).identical
wider = keras.Sequential([keras.Input((3,)), L.Dense(8, "tanh"), L.Dense(11, "relu"), L.Dense(1)])
assert wl.compare(first, wider, data=x).verdict == "different"

# ---- recordings of both: the wiring is stored, the film aligns them ---------------------------------------------------------------
runs = []
for i, model in enumerate((net(), net())):
    model.compile("sgd", "mse")
    model.fit(x, y, epochs=2, batch_size=16, verbose=0, callbacks=[WatchCallback(FOLDER / f"run{i}", example=x[:4])])
    runs.append(wl.load(FOLDER / f"run{i}"))
assert all(len(run.wiring.groups) == 2 for run in runs)
aligned = wl.align_runs(*runs)
assert aligned.aligned_distance[-1] < aligned.raw_distance[-1]
assert aligned[runs[0].names[0]].shape == (5, 3, 8)
wl.make_film(runs[0], FOLDER / "pair.gif", other=runs[1], fps=2, size=(480, 300))
assert (FOLDER / "pair.gif").stat().st_size > 1000
holder = zoo.Holder()
with wl.watch(holder, FOLDER / "holder", example=x) as rec:
    rec.step()
assert len(wl.load(FOLDER / "holder").wiring.groups) == 3
assert not holder.built

# ---- grown: compiled as before, the optimizer comes along, training goes on ---------------------------------------------------------
kept = zoo.state_of(first)
for optimizer in ("adam", keras.optimizers.SGD(0.01, momentum=0.9), keras.optimizers.RMSprop(0.001))[
    : 1 if BACKEND == "jax" else 3
]:
    model = net()
    model.compile(optimizer, "mse")
    model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    before, loss = zoo.state_of(model), model.evaluate(x, y, verbose=0)
    g = wl.widen(model, {model.layers[0].name: 12, model.layers[1].name: 15}, x)
    assert g.error < 1e-12
    assert g.optimizer is g.model.optimizer
    assert int(keras.ops.convert_to_numpy(g.optimizer.iterations)) == 4
    assert np.isclose(g.model.evaluate(x, y, verbose=0), loss, rtol=1e-4)
    moments = {v.path.rpartition("/")[2]: v for v in g.optimizer.variables}
    assert any(
        np.abs(keras.ops.convert_to_numpy(v.value)).max() > 0
        for n, v in moments.items()
        if n.endswith(("momentum", "velocity"))
    )
    g.model.fit(x, y, epochs=1, verbose=0)
    assert all(np.array_equal(before[n], v) for n, v in zoo.state_of(model).items()), "the argument was touched"
small = wl.narrow(wl.widen(first, {first.layers[0].name: 12}, x).model, x)
assert [v.shape[0] for v in small.model.variables][:2] == [3, 8]
assert small.error < 1e-5
for after, made in (
    (first.layers[0].name, 3),
    (first.layers[1].name, 1),
):  # a residual insert behind tanh, an identity behind relu
    g = wl.deepen(first, x, after=after)
    assert g.error < 1e-12
    assert sum(o is None for o in g.origin.values()) == (4 if made == 3 else 2), g.origin
    assert zoo.change(zoo.outputs(first, x), zoo.outputs(g.model, x)) < 1e-5
    again = keras.models.model_from_json(g.model.to_json()) if made == 3 else g.model
    assert len(again.variables) == len(g.model.variables)
assert all(np.array_equal(kept[n], v) for n, v in zoo.state_of(first).items())


def of_models(kind):
    """A model in a model: sequential in sequential, functional in functional, two deep, and one that is called twice."""
    inner = keras.Sequential(
        [keras.Input((5,)), L.Dense(6, "relu", name="deep"), L.Dense(5, "tanh", name="last")], name="inner"
    )
    if kind == "sequential":
        return keras.Sequential([keras.Input((3,)), L.Dense(5, "tanh"), inner, L.Dense(2)])
    a = keras.Input((3,))
    h = L.Dense(5, "tanh")(a)
    if kind == "two deep":
        b = keras.Input((5,))
        inner = keras.Model(b, L.Add()([inner(b), b]), name="middle")
    h = inner(h)
    return keras.Model(a, L.Dense(2)(inner(h) if kind == "twice" else h))


for kind in ("sequential", "functional", "two deep", "twice") if BACKEND == "torch" else ("two deep",):
    for after, new in (("deep", 2), ("inner/last", 4)):
        outer = of_models(kind)
        g = wl.deepen(outer, x, after=after)
        assert g.error < 1e-12
        assert sum(o is None for o in g.origin.values()) == new, g.origin
        assert {o for o in g.origin.values() if o} == {v.path for v in outer.variables}
        assert zoo.change(zoo.outputs(outer, x), zoo.outputs(g.model, x)) < 1e-5
        if BACKEND == "tensorflow":
            g.model.compile("sgd", "mse")
            g.model.fit(x, y, verbose=0)


# ---- narrow: a dead unit, a constant one, a double, one that nobody reads; dense, convolutional, recurrent readers ---------------------
def planted(model, reader):
    """Units 0 to 3 of the first layer are made superfluous, one for each reason."""
    kernel, bias = model.layers[0].kernel, model.layers[0].bias
    k, b = (np.array(keras.ops.convert_to_numpy(v)) for v in (kernel, bias))
    k[..., :2], b[:2], k[..., 2], b[2] = 0, (-1, 0.7), k[..., 3], b[3]
    kernel.assign(k)
    bias.assign(b)
    r = np.array(keras.ops.convert_to_numpy(reader.kernel))
    r[..., 4, :] = 0
    reader.kernel.assign(r)
    return model


def some(*shape):
    return np.random.default_rng(1).normal(size=(6, *shape)).astype("float32")


for inputs, layers, left in (
    (some(3), [L.Dense(9, "relu"), L.Dense(4, "tanh"), L.Dense(2)], 5),
    (some(8, 8, 2), [L.Conv2D(9, 3, activation="relu"), L.Conv2D(4, 3, activation="tanh"), L.GlobalAveragePooling2D(), L.Dense(2)], 5),
    (some(8, 8, 2), [L.Conv2D(9, 3, activation="relu"), L.Conv2D(4, 3, padding="same", activation="tanh"), L.Flatten(), L.Dense(2)], 6),  # at the border a constant is missing
    (some(5, 3), [L.Dense(9, "relu"), L.LSTM(4), L.Dense(2)], 5),
    (some(3), [L.Dense(9, "relu"), L.Dense(4, "tanh", use_bias=False), L.Dense(2)], 6),  # no bias takes a constant up
):  # fmt: skip
    keras.utils.set_random_seed(3)
    wide = keras.Sequential([keras.Input(inputs.shape[1:]), *layers])
    wide.layers[0].bias.assign(np.full(9, 0.2, "float32"))
    reader = wide.layers[1].cell if isinstance(wide.layers[1], L.LSTM) else wide.layers[1]
    small = wl.narrow(planted(wide, reader), inputs)
    assert small.model.layers[0].kernel.shape[-1] == left, (left, str(small))
    assert zoo.change(zoo.outputs(wide, inputs), zoo.outputs(small.model, inputs)) < 1e-4
    assert wl.narrow(wide, inputs, proven=True).model.layers[0].kernel.shape[-1] == 7


class Fixed(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = L.Dense(8, "tanh"), L.Dense(2)

    def call(self, x):
        return self.b(self.a(x))


fixed = Fixed()
fixed(x)
for call, words in (
    (lambda: wl.widen(fixed, {fixed.a.name: 12}, x), "written in its code"),
    (lambda: wl.deepen(fixed, x, after=fixed.a.name), "no layer can be put from outside"),
    (lambda: wl.deepen(first, x, after=first.layers[0].name, kind="identity"), "tanh"),
    (lambda: wl.widen(first, {first.layers[2].name: 4}, x), "output"),
):
    with pytest.raises((wl.CannotGrow, wl.InvalidArgument)) as refused:
        call()
    assert words in str(refused.value), refused.value

# ---- in 16 bits -----------------------------------------------------------------------------------------------------------------------
for half in ("bfloat16", "float16"):
    a, b = (
        keras.Sequential(
            [
                keras.Input((3,)),
                L.Dense(8, activation="tanh", dtype=half),
                L.Dense(3, dtype=half),
            ]
        )
        for _ in range(2)
    )
    assert [g.size for g in wl.trace(a, x).groups] == [8], half
    assert wl.compare(a, b, data=x).verdict == "different"
    with pytest.raises(wl.CannotGrow, match="16 bits"):
        wl.widen(a, {wl.trace(a, x).groups[0].name: 12}, x)

# ---- a Lift that writes the weights of a Keras model ---------------------------------------------------------------------------------
torch.manual_seed(0)
lift = wl.Lift(first, (16,))
given = torch.from_numpy(x)
written = lift.weights_for(given)
assert {n: tuple(v.shape[1:]) for n, v in written.items()} == {v.path: tuple(v.shape) for v in first.variables}
for v in other.variables:
    v.assign(written[paths[[u.path for u in other.variables].index(v.path)]][5].detach().numpy())
mine = zoo.outputs(other, x[5:6])
assert np.allclose(mine, lift(given)[5].detach().numpy(), atol=1e-5)
history = wl.fit_lift(lift, given, torch.from_numpy(y), rule="end_to_end", epochs=3, batch_size=8, online=False)
assert len(history.loss)
assert history.loss[-1] == history.loss[-1]
conv = keras.Sequential(
    [
        keras.Input((6, 6, 2)),
        L.Conv2D(4, 3, activation="relu"),
        L.BatchNormalization(),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    ]
)
assert wl.Lift(conv, (8,))(torch.randn(3, 6, 6, 2)).shape == (3, 3)

print(f"checked on {BACKEND}")
