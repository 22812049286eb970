"""Pytrees and NNX modules, with values and without, are planned for as they are recorded."""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import weightlapse as wl


def nbytes(model, *given, **more) -> float:
    with wl.watch(model, tempfile.mkdtemp() + "/run", **more) as rec:
        rec.step(*given)
    run = wl.load(rec.path)
    return run.nbytes / run.frames, run.names


def planned(model, **more) -> tuple[float, list[str]]:
    found = wl.plan(model, measure=False, **more)
    return found.frame_nbytes, [spec.name for spec in found.layout.tensors]


def make(seed: int) -> dict:
    key = jax.random.key(seed)
    return {"layers": [{"w": jnp.zeros((3, 4)), "b": jnp.zeros(4, jnp.bfloat16)}, {"w": jnp.zeros((4, 2))}], "key": key}


params = make(0)
assert planned(params) == nbytes(params, params) == (48 + 8 + 32, ["layers.0.b", "layers.0.w", "layers.1.w"])
assert planned(jax.eval_shape(make, 0)) == planned(params)
assert planned({"w": np.zeros(3, np.float32)}) == (12, ["w"])

try:
    from flax import nnx
except ImportError:
    nnx = None
if nnx is not None:

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.linear, self.norm = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)

    for streams in (("weights",), ("weights", "buffers")):
        model = Net(nnx.Rngs(0))
        assert planned(model, streams=streams) == nbytes(model, streams=streams)
        assert planned(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), streams=streams) == planned(model, streams=streams)
print("checked plans of JAX")
