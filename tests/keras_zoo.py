"""Keras networks of many kinds, the same on every backend, and what must hold for each: importable where KERAS_BACKEND is set.

``ZOO[name]()`` builds (model, inputs); ``SIZES[name]`` are the sizes of all groups that are nested in no other. `check` permutes a network and runs it in
its own framework, finds a planted permutation, and grows every group or has it refused.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as L

import weightlapse as wl
from weightlapse.wiring.programs.program import drawn_like

Net = tuple[Any, Any]
ZOO: dict[str, Callable[[], Net]] = {}
SIZES: dict[str, tuple[int, ...]] = {}


def net(*sizes: int) -> Callable[[Callable[[], Net]], Callable[[], Net]]:
    def add(build: Callable[[], Net]) -> Callable[[], Net]:
        ZOO[build.__name__] = build
        SIZES[build.__name__] = tuple(sorted(sizes))
        return build

    return add


def rows(*shape: int) -> Any:
    return np.random.default_rng(3).standard_normal((6, *shape)).astype("float32")


def tokens(length: int, count: int) -> Any:
    return np.random.default_rng(3).integers(0, count, (6, length)).astype("int32")


def stacked(shape: tuple[int, ...], *layers: Any, dtype: str = "float32") -> Any:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


# ---- dense


@net(8, 6)
def dense_tanh() -> Net:
    return stacked((3,), L.Dense(8, "tanh"), L.Dense(6, "tanh"), L.Dense(2)), rows(3)


@net(8, 6)
def dense_relu_dropout() -> Net:
    return stacked(
        (3,), L.Dense(8, "relu"), L.Dropout(0.5), L.Dense(6, "gelu"), L.GaussianNoise(0.1), L.Dense(2, "softmax")
    ), rows(3)


@net(8, 6)
def dense_batch_norm() -> Net:
    return stacked(
        (3,),
        L.Dense(8),
        L.BatchNormalization(),
        L.ReLU(),
        L.Dense(6),
        L.LayerNormalization(),
        L.Activation("swish"),
        L.Dense(2),
    ), rows(3)


@net(8, 5)
def dense_prelu() -> Net:
    return stacked((3,), L.Dense(8), L.PReLU(), L.Dense(5), L.LeakyReLU(0.2), L.UnitNormalization(), L.Dense(2)), rows(
        3
    )


@net(12)
def einsum_dense() -> Net:
    return stacked(
        (4, 3), L.EinsumDense("abc,cd->abd", output_shape=(None, 12), bias_axes="d", activation="elu"), L.Dense(2)
    ), rows(4, 3)


@net(6, 8)
def dense_mixed() -> Net:
    return stacked(
        (3,), L.Dense(6, "selu"), L.Dense(8, "softplus", use_bias=False), L.Rescaling(2.0), L.Dense(2, "sigmoid")
    ), rows(3)


# ---- convolutions


@net(8, 6)
def conv_plain() -> Net:
    return stacked(
        (8, 8, 3),
        L.Conv2D(8, 3, activation="relu"),
        L.MaxPooling2D(),
        L.Conv2D(6, 3, padding="same"),
        L.Flatten(),
        L.Dense(2),
    ), rows(8, 8, 3)


@net(8, 6)
def conv_batch_norm() -> Net:
    return stacked(
        (8, 8, 3), L.Conv2D(8, 3, strides=2, padding="same", use_bias=False), L.BatchNormalization(), L.ReLU(6.0), L.AveragePooling2D(2, padding="same"),
        L.Conv2D(6, 2, dilation_rate=2, padding="same"), L.BatchNormalization(scale=False), L.GlobalAveragePooling2D(), L.Dense(2),
    ), rows(8, 8, 3)  # fmt: skip


@net(8, 6)
def conv_one_dimension() -> Net:
    return stacked(
        (9, 3),
        L.Conv1D(8, 3, padding="causal", activation="tanh"),
        L.MaxPooling1D(2),
        L.Conv1D(6, 2),
        L.GlobalMaxPooling1D(),
        L.Dense(2),
    ), rows(9, 3)


@net(4)
def conv_three_dimensions() -> Net:
    return stacked(
        (4, 4, 4, 2), L.Conv3D(4, 2, activation="relu"), L.AveragePooling3D(2, padding="same"), L.Flatten(), L.Dense(2)
    ), rows(4, 4, 4, 2)


@net(6, 5)
def conv_transposed() -> Net:
    return stacked((4, 4, 2), L.Conv2D(6, 3, padding="same", activation="relu"), L.Conv2DTranspose(5, 3, strides=2, padding="same"), L.ReLU(),
                   L.Conv2D(1, 1)), rows(4, 4, 2)  # fmt: skip


@net(8)
def depthwise() -> Net:
    return stacked((8, 8, 3), L.Conv2D(8, 3, padding="same"), L.DepthwiseConv2D(3, padding="same"), L.BatchNormalization(), L.ReLU(),
                   L.GlobalAveragePooling2D(), L.Dense(2)), rows(8, 8, 3)  # fmt: skip


@net(8, 6)
def separable() -> Net:
    return stacked(
        (8, 8, 3),
        L.Conv2D(8, 3, activation="relu"),
        L.SeparableConv2D(6, 3, activation="relu"),
        L.Flatten(),
        L.Dense(2),
    ), rows(8, 8, 3)


@net(2, 2, 4, 4)
def grouped() -> Net:
    return stacked(
        (6, 6, 4),
        L.Conv2D(8, 3, groups=2, activation="relu"),
        L.Conv2D(4, 3, groups=2),
        L.GlobalAveragePooling2D(),
        L.Dense(2),
    ), rows(6, 6, 4)


@net(8)
def group_norm() -> Net:
    return stacked(
        (4, 4, 3),
        L.Conv2D(8, 3, padding="same"),
        L.GroupNormalization(1),
        L.ReLU(),
        L.GlobalAveragePooling2D(),
        L.Dense(2),
    ), rows(4, 4, 3)


@net(8, 5)
def upsampled() -> Net:
    return stacked((4, 4, 3), L.Conv2D(8, 3, padding="same"), L.UpSampling2D(2), L.ZeroPadding2D(1), L.Cropping2D(1), L.Conv2D(5, 3, activation="relu"),
                   L.GlobalMaxPooling2D(), L.Dense(2)), rows(4, 4, 3)  # fmt: skip


@net(8)
def residual() -> Net:
    i = keras.Input((8, 8, 3))
    h = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(i)))
    h = L.Add()([h, L.Conv2D(8, 3, padding="same", activation="relu")(h)])
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(h))), rows(8, 8, 3)


@net(8, 8, 4)
def bottleneck() -> Net:
    i = keras.Input((6, 6, 3))
    h = L.Conv2D(8, 1)(i)
    b = L.Conv2D(4, 1, activation="relu")(h)
    b = L.Conv2D(8, 1, activation="relu")(L.Concatenate()([b, h]))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(b))), rows(6, 6, 3)


@net(8, 2)
def squeeze_excite() -> Net:
    i = keras.Input((6, 6, 3))
    h = L.Conv2D(8, 3, activation="relu")(i)
    s = L.Dense(8, "sigmoid")(L.Dense(2, "relu")(L.GlobalAveragePooling2D(keepdims=True)(h)))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(L.Multiply()([h, s])))), rows(6, 6, 3)


# ---- sequences


@net(6, 7)
def lstm() -> Net:
    return stacked((5,), L.Embedding(11, 6), L.LSTM(7), L.Dense(3), dtype="int32"), tokens(5, 11)


@net(6, 5, 4)
def gru() -> Net:
    return stacked(
        (5,),
        L.Embedding(11, 6),
        L.GRU(5, return_sequences=True),
        L.GRU(4, reset_after=False),
        L.Dense(3),
        dtype="int32",
    ), tokens(5, 11)


@net(5, 5, 4)
def bidirectional() -> Net:
    return stacked((4, 3), L.Bidirectional(L.LSTM(5, return_sequences=True)), L.SimpleRNN(4), L.Dense(2)), rows(4, 3)


@net(6, 4)
def time_distributed() -> Net:
    return stacked((4, 3), L.TimeDistributed(L.Dense(6, "relu")), L.GRU(4), L.Dense(2)), rows(4, 3)


@net(5)
def recurrent_cells() -> Net:
    return stacked((4, 3), L.RNN(L.LSTMCell(5)), L.Dense(2)), rows(4, 3)


@net(6, 2)
def attention() -> Net:
    i = keras.Input((5,), dtype="int32")
    h = L.Embedding(11, 6)(i)
    h = L.Add()([h, L.MultiHeadAttention(2, 4)(h, h)])
    return keras.Model(i, L.Dense(2)(L.GlobalAveragePooling1D()(h))), tokens(5, 11)


@net(6, 2, 12)
def transformer() -> Net:
    i = keras.Input((5, 3))
    h = L.Dense(6)(i)
    n = L.LayerNormalization()(h)
    h = L.Add()([h, L.MultiHeadAttention(2, 3)(n, n, use_causal_mask=True)])
    n = L.LayerNormalization()(h)
    h = L.Add()([h, L.Dense(6)(L.Dense(12, "gelu")(n))])
    return keras.Model(i, L.Dense(2)(h)), rows(5, 3)


@net(2, 6)
def grouped_attention() -> Net:
    i = keras.Input((4, 6))
    h = L.GroupQueryAttention(3, 4, 2)(i, i)
    return keras.Model(i, L.Dense(2)(L.GlobalAveragePooling1D()(h))), rows(4, 6)


@net(6)
def dot_attention() -> Net:
    i = keras.Input((4, 3))
    q, k = L.Dense(6)(i), L.Dense(6)(i)
    return keras.Model(i, L.Dense(2)(L.Attention()([q, i, k]))), rows(4, 3)


# ---- structure


@net(6, 5, 4)
def several_inputs() -> Net:
    a, b = keras.Input((3,)), keras.Input((4,))
    h = L.Concatenate()([L.Dense(6, "relu")(a), L.Dense(5, "tanh")(b)])
    return keras.Model([a, b], L.Dense(2)(L.Dense(4, "relu")(h))), (rows(3), rows(4))


@net(6)
def several_outputs() -> Net:
    i = keras.Input((3,))
    h = L.Dense(6, "relu")(i)
    return keras.Model(i, {"a": L.Dense(2)(h), "b": L.Dense(3)(h)}), rows(3)


@net(6, 5)
def nested() -> Net:
    inner = stacked((3,), L.Dense(6, "relu"), L.Dense(5))
    i = keras.Input((3,))
    return keras.Model(i, L.Dense(2)(L.ReLU()(inner(i)))), rows(3)


@net(6, 5)
def shared() -> Net:
    a, b = keras.Input((3,)), keras.Input((3,))
    tower = stacked((3,), L.Dense(6, "tanh"), L.Dense(5, "tanh"))
    return keras.Model([a, b], L.Dense(2)(L.Subtract()([tower(a), tower(b)]))), (rows(3), rows(3)[::-1].copy())


@net(4)
def reshaped() -> Net:
    return stacked((3,), L.Dense(16, "relu"), L.Reshape((2, 2, 4)), L.Conv2D(3, 2), L.Flatten()), rows(3)


@net(6)
def permuted() -> Net:
    return stacked((4, 3), L.Dense(6, "relu"), L.Permute((2, 1)), L.Flatten(), L.Dense(2)), rows(4, 3)


@keras.saving.register_keras_serializable("zoo")
class Own(keras.Model):
    """A class with a call of its own."""

    def __init__(self, hidden: int = 7, **options: Any) -> None:
        super().__init__(**options)
        self.hidden = hidden
        self.first, self.second = L.Dense(hidden, "tanh"), L.Dense(2)

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.second(self.first(x) * 2.0)

    def get_config(self) -> dict[str, Any]:
        return {"hidden": self.hidden}


@net(7)
def subclassed() -> Net:
    model, x = Own(), rows(3)
    model(x)
    return model, x


class Holder(keras.Model):
    """Sub-networks that are built, in a model that never was."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [stacked((3,), L.Dense(6, "tanh"), L.Dense(4)), stacked((4,), L.Dense(5, "tanh"), L.Dense(2))]

    def call(self, x: Any) -> Any:
        return self.parts[1](self.parts[0](x))


@net(6, 4, 5)
def model_of_models() -> Net:
    return Holder(), rows(3)


# ---- keras.applications, from their configurations, without weights


def application(name: str, side: int = 32, **options: Any) -> Net:
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(side, side, 3), classes=3, classifier_activation=None, **options)
    return model, rows(side, side, 3)[:2]


APPLICATIONS: dict[str, Callable[[], Net]] = {
    "MobileNetV2": lambda: application("MobileNetV2", side=64, alpha=0.35),
    "MobileNetV3Small": lambda: application("MobileNetV3Small", alpha=1.0, include_preprocessing=False),
    "ResNet50V2": lambda: application("ResNet50V2", side=64),
    "DenseNet121": lambda: application("DenseNet121", side=64),
    "EfficientNetB0": lambda: application("EfficientNetB0"),
    "EfficientNetV2B0": lambda: application("EfficientNetV2B0", include_preprocessing=False),
    "NASNetMobile": lambda: application("NASNetMobile"),
    "ConvNeXtTiny": lambda: application("ConvNeXtTiny", include_preprocessing=False),
    "Xception": lambda: application("Xception", side=71),
    "InceptionV3": lambda: application("InceptionV3", side=75),
}  # fmt: skip


# ---- what must hold


@dataclass
class Result:
    """Of one network: its groups, the largest relative changes, what grew and what was refused."""

    sizes: tuple[int, ...]
    permuted: float
    aligned: float
    grown: dict[str, float]
    refused: dict[str, str]


def outputs(model: Any, inputs: Any) -> np.ndarray:
    result = (
        model(list(inputs) if isinstance(inputs, tuple) else inputs, training=False)
        if model.built
        else model.call(keras.ops.convert_to_tensor(inputs))
    )
    return np.concatenate([np.array(keras.ops.convert_to_numpy(t)).reshape(-1) for t in keras.tree.flatten(result)])


def change(a: np.ndarray, b: np.ndarray) -> float:
    """How far b is from a, relative to a's spread. A constant output is an error: nothing could be seen in it."""
    assert np.isfinite(a).all(), "the network puts out NaN"
    assert a.std() > 0, "the network is dead"
    return float(np.abs(a - b).max() / a.std()) if a.shape == b.shape else float("inf")


def state_of(model: Any) -> dict[str, np.ndarray]:
    return {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in model.variables}


def put(model: Any, state: dict[str, np.ndarray]) -> None:
    for v in model.variables:
        v.assign(state[v.path])


def randomised(model: Any, name: str, share: float) -> dict[str, np.ndarray]:
    """The model with random numbers in every weight, gain, bias and statistic (a ``share`` of them): defaults hide mistakes."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    state = {
        n: v + (drawn_like(n, v, rng) - v) * share if share < 1 and v.dtype.kind == "f" else drawn_like(n, v, rng)
        for n, v in state_of(model).items()
    }
    state = {
        n: v.astype(model_v.dtype) for (n, v), model_v in zip(state.items(), state_of(model).values(), strict=True)
    }
    put(model, state)
    return state


def check(name: str, build: Callable[[], Net], *, grow: int = 99, share: float = 1.0) -> Result:
    """Raises AssertionError where something does not hold; ``grow`` groups at most are widened.

    A ``share`` below 1 of the random numbers keeps a deep network alive; it is raised until the network tells its inputs apart.
    """
    random.seed(1)  # Keras draws the seeds of its initializers there
    model, x = build()
    w = wl.trace(model, x, verify=True)
    assert w.report["verified"], "nothing was verified"
    assert not w.dropped, w.dropped
    for part in (share, 0.3, 1.0):
        state = randomised(model, name, part)
        before = outputs(model, x)
        if share == 1 or change(before, outputs(model, x[::-1])) > 1e-2:
            break  # a deep network of random numbers may say the same of everything
    moved, rng = dict(state), np.random.default_rng(5)
    for g in w.groups:
        moved = wl.permute(moved, w, g.name, np.roll(rng.permutation(g.size), 1))
    assert any(not np.array_equal(moved[n], state[n]) for n in state), "nothing moved"
    put(model, moved)
    permuted = change(before, outputs(model, x))
    half = next(m.tensor for g in w.groups for m in g.members if not np.array_equal(moved[m.tensor], state[m.tensor]))
    put(model, state | {half: moved[half]})
    assert change(before, outputs(model, x)) > 1e-5, "units moved in one tensor alone, and nothing was seen"
    put(model, state)
    aligned = wl.align(state, moved, w, symmetries=("permutation",)).distance_after
    grown, refused = {}, {}
    for g in [g for g in w.groups if g.parent is None][:grow]:
        size = g.size * 2 if any("norm" in b or "mean" in b for b in g.blockers) else g.size + 3
        try:
            bigger = wl.widen(model, {g.name: size}, x, seed=0)
        except wl.CannotGrow as error:
            refused[g.name] = str(error)
            continue
        grown[g.name] = max(bigger.error, change(before, outputs(bigger.model, x)) * 1e-7)
        assert change(before, outputs(bigger.model, x)) < 2e-3, (g.name, change(before, outputs(bigger.model, x)))
        assert bigger.error < 1e-9, (g.name, bigger.error)
    return Result(tuple(sorted(g.size for g in w.groups if g.parent is None)), permuted, aligned, grown, refused)
