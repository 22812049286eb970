"""Fits Keras models on the backend of KERAS_BACKEND with a WatchCallback, and checks each recording against values taken by hand."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import keras
import numpy as np

import weightlapse as wl
from weightlapse.adapters.keras import WatchCallback

FOLDER = Path(sys.argv[1])
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 64)


class Gated(keras.layers.Layer):
    """A layer with more than two weights, one of which no gradient updates."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")
        self.gate = self.add_weight(shape=(4,), name="gate", initializer="ones")
        self.shift = self.add_weight(shape=(4,), name="shift")
        self.count = self.add_weight(shape=(), name="count", trainable=False, initializer="zeros")

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return keras.ops.tanh(x @ self.kernel) * self.gate + self.shift


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.first = Gated(name="first")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.drop = keras.layers.Dropout(0.2, seed=3)
        self.last = keras.layers.Dense(3, name="last")

    def call(self, x, training=False):
        return self.last(self.drop(self.norm(self.first(x), training=training), training=training))


def make(**compiling):
    keras.utils.set_random_seed(0)
    model = Subclassed()
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=compiling.pop("accumulate", None))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=compiling.pop("jit", False), **compiling)
    return model


class ByHand(keras.callbacks.Callback):
    """What a user would write: asks the model for its weights after every batch."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_begin(self, logs=None):
        self.take()

    def on_train_batch_end(self, batch, logs=None):
        self.take()

    def take(self):
        self.states.append({v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in self.model.weights})


def fit(name, *, every=1, epochs=2, batch=16, callbacks=None, watching=None, **compiling):
    model, hand = make(**compiling), ByHand()
    model(X[:1])
    watching = {"streams": ("weights", "buffers"), **(watching or {})}
    watch = WatchCallback(FOLDER / name, **watching)
    history = model.fit(
        X, Y, batch_size=batch, epochs=epochs, verbose=0, shuffle=False, validation_data=(X, Y) if compiling.get("jit") else None,
        callbacks=[watch, hand] if callbacks is None else callbacks(watch),
    )  # fmt: skip
    return model, hand, history


def check(name, hand, steps):
    run = wl.load(FOLDER / name)
    assert run.closed
    assert run.steps.tolist() == steps, (run.steps.tolist(), steps)
    assert set(run.names) == set(hand.states[0]), (run.names, list(hand.states[0]))
    for tensor in run.names:
        expected = np.stack([state[tensor] for state in hand.states])
        assert run[tensor][:].tobytes() == expected.tobytes(), tensor
    return run


model, hand, history = fit("plain", jit="auto")
run = check("plain", hand, list(range(9)))
assert run.streams["net/norm/moving_mean"] == "buffers"
assert run.streams["net/first/count"] == "buffers"
assert run.streams["net/first/gate"] == "weights"
assert not (run["net/norm/moving_mean"][0] == run["net/norm/moving_mean"][1]).all()
assert np.isnan(run.scalars["loss"][0])
assert np.isfinite(run.scalars["loss"][1:]).all()
assert np.isclose(run.scalars["val_loss"][4], history.history["val_loss"][0])
assert run.meta["framework"] == "keras"

# a frame per optimizer step, whatever a batch is
_, _, _ = fit("accumulated", accumulate=2)
assert wl.load(FOLDER / "accumulated").steps.tolist() == [0, 1, 2, 3, 4]
if keras.backend.backend() != "torch":  # which has no such option
    _, hand, _ = fit("grouped", steps_per_execution=2)
    check("grouped", hand, [0, 2, 4, 6, 8])

# without the hand's own look at the model (which makes the JAX trainer gather) the values are the same
fit("alone", jit="auto", callbacks=lambda watch: [watch])
alone, plain = wl.load(FOLDER / "alone"), wl.load(FOLDER / "plain")
assert all(alone[n][:].tobytes() == plain[n][:].tobytes() for n in plain.names)

# looks at the activations change nothing: not the weights, the statistics, what a layer counts, or the next numbers of dropout
fit("looked", jit="auto", callbacks=lambda watch: [watch], watching={"example": X[:16]})
looked = wl.load(FOLDER / "looked")
assert all(looked[n][:].tobytes() == plain[n][:].tobytes() for n in plain.names)
assert not any("failed" in facts for _, facts in looked.observed), looked.observed

# a second fit: refused, or appended when asked; names stay the same
try:
    fit("plain", jit="auto")
except wl.InvalidArgument as error:
    said = str(error)
    assert "resume=True" in said
else:
    raise AssertionError("a second fit onto the same recording was not refused")
fit("plain", jit="auto", watching={"resume": True})  # from the first weights again: step 0
again = wl.load(FOLDER / "plain")
assert len(again.layouts) == 1
assert again.steps.tolist() == list(range(9))
assert all(again[n][:].tobytes() == alone[n][:].tobytes() for n in alone.names)
assert again.branches["after-0"].steps.tolist() == list(range(1, 9))
model, hand, _ = fit("twice")
more = ByHand()
watch = WatchCallback(FOLDER / "twice", resume=True, streams=("weights", "buffers"))
model.fit(X, Y, batch_size=16, verbose=0, shuffle=False, callbacks=[watch, more])  # from the last weights on
hand.states += more.states[1:]
assert not check("twice", hand, list(range(13))).branches
model.compile(
    keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)  # counts from 0 again
more = ByHand()
watch = WatchCallback(FOLDER / "twice", resume=True, streams=("weights", "buffers"))
model.fit(X, Y, batch_size=16, verbose=0, shuffle=False, callbacks=[watch, more])
hand.states += more.states[1:]
assert not check("twice", hand, list(range(17))).branches

# put back
fresh = make()
fresh(X[:1])
run.load_into(fresh, step=3)
assert all(np.array_equal(keras.ops.convert_to_numpy(v.value), run[v.path][3]) for v in fresh.weights)

# a recorder that breaks in mid-run leaves the training as it would have been
whole = [np.array(w) for w in fit("whole", callbacks=lambda watch: [])[0].get_weights()]


class Saboteur(keras.callbacks.Callback):
    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            self.watch.recorder._source.entries = lambda params: 1 / 0


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    broken, _, _ = fit("broken", callbacks=lambda watch: [watch, Saboteur(watch)])
assert sum("could not be recorded (ZeroDivisionError: division by zero)" in str(w.message) for w in caught) == 1
assert all(np.array_equal(a, b) for a, b in zip(whole, broken.get_weights()))
assert wl.load(FOLDER / "broken").stopped is None
assert wl.load(FOLDER / "broken").frames == 3
assert [gap[:2] for gap in wl.load(FOLDER / "broken").gaps] == [(3, 8)]

# a training loop by hand
model = make()
model(X[:1])
with wl.watch(model, FOLDER / "loop") as rec:
    for k in range(3):
        model.train_on_batch(X[:16], Y[:16])
        rec.step(loss=k)
assert wl.load(FOLDER / "loop").frames == 4
kernel = keras.ops.convert_to_numpy(model.first.kernel.value)
assert np.array_equal(wl.load(FOLDER / "loop")["net/first/kernel"][-1], kernel)
# a model that fit() itself builds: on TensorFlow its first weights are out of reach, and the recording says so
model = keras.Sequential([keras.layers.Dense(3, name="dense")], name="unbuilt")
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.fit(X, Y, batch_size=32, verbose=0, callbacks=[WatchCallback(FOLDER / "unbuilt")])
run = wl.load(FOLDER / "unbuilt")
late = keras.backend.backend() == "tensorflow"
assert run.steps.tolist() == ([1, 2] if late else [0, 1, 2])
assert len(run.gaps) == late
assert any("begins at step 1" in str(w.message) for w in caught) == late
assert run.names == ["unbuilt/dense/kernel", "unbuilt/dense/bias"]


# a crash after an odd number of steps, resumed from older checkpoints, into the same folder and a new one
def named():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, "tanh", name="a"), keras.layers.BatchNormalization(name="n"), keras.layers.Dense(3, name="b")],
        name="net",
    )  # fmt: skip
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    return model


class Keeper(keras.callbacks.Callback):
    """Keeps a checkpoint after every second batch, and crashes after the fifth."""

    def on_train_batch_end(self, batch, logs=None):
        if batch % 2:
            self.model.save(FOLDER / f"kept-{batch + 1}.keras")
        if batch == 4:
            raise InterruptedError("crash")


X8, Y8 = np.concatenate([X, X[::-1]]), np.concatenate([Y, Y])  # eight batches
whole = ByHand()
named().fit(X8, Y8, batch_size=16, verbose=0, shuffle=False, callbacks=[whole])
watched = named()
watch = WatchCallback(FOLDER / "seen", example=X[:16])
watched.fit(X8, Y8, batch_size=16, verbose=0, shuffle=False, callbacks=[watch])
seen = wl.load(FOLDER / "seen")
assert all(seen[n][k].tobytes() == whole.states[k][n].tobytes() for n in seen.names for k in range(9))
assert [step for step, _ in seen.observed] == [0, 1, 2, 3, 6, 8], seen.observed
for step, facts in seen.observed:
    (told,) = facts["activations"]
    hidden = np.tanh(X[:16] @ whole.states[step]["net/a/kernel"] + whole.states[step]["net/a/bias"])
    assert (told["layer"], told["op"], told["units"]) == ("net/a", "tanh", 5)
    assert np.isclose(told["flat"], (np.abs(hidden) > 0.99).mean(), atol=0.02)
assert not any("call" in vars(layer) or "_then" in repr(layer.activation) for layer in watched.layers[::2])
(group,) = next(facts["groups"] for _, facts in seen.observed if "groups" in facts)
assert (group["optimizer"], group["weight_decay"], len(group["names"])) == ("Adam", 0.0, 6)
assert np.isclose(group["lr"], 0.01)
for at in (2, 4):
    watching = {"streams": ("weights", "buffers")}
    try:
        named().fit(
            X8,
            Y8,
            batch_size=16,
            verbose=0,
            shuffle=False,
            callbacks=[WatchCallback(FOLDER / f"crash-{at}", **watching), Keeper()],
        )
    except InterruptedError:
        pass
    else:
        raise AssertionError("did not crash")
    for name, first in ((f"crash-{at}", 0), (f"crash-{at}-new", at)):
        model = keras.models.load_model(FOLDER / f"kept-{at}.keras")
        watch = WatchCallback(FOLDER / name, resume=True, **watching)
        model.fit(X8[16 * at :], Y8[16 * at :], batch_size=16, verbose=0, shuffle=False, callbacks=[watch])
        run = wl.load(FOLDER / name)
        assert run.steps.tolist() == list(range(first, 9)), run.steps
        assert len(run.layouts) == 1
        for (
            tensor
        ) in run.names:  # a new recording of a loaded model has other paths: Keras leaves the model's name out of them
            expected = np.stack([s[f"net/{tensor.removeprefix('net/')}"] for s in whole.states[first:]])
            assert run[tensor][:].tobytes() == expected.tobytes(), (name, tensor)
        assert list(run.branches) == ([f"after-{at}"] if first == 0 else [])
        assert not run.gaps
print("checked on", keras.backend.backend())
