"""Records JAX training of every kind (plain pytrees, Haiku-like dicts, Equinox, Flax NNX) and checks it against copies taken by hand."""

from __future__ import annotations

import inspect
import sys
import warnings
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import weightlapse as wl

FOLDER = Path(sys.argv[1])
X = jax.random.normal(jax.random.key(0), (32, 5))


def check(name, hand, steps=None):
    run = wl.load(FOLDER / name)
    assert run.steps.tolist() == (steps or list(range(len(hand)))), run.steps
    assert run.names == list(hand[0]), (run.names, list(hand[0]))
    for tensor in run.names:
        assert run[tensor].raw().tobytes() == np.stack([state[tensor] for state in hand]).tobytes(), tensor
    return run


# ---- a nested pytree with several dtypes, buffers donated to the next step ---------------------------------------------
params = {
    "layers": [{"w": jnp.ones((5, 4)) * 0.1, "b": jnp.zeros(4, jnp.bfloat16)}, {"w": jnp.ones((4, 2), jnp.float16), "b": jnp.zeros(2)}],
    "count": jnp.zeros((), jnp.int32),
    "nothing": None,
}  # fmt: skip


def by_hand(p):
    flat = {"count": p["count"]}
    for i, layer in enumerate(p["layers"]):
        flat |= {f"layers.{i}.b": layer["b"], f"layers.{i}.w": layer["w"]}
    return {n: np.array(v).view(np.uint16) if v.dtype == jnp.bfloat16 else np.array(v) for n, v in flat.items()}


@partial(jax.jit, donate_argnums=0)
def update(p):
    moved = jax.tree.map(lambda v: (v + jnp.ones_like(v) / 8) if jnp.issubdtype(v.dtype, jnp.floating) else v + 1, p)
    return moved, jnp.sum(moved["layers"][0]["w"])


hand = [by_hand(params)]
with wl.watch(params, FOLDER / "tree") as rec:
    for _ in range(9):
        params, loss = update(params)
        rec.step(params, loss=loss)
        hand.append(by_hand(params))
run = check("tree", hand)
assert run.dtypes["layers.0.b"] == "bfloat16"
assert run.meta["framework"] == "jax"
assert np.isclose(run.scalars["loss"][-1], float(loss))

# ---- Haiku-like names, steps given ----------------------------------------------------------------------------------
params = {"mlp/~/linear_0": {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}}
hand = [{f"mlp/~/linear_0.{k}": np.array(params["mlp/~/linear_0"][k]) for k in ("b", "w")}]
with wl.watch(params, FOLDER / "haiku") as rec:
    for k in range(3):
        params = jax.tree.map(lambda v: v * 2 + 1, params)
        rec.step(params, step=100 * k + 100)
        hand.append({f"mlp/~/linear_0.{k}": np.array(params["mlp/~/linear_0"][k]) for k in ("b", "w")})
check("haiku", hand, [0, 100, 200, 300])

# ---- Equinox ----------------------------------------------------------------------------------------------------------
model = eqx.nn.MLP(5, 2, 6, 1, key=jax.random.key(1))
optimizer = optax.adam(1e-2)
state = optimizer.init(eqx.filter(model, eqx.is_array))


@eqx.filter_jit
def train(model, state):
    gradients = eqx.filter_grad(lambda m: jnp.mean(jax.vmap(m)(X) ** 2))(model)
    updates, state = optimizer.update(gradients, state)
    return eqx.apply_updates(model, updates), state


def layers_of(m):
    return {
        f"layers.{i}.{k}": np.array(getattr(layer, k)) for i, layer in enumerate(m.layers) for k in ("weight", "bias")
    }


hand = [layers_of(model)]
with wl.watch(model, FOLDER / "equinox") as rec:
    for _ in range(5):
        model, state = train(model, state)
        rec.step(model)
        hand.append(layers_of(model))
check("equinox", hand)
with wl.watch(model, FOLDER / "equinox", resume=True) as rec:
    model, state = train(model, state)
    rec.step(model)
    hand.append(layers_of(model))
assert len(check("equinox", hand).layouts) == 1


# ---- Flax NNX ----------------------------------------------------------------------------------------------------------
class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(jnp.tanh(self.norm(self.first(x)))))


def nnx_by_hand(m):
    return {
        "first.bias": m.first.bias, "first.kernel": m.first.kernel, "last.bias": m.last.bias, "last.kernel": m.last.kernel,
        "norm.bias": m.norm.bias, "norm.mean": m.norm.mean, "norm.scale": m.norm.scale, "norm.var": m.norm.var,
    }  # fmt: skip


def values(m):
    return {n: np.array(v[...]) for n, v in nnx_by_hand(m).items()}


net = Net(nnx.Rngs(0))
nnx_optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)


@nnx.jit
def nnx_train(net, nnx_optimizer):
    loss, gradients = nnx.value_and_grad(lambda m: jnp.mean(m(X) ** 2))(net)
    takes_model = "model" in inspect.signature(nnx.Optimizer.update).parameters  # from Flax 0.11 on
    nnx_optimizer.update(*([net] if takes_model else []), gradients)
    return loss


hand = [values(net)]
with wl.watch(net, FOLDER / "nnx", streams=("weights", "buffers")) as rec:
    for _ in range(5):
        loss = nnx_train(net, nnx_optimizer)
        rec.step(loss=loss)
        hand.append(values(net))
run = check("nnx", hand)
assert run.streams["norm.mean"] == "buffers"
assert run.streams["norm.scale"] == "weights"
fresh = Net(nnx.Rngs(7))
run.load_into(fresh, step=2)
assert all(np.array_equal(v, hand[2][n]) for n, v in values(fresh).items())

# ---- a deleted (donated) buffer is an error of the recorder, not of the training ---------------------------------------
params = {"w": jnp.ones(3)}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rec = wl.watch(params, FOLDER / "deleted")
    old = params
    params = jax.jit(lambda p: jax.tree.map(lambda v: v + 1, p), donate_argnums=0)(params)
    rec.step(old)
    assert np.array_equal(params["w"], [2, 2, 2])
    params = {"w": params["w"] + 1}
    rec.step(params)
    rec.close()
assert sum("step 1 could not be recorded" in str(w.message) and "deleted" in str(w.message) for w in caught) == 1
run = wl.load(FOLDER / "deleted")
assert run.steps.tolist() == [0, 2]
assert len(run.gaps) == 1
assert np.array_equal(run["w"][-1], params["w"])

# ---- every dtype of JAX, and several modules as one recording ----------------------------------------------------------
kinds = (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3b11fnuz",
    "float4_e2m1fn",
    "int4",
    "uint2",
    "complex64",
    "bfloat16",
    "bool",
)
params = {kind: jnp.arange(4).astype(kind) for kind in kinds}
with wl.watch(params, FOLDER / "kinds") as rec:
    rec.step({kind: jnp.arange(4)[::-1].astype(kind) for kind in kinds})
run = wl.load(FOLDER / "kinds")
assert run.dtypes == {kind: kind for kind in kinds}
for kind in kinds:
    expected = [jnp.arange(4).astype(kind), jnp.arange(4)[::-1].astype(kind)]
    assert np.array_equal(
        run[kind][:].astype("complex64"), np.stack([np.asarray(v).astype("complex64") for v in expected])
    ), kind
modules = {"g": nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "deep": [nnx.BatchNorm(3, rngs=nnx.Rngs(0))]}
with wl.watch(modules, FOLDER / "modules", streams=("weights", "buffers")) as rec:
    modules["g"].kernel[...] = modules["g"].kernel[...] + 1
    rec.step()
run = wl.load(FOLDER / "modules")
assert set(run.names) == {"g.kernel", "g.bias", "deep.0.scale", "deep.0.bias", "deep.0.mean", "deep.0.var"}
run.load_into(modules, step=0)
assert np.array_equal(modules["g"].kernel[...], run["g.kernel"][0])
print("checked")
