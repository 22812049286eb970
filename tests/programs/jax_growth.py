"""Networks of JAX (Flax NNX, Equinox, functions with bound parameters) made wider and narrower: judged by their own framework, trained on."""

from __future__ import annotations

import copy
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import weightlapse as wl
from weightlapse.growth.jax_models import modules_of
from weightlapse.wiring.programs.find import program_of

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)


def rows(*shape):
    return RNG.standard_normal((6, *shape)).astype("float32")


def state(model):
    return {n: np.array(t.detach().numpy()) for n, t in program_of(model).named().items()}


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert np.isfinite(a).all()
    assert a.std() > 0
    return np.abs(a - b).max() / a.std()


# ---- networks ----------------------------------------------------------------------------------------------------------
class Dense(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 8, rngs=rngs)
        self.b = nnx.Linear(8, 8, rngs=rngs)
        self.c = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.c(jnp.tanh(self.b(nnx.gelu(self.a(x)))))


class Conv(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)  # as many channels as the kernel is wide
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.hidden = 3
        self.out = nnx.Linear(3 * 4 * 4, 2, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.conv(x)))
        return self.out(h.reshape(len(x), 16 * self.hidden))


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.attend = nnx.MultiHeadAttention(num_heads=2, in_features=8, qkv_features=12, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 10, rngs=rngs), nnx.Linear(10, 8, rngs=rngs)

    def __call__(self, x):
        h = self.norm(x + self.attend(x))
        return h + self.down(nnx.gelu(self.up(h)))


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.cells = nnx.RNN(nnx.GRUCell(4, 6, rngs=rngs))
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.cells(x)[:, -1])


class Perceptron(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, x):
        return self.mlp(x)


class Image(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    out: eqx.nn.Linear

    def __call__(self, x):
        return self.out(jax.nn.relu(self.norm(self.conv(x))).mean((1, 2)))


class Heads(eqx.Module):
    attend: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __call__(self, x):
        h = x + self.attend(x, x, x)
        return h + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm)(h))))


def function(params, x):
    return jnp.tanh(x @ params["in"] + params["bias"]) @ params["out"]


k = jax.random.split(KEY, 9)
PARAMS = {
    n: jnp.asarray(RNG.standard_normal(s), "float32") for n, s in {"in": (4, 6), "bias": (6,), "out": (6, 2)}.items()
}
NETWORKS = {
    "dense": (Dense(nnx.Rngs(0)), rows(4), {"a": 11, "b": 9}, {"a.out_features": 11, "b.in_features": 11, "b.out_features": 9, "c.in_features": 9}),
    "conv": (Conv(nnx.Rngs(1)), rows(4, 4, 3), {"conv": 6}, {"conv.out_features": 6, "conv.in_features": 3, "conv.kernel_size": (3, 3), "norm.num_features": 6, ".hidden": 6}),
    "attention": (Attention(nnx.Rngs(2)), rows(5, 8), {"up": 13}, {"up.out_features": 13, "down.in_features": 13, "attend.num_heads": 2}),
    "heads of NNX": (Attention(nnx.Rngs(2)), rows(5, 8), {"attend.query": 3}, {"attend.num_heads": 3}),
    "recurrent": (Recurrent(nnx.Rngs(3)), rows(5, 4), {"cells.cell": 9}, {"cells.cell.hidden_features": 9, "cells.cell.in_features": 4, "out.in_features": 9}),
    "perceptron": (Perceptron(eqx.nn.MLP(4, 2, 8, 2, activation=jax.nn.gelu, key=k[0])), rows(4), {"mlp.layers.0": 12, "mlp.layers.1": 12}, {"mlp.width_size": 12, "mlp.layers.1.in_features": 12, "mlp.in_size": 4}),
    "image": (Image(eqx.nn.Conv2d(3, 5, 3, key=k[1]), eqx.nn.GroupNorm(1, 5), eqx.nn.Linear(5, 2, key=k[2])), rows(3, 6, 6), {"conv": 10}, {"conv.out_channels": 10, "conv.in_channels": 3, "norm.channels": 10, "out.in_features": 10}),
    "heads": (Heads(eqx.nn.MultiheadAttention(2, 8, key=k[3]), eqx.nn.LayerNorm(8), eqx.nn.Linear(8, 9, key=k[4]), eqx.nn.Linear(9, 8, key=k[5])), rows(5, 8), {"up": 12}, {"up.out_features": 12, "down.in_features": 12, "norm.shape": (8,)}),
    "function": (partial(function, PARAMS), rows(4), {"in": 9}, {}),
}  # fmt: skip


def run(model, x):
    if isinstance(model, nnx.Module):
        model = nnx.clone(model)
        model.eval()
        return model(x)
    return model(x) if isinstance(model, partial) else jax.vmap(model)(x)


for name, (net, x, sizes, attributes) in NETWORKS.items():
    before, out = state(net), run(net, x)
    grown = wl.widen(net, sizes, x, seed=0)
    assert type(grown.model) is type(net), name
    assert grown.error < 1e-12, (name, grown.error)
    assert grown.certificate.parameters[1] > grown.certificate.parameters[0]
    assert relative(out, run(grown.model, x)) < 1e-4, name
    assert all(np.array_equal(v, before[n]) for n, v in state(net).items()), name
    modules = dict(modules_of(grown.model))
    for place, value in attributes.items():
        path, _, attribute = place.rpartition(".")
        assert getattr(modules[path], attribute) == value, (name, place, getattr(modules[path], attribute))
    back = wl.narrow(wl.widen(net, sizes, x, split="equal", seed=0).model, x)
    one = grown.model if name == "image" else net  # units under a norm that averages over them are left alone
    assert {n: v.shape for n, v in state(back.model).items()} == {n: v.shape for n, v in state(one).items()}, name
    assert relative(out, run(back.model, x)) < 1e-4, name


# ---- narrow: dead, constant, doubled and unread units, one each ------------------------------------------------------------
def planted(weights, first, second, width):
    """Unit 0 dead, 1 constant, 2 a double of 3, 4 unread: names of (weight, bias, outgoing weight); the axis of the units of the first is ``width``."""
    into, bias, out = (np.array(weights[n]) for n in first)
    into, out = np.moveaxis(into, width, 0), np.moveaxis(out, second, 0)
    into[0], bias[0] = 0.0, -1.0
    into[1], bias[1] = 0.0, 0.7
    into[2], bias[2] = into[3], bias[3]
    out[4] = 0.0
    return dict(zip(first, (np.moveaxis(into, 0, width), bias, np.moveaxis(out, 0, second)), strict=True))


class Rectified(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))


from weightlapse.adapters.jax import load_nnx  # noqa: E402

net, x = Rectified(nnx.Rngs(5)), rows(4)
net.a.bias[...] = jnp.full(8, 0.3)
load_nnx(net, planted(state(net), ("a.kernel", "a.bias", "b.kernel"), 0, 1))
small = wl.narrow(net, x)
assert small.model.a.out_features == 4, small
assert small.error < 1e-6
assert relative(run(net, x), run(small.model, x)) < 1e-5
said = " ".join(small.certificate.notes)
assert all(w in said for w in ("1 zero for every input", "1 constant for every input", "1 doubles", "1 unread")), said
assert wl.narrow(net, x, proven=True).model.a.out_features == 6  # what examples cannot prove stays
mlp = eqx.nn.MLP(4, 2, 8, 1, key=k[6])
mlp = eqx.tree_at(lambda m: m.layers[0].bias, mlp, jnp.full(8, 0.3))
names = ("layers.0.weight", "layers.0.bias", "layers.1.weight")
values = planted(state(mlp), names, 1, 0)
mlp = eqx.tree_at(
    lambda m: (m.layers[0].weight, m.layers[0].bias, m.layers[1].weight),
    mlp,
    tuple(jnp.asarray(values[n]) for n in names),
)
small = wl.narrow(mlp, x)
assert small.model.layers[0].out_features == small.model.width_size == 4, small
assert relative(run(mlp, x), run(small.model, x)) < 1e-5

# ---- optimizers come along, and the training goes on as it was ---------------------------------------------------------------
y = rows(2)
net = Dense(nnx.Rngs(6))
optimizer = nnx.Optimizer(net, optax.adam(0.01), wrt=nnx.Param)


@nnx.jit
def step(net, optimizer):
    loss, slopes = nnx.value_and_grad(lambda n: ((n(x) - y) ** 2).mean())(net)
    optimizer.update(net, slopes)
    return loss


for _ in range(5):
    step(net, optimizer)
grown = wl.widen(net, {"a": 16}, x, optimizer=optimizer, split="equal")
assert type(grown.optimizer) is nnx.Optimizer
assert int(grown.optimizer.step[...]) == int(optimizer.step[...]) == 5
mu = grown.optimizer.opt_state[0].mu
assert np.allclose(
    np.asarray(mu["a"]["kernel"][...])[:, :8], np.asarray(optimizer.opt_state[0].mu["a"]["kernel"][...]) / 2
) or np.any(mu["a"]["kernel"][...])
assert float(step(grown.model, grown.optimizer)) == pytest.approx(float(step(net, optimizer)), rel=1e-4)

net = eqx.nn.MLP(4, 2, 8, 1, activation=jnp.tanh, key=k[7])
tx = optax.adamw(0.01)
opt = tx.init(eqx.filter(net, eqx.is_inexact_array))


@eqx.filter_jit
def update(net, opt):
    loss, slopes = eqx.filter_value_and_grad(lambda n: ((jax.vmap(n)(x) - y) ** 2).mean())(net)
    moves, opt = tx.update(slopes, opt, eqx.filter(net, eqx.is_inexact_array))
    return eqx.apply_updates(net, moves), opt, loss


for _ in range(5):
    net, opt, _ = update(net, opt)
grown = wl.widen(net, {"layers.0": 13}, x, optimizer=opt)
bigger, state_now, loss = update(grown.model, grown.optimizer)  # modules among the moments remember the new sizes
assert float(loss) == pytest.approx(float(update(net, opt)[2]), rel=1e-4)
assert int(state_now[0].count) == 6
assert bigger.layers[0].out_features == 13
params = partial(function, copy.copy(PARAMS))
grown = wl.widen(params, {"in": 8}, x, optimizer=optax.sgd(0.1, momentum=0.9).init(PARAMS))
assert grown.optimizer[0].trace["in"].shape == (4, 8)

# ---- in 16 bits ----------------------------------------------------------------------------------------------------------------
for half in (jnp.bfloat16, jnp.float16):
    a, b = (
        jax.tree.map(lambda v, half=half: v.astype(half) if eqx.is_array(v) else v, eqx.nn.MLP(4, 3, 8, 1, key=key))
        for key in (k[0], k[1])
    )
    xs = jnp.asarray(rows(4), half)
    assert [g.size for g in wl.trace(a, xs).groups] == [8], half
    grown = wl.widen(a, {"layers.0": 12}, xs, seed=0)
    assert grown.model.layers[0].weight.dtype == half
    assert grown.error < 1e-12
    assert np.array_equal(np.asarray(jax.vmap(a)(xs), np.float32), np.asarray(jax.vmap(grown.model)(xs), np.float32)), (
        "weights were divided in parts that 16 bits hold"
    )
    assert wl.compare(a, a, data=xs).verdict == "identical"
    assert wl.compare(a, b, data=xs).verdict == "different"
    assert wl.align(a, b, data=xs).distance_after < 1.3

# ---- refused by name -----------------------------------------------------------------------------------------------------------
for call, kind, words in (
    (lambda: wl.widen(net, {"layers.1": 5}, x), wl.InvalidArgument, "no group and no layer 'layers.1'"),
    (lambda: wl.widen(net, {"layers.0": 4}, x), wl.WeightlapseError, "8"),
    (lambda: wl.widen(net, {"layers.0": 12}, x, untie=True), wl.InvalidArgument, "for torch modules"),
    (lambda: wl.widen(net, {"layers.0": 12}, x, optimizer=optax.adadelta(0.1).init(eqx.filter(net, eqx.is_array))), wl.CannotGrow, "no known exact rule"),
    (lambda: wl.widen(net, {"layers.0": 12}, x, optimizer={"w": jnp.ones(3)}), wl.CannotGrow, "belongs to no weight"),
    (lambda: wl.deepen(net, x, after="layers.0"), wl.CannotGrow, "written in its code"),
    (lambda: wl.widen(Dense(nnx.Rngs(0)), {"c": 3}, rows(4)), wl.InvalidArgument, "output"),
):  # fmt: skip
    with pytest.raises(kind) as error:
        call()
    assert words in str(error.value), error.value

print("checked growth of networks of JAX")
