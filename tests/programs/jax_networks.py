"""Networks of JAX (functions with bound parameters, Equinox, Flax NNX): traced, permuted in their own framework, compared, recorded with a wiring."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import weightlapse as wl
from weightlapse.wiring.programs import jaxpr
from weightlapse.wiring.programs.find import program_of

FOLDER = Path(sys.argv[1])
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def rows(*shape):
    return RNG.standard_normal((6, *shape)).astype("float32")


def sizes(w):
    return sorted(g.size for g in w.groups if g.parent is None)


def check_wiring(name, w, expected):
    assert w.report["verified"], name
    assert not w.dropped, (name, w.dropped)
    assert sizes(w) == expected, (name, sizes(w))


def refused(call, kind, words):
    with pytest.raises(kind) as error:
        call()
    assert words in str(error.value), error.value


def change(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert np.isfinite(a).all()
    assert a.std() > 0
    return np.abs(a - b).max() / a.std()


# ---- a function and its parameters -------------------------------------------------------------------------------------
def mlp(params, x):
    for layer in params["layers"][:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params["layers"][-1]["w"] + params["layers"][-1]["b"]


def layer(a, b):
    return {
        "w": jnp.asarray(RNG.standard_normal((a, b)), "float32"),
        "b": jnp.asarray(RNG.standard_normal(b), "float32"),
    }


def scanned(params, x):
    def step(state, row):
        state = jnp.tanh(row @ params["w"] + state @ params["u"])
        return state, state

    state, _ = jax.lax.scan(step, jnp.zeros((x.shape[1], 5)), x)
    return state @ params["out"]


def branches(params, x):
    h = jax.lax.cond(x.shape[0] > 2, lambda h: jax.nn.relu(h), lambda h: h, x @ params["w"])
    h = jax.lax.fori_loop(0, 3, lambda i, h: h + jnp.sin(h), h)
    return h @ params["out"]


def embedded(params, x):
    h = params["table"][x] + params["place"][None]
    h = jax.nn.gelu(jnp.einsum("btc,cd->btd", h, params["w"]))
    return jnp.concatenate([h[:, 0], h[:, -1]], axis=-1) @ params["out"]


def draw(**shapes):
    return {name: jnp.asarray(RNG.standard_normal(shape), "float32") for name, shape in shapes.items()}


FUNCTIONS = {
    "mlp": (mlp, {"layers": [layer(3, 8), layer(8, 6), layer(6, 2)]}, rows(3), [6, 8]),
    "scanned": (scanned, draw(w=(3, 5), u=(5, 5), out=(5, 2)), rows(4, 3), [5]),
    "branches": (branches, draw(w=(3, 7), out=(7, 2)), rows(3), [7]),
    "embedded": (embedded, draw(table=(9, 6), place=(4, 6), w=(6, 5), out=(10, 2)), RNG.integers(0, 9, (6, 4)), [5, 6]),
}
for name, (function, params, x, expected) in FUNCTIONS.items():
    net = partial(function, params)
    w = wl.trace(net, x, verify=True)
    check_wiring(name, w, expected)
    leaves, form = jax.tree_util.tree_flatten_with_path(params)
    names = list(program_of(net).graph.names)
    moved = dict(zip(names, (np.asarray(v) for _, v in leaves), strict=True))
    for g in w.groups:
        moved = wl.permute(moved, w, g.name, np.roll(RNG.permutation(g.size), 1))
    other = jax.tree_util.tree_unflatten(form, [jnp.asarray(moved[n]) for n in names])
    assert change(net(x), function(other, x)) < 1e-5, name
    found = wl.compare(net, partial(function, other), data=x)
    assert found.verdict == "same up to symmetry", (name, found.explain())
    assert set(found.alignment.state) == set(names)
    assert isinstance(found.alignment.state[names[0]], np.ndarray)
assert (
    wl.compare(net, partial(embedded, draw(table=(9, 6), place=(4, 6), w=(6, 5), out=(10, 2))), data=x).verdict
    == "different"
)

# ---- Equinox: examples hold samples, its modules take one ------------------------------------------------------------------
a, b = eqx.nn.MLP(3, 2, 8, 2, key=KEY), eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(1))
x = rows(3)
w = wl.trace(a, x, verify=True)
assert sizes(w) == [8, 8]
assert w.group("layers.0").symmetries >= {"permutation", "scale"}
assert np.isclose(wl.align(a, b, data=x).distance_before, wl.compare(a, b, data=x).raw_distance)
with wl.watch(a, FOLDER / "equinox", example=x) as rec:
    rec.step(b)
assert [g.name for g in wl.load(FOLDER / "equinox").wiring.groups] == ["layers.0", "layers.1"]


# ---- Flax NNX: convolutions, norms, attention, dropout ---------------------------------------------------------------------
class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.down = nnx.Conv(8, 6, (3, 3), strides=2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(num_heads=2, in_features=6, decode=False, rngs=rngs)
        self.before = nnx.LayerNorm(6, rngs=rngs)
        self.out = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
        x = self.drop(nnx.gelu(self.down(x))).reshape(x.shape[0], -1, 6)
        return self.out((x + self.attend(self.before(x))).mean(1))


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(11, 6, rngs=rngs)
        self.cells = nnx.RNN(nnx.GRUCell(6, 8, rngs=rngs))
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.cells(self.table(x))[:, -1])


for kind, x, expected in ((Net, rows(8, 8, 3), [2, 6, 8]), (Recurrent, RNG.integers(0, 11, (6, 5)), [6, 8])):
    net, other = kind(nnx.Rngs(0)), kind(nnx.Rngs(1))
    net.train()
    w = wl.trace(net, x, verify=True)
    check_wiring(kind, w, expected)
    state = {n: np.asarray(t.detach()) for n, t in program_of(net).named().items()}
    for g in w.groups:
        state = wl.permute(state, w, g.name, np.roll(RNG.permutation(g.size), 1))
    from weightlapse.adapters.jax import load_nnx

    load_nnx(other, state)
    other.eval()
    evaluated = nnx.clone(net)
    evaluated.eval()
    assert change(evaluated(x), other(x)) < 1e-4
    assert wl.compare(net, other, data=x).verdict == "same up to symmetry"
    with wl.watch(net, FOLDER / kind.__name__, example=x):
        pass
    assert sorted(g.size for g in wl.load(FOLDER / kind.__name__).wiring.groups if g.parent is None) == expected

# ---- refused, and told why -------------------------------------------------------------------------------------------------
for call, kind, words in (
    (lambda: wl.trace({"w": jnp.ones((2, 2))}, x), wl.InvalidArgument, "functools.partial"),
    (
        lambda: wl.trace(partial(lambda p, x: x @ p @ jnp.linalg.qr(p.T @ p)[0], jnp.ones((3, 2))), rows(3)),
        wl.CannotTrace,
        "no translation",
    ),
    (
        lambda: wl.trace(partial(lambda p, x: (x @ p) * jnp.nan, jnp.ones((3, 2))), rows(3)),
        wl.CannotTrace,
        "no finite number",
    ),
):
    refused(call, kind, words)

# ---- a wrong translation is found out ----------------------------------------------------------------------------------------
net, right = partial(mlp, FUNCTIONS["mlp"][1]), jaxpr.PRIMITIVES["tanh"]
jaxpr.PRIMITIVES["tanh"] = lambda it, params, args, eqn: args[0]
refused(lambda: wl.trace(net, FUNCTIONS["mlp"][2]), wl.CannotTrace, "computes something else")
jaxpr.PRIMITIVES["tanh"] = right

print("checked networks of JAX")
