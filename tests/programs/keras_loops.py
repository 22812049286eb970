"""Trains Keras models by loops of their own on the backend of KERAS_BACKEND, recorded by ``optimizer=``, and checks each frame against the loop's copies."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import keras
import numpy as np

import weightlapse as wl

FOLDER = Path(sys.argv[1])
BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 2)).astype("float32")


def net(name="net", **more):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(5, "tanh", name="first"),
        keras.layers.BatchNormalization(name="norm"),
    ]
    model = keras.Sequential([*layers, keras.layers.Dense(2, name="last")], name=name)
    for layer, settings in more.items():
        for key, value in settings.items():
            setattr(model.get_layer(layer), key, value)
    return model


def value(variable):
    return np.array(keras.ops.convert_to_numpy(variable.value))


def take(model, prefix="", buffers=False):
    moving = ("moving_mean", "moving_variance")
    return {prefix + v.path: value(v) for v in model.weights if buffers or not v.path.endswith(moving)}


def check(name, states, steps=None):
    run = wl.load(FOLDER / name)
    assert run.closed
    assert run.steps.tolist() == (steps or list(range(len(states)))), (name, run.steps.tolist(), len(states))
    assert set(run.names) == set(states[0]), (name, run.names, list(states[0]))
    for tensor in run.names:
        assert run[tensor][:].tobytes() == np.stack([s[tensor] for s in states]).tobytes(), (name, tensor)
    assert any(not np.array_equal(states[0][t], states[-1][t]) for t in states[0]), name
    return run


def said(action):
    """What the recorder warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in caught if "weightlapse" in str(w.message)]


def refused(model, optimizer, words):
    try:
        wl.watch(model, FOLDER / "refused", optimizer=optimizer)
    except wl.WeightlapseError as error:
        text = str(error)
    else:
        raise AssertionError(f"{optimizer} was not refused")
    assert words in text, text
    assert "\n" not in text
    assert not (FOLDER / "refused").exists()


# ---- an eager loop -------------------------------------------------------------------------------------------------------


def gradients(model, x, y):
    """Loss and gradients by the means of the backend, as a user would take them."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        return loss, tape.gradient(loss, model.trainable_variables)
    if BACKEND == "torch":
        import torch

        model.zero_grad()
        loss = ((model(x, training=True) - torch.tensor(y)) ** 2).mean()
        loss.backward()
        return loss, [v.value.grad for v in model.trainable_variables]
    import jax

    def loss_of(trainable, others):
        out, others = model.stateless_call(trainable, others, x, training=True)
        return keras.ops.mean((out - y) ** 2), others

    trainable, others = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
    (loss, others), found = jax.value_and_grad(loss_of, has_aux=True)(trainable, others)
    for variable, now in zip(model.non_trainable_variables, others):
        variable.assign(now)
    return loss, found


def train(model, optimizer, states, steps=6, method="apply_gradients", x=X, y=Y, rec=None, **kept):
    for k in range(steps):
        loss, found = gradients(model, x, y)
        if BACKEND == "torch":
            import torch

            with torch.no_grad():
                update(model, optimizer, found, method)
        else:
            update(model, optimizer, found, method)
        states.append(take(model, **kept))
        if rec is not None:
            rec.log(loss=loss, k=k)


def update(model, optimizer, found, method):
    if method == "apply":
        optimizer.apply(found, model.trainable_variables)
    else:
        optimizer.apply_gradients(zip(found, model.trainable_variables))


for method in ("apply_gradients", "apply"):
    model, states = net(), []
    optimizer = keras.optimizers.Adam(0.01)
    states.append(take(model, buffers=True))
    with wl.watch(model, FOLDER / method, optimizer=optimizer, streams=("weights", "buffers")) as rec:
        train(model, optimizer, states, method=method, rec=rec, buffers=True)
    run = check(method, states)
    assert run.scalars["k"][1:].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isfinite(run.scalars["loss"][1:]).all()
    train(model, optimizer, states)  # the recorder is closed
    assert wl.load(FOLDER / method).frames == 7

# optimizers that do more, or less, than a step at each call
for name, optimizer, steps in (
    ("clipped", keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.5), None),
    ("averaged", keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=2), None),
    ("scaled", keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0), None),
    ("accumulated", keras.optimizers.Adam(0.01, gradient_accumulation_steps=3), 3),
):
    if BACKEND == "jax" and name == "scaled":
        continue  # Keras does not step it outside of a stateless scope there; see below
    model, states = net(), []
    states.append(take(model))
    with wl.watch(model, FOLDER / name, optimizer=optimizer):
        train(model, optimizer, states)
    check(name, states[::steps] if steps else states)

# a loss scaler that skips a step makes no frame of it
if BACKEND != "jax":
    model, states = net(), []
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    states.append(take(model))
    with wl.watch(model, FOLDER / "skipped", optimizer=optimizer):
        train(model, optimizer, states, steps=2)
        train(model, optimizer, [], steps=1, y=Y * np.float32("inf"))
        train(model, optimizer, states, steps=2)
    assert wl.load(FOLDER / "skipped").frames == 5
    check("skipped", states)

# frozen layers, chosen tensors, a schedule
model, states = net(first={"trainable": False}), []
states.append(take(model))
optimizer = keras.optimizers.SGD(0.1)
with wl.watch(model, FOLDER / "frozen", optimizer=optimizer, tensors=["*", "!*gamma"], every=3):
    train(model, optimizer, states)
names = [n for n in states[0] if not n.endswith("gamma")]
check("frozen", [{n: s[n] for n in names} for s in states[::3]], [0, 3, 6])

# several models, several optimizers: every step, and every iteration
for frame in ("step", "iteration"):
    models = {"g": net("g"), "d": net("d")}
    optimizers = [keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.05)]
    states = [{**take(models["g"], "g."), **take(models["d"], "d.")}]
    with wl.watch(models, FOLDER / frame, optimizer=optimizers, frame=frame):
        for _ in range(4):
            for key, optimizer in zip("dg", reversed(optimizers)):
                train(models[key], optimizer, [], steps=1)
                if frame == "step" or key == "g":
                    states.append({**take(models["g"], "g."), **take(models["d"], "d.")})
    run = check(frame, states)
    assert run.names[0] == "g.g/first/kernel", run.names
    run.load_into(models, step=2)
    assert all(
        np.array_equal(now, states[2][n]) for n, now in {**take(models["g"], "g."), **take(models["d"], "d.")}.items()
    )


# a model of models, which is never called itself
class Pair(keras.Model):
    def __init__(self):
        super().__init__(name="pair")
        self.g, self.d = net("g"), net("d")


pair = Pair()
assert not pair.built
states = [take(pair)]
optimizer = keras.optimizers.SGD(0.1)
optimizer.build(pair.trainable_variables)
with wl.watch(pair, FOLDER / "pair", optimizer=optimizer):
    for k in range(4):
        _, found = gradients((pair.g, pair.d)[k % 2], X, Y)
        part = (pair.g, pair.d)[k % 2].trainable_variables
        if BACKEND == "torch":
            import torch

            with torch.no_grad():
                optimizer.apply(found, part)
        else:
            optimizer.apply(found, part)
        states.append(take(pair))
check("pair", states)

# models that are exchanged are seen, and integers with their scales are weights
models = {"g": net("g"), "d": net("d")}
with wl.watch(models, FOLDER / "exchanged") as rec:
    models["d"] = net("d")
    kernel = models["d"].get_layer("first").kernel
    kernel.assign(kernel * 3)
    rec.step()
run = wl.load(FOLDER / "exchanged")
assert np.array_equal(run["d.d/first/kernel"][1], value(kernel))
assert not np.array_equal(run["d.d/first/kernel"][0], value(kernel))
model = net()
with warnings.catch_warnings(action="ignore"):  # of layers that have nothing to quantise
    model.quantize("int8")
wl.watch(model, FOLDER / "int8").close()
run = wl.load(FOLDER / "int8")
assert run.dtypes["net/first/kernel"] == "int8", run.dtypes
assert "net/first/kernel_scale" in run.names

# what is no optimizer of this model is refused
other = keras.optimizers.SGD(0.1)
other.build(net("other").trainable_variables)
refused(net(), other, "none of them is a parameter")
refused(net(), "adam", "Optimizer is needed" if BACKEND != "torch" else "no step()")
refused(keras.Sequential([keras.layers.Dense(1)]), keras.optimizers.SGD(), "has no weights yet")

# what goes wrong in the recorder's own part does not reach the loop
model, states = net(), []
optimizer = keras.optimizers.SGD(0.1)
optimizer.build(model.trainable_variables)


def broken():
    with wl.watch(model, FOLDER / "broken", optimizer=optimizer) as rec:
        rec._steps.made = lambda *_: 1 / 0
        train(model, optimizer, states, steps=3)


texts = said(broken)
assert sum("an update could not be followed (ZeroDivisionError" in t for t in texts) == 1, texts
twin, alone = net(), []
other = keras.optimizers.SGD(0.1)
other.build(twin.trainable_variables)
train(twin, other, alone, steps=3)
assert all(np.array_equal(alone[-1][n], states[-1][n]) for n in alone[-1])

# rec.step() besides: said once, and no second frame
model, states = net(), []
states.append(take(model))
optimizer = keras.optimizers.SGD(0.1)


def besides():
    with wl.watch(model, FOLDER / "besides", optimizer=optimizer) as rec:
        for _ in range(3):
            train(model, optimizer, states, steps=1)
            rec.step(loss=1.0)


texts = said(besides)
assert len(texts) == 1, texts
assert "rec.step() is called besides optimizer=" in texts[0], texts
check("besides", states)

# fit() with the optimizer of the model
for more in ({}, {"steps_per_execution": 2} if BACKEND != "torch" else {"jit_compile": False}):
    model, states = net(), []
    model.compile(keras.optimizers.Adam(0.01), "mse", **more)

    class ByHand(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states.append(take(self.model))  # noqa: B023

    states.append(take(model))
    name = f"fit{len(more)}"
    with wl.watch(model, FOLDER / name, optimizer=model.optimizer):
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=[ByHand()])
    if "steps_per_execution" in more:  # the callback sees every second update, the recorder each
        run = wl.load(FOLDER / name)
        assert run.steps.tolist() == list(range(9)), run.steps
        for tensor in run.names:
            assert run[tensor][::2].tobytes() == np.stack([s[tensor] for s in states]).tobytes(), tensor
    else:
        check(name, states)

# ---- functions that are traced -------------------------------------------------------------------------------------------

if BACKEND == "tensorflow":
    import tensorflow as tf

    def traced(model, optimizer, **options):
        @tf.function(**options)
        def step(x, y):
            loss, found = gradients(model, x, y)
            optimizer.apply_gradients(zip(found, model.trainable_variables))
            return loss

        return step

    model, optimizer = net(), keras.optimizers.Adam(0.01)
    states = [take(model, buffers=True)]
    step = traced(model, optimizer)
    with wl.watch(model, FOLDER / "traced", optimizer=optimizer, streams=("weights", "buffers")) as rec:
        for _ in range(6):
            rec.log(loss=step(X, Y))
            states.append(take(model, buffers=True))
    run = check("traced", states)
    assert np.isfinite(run.scalars["loss"][1:]).sum() == 6
    # the graph lives on: a closed recorder gets nothing, the next one all
    step(X, Y)
    assert wl.load(FOLDER / "traced").frames == 7
    states = [take(model)]
    with wl.watch(model, FOLDER / "traced again", optimizer=optimizer):
        for _ in range(3):
            step(X, Y)
            states.append(take(model))
    check("traced again", states)

    # several updates in one call, and two optimizers in one function
    model, optimizer = net(), keras.optimizers.SGD(0.1)
    twin, alike = net(), keras.optimizers.SGD(0.1)
    one = traced(twin, alike)
    states = [take(model)]

    @tf.function
    def many(x, y):
        for _ in tf.range(5):
            _, found = gradients(model, x, y)
            optimizer.apply_gradients(zip(found, model.trainable_variables))

    with wl.watch(model, FOLDER / "many", optimizer=optimizer):
        many(X, Y)
        many(X, Y)
    for _ in range(10):
        one(X, Y)
        states.append(take(twin))
    check("many", states)
    models = {"g": net("g"), "d": net("d")}
    two = [keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)]

    @tf.function
    def both(x, y):
        for model, optimizer in zip(models.values(), two):
            _, found = gradients(model, x, y)
            optimizer.apply_gradients(zip(found, model.trainable_variables))

    states = [{**take(models["g"], "g."), **take(models["d"], "d.")}]
    with wl.watch(models, FOLDER / "both", optimizer=two, frame="iteration"):
        for _ in range(4):
            both(X, Y)
            states.append({**take(models["g"], "g."), **take(models["d"], "d.")})
    check("both", states)

    # XLA: refused with the way out, the training goes on, and the end is kept
    model, optimizer = net(), keras.optimizers.SGD(0.1)
    step = traced(model, optimizer, jit_compile=True)
    states = [take(model)]

    def compiled():
        with wl.watch(model, FOLDER / "xla", optimizer=optimizer):
            for _ in range(3):
                step(X, Y)

    texts = said(compiled)
    assert len([t for t in texts if "jit_compile=True cannot be seen" in t and "rec.step()" in t]) == 1, texts
    check("xla", [*states, take(model)])
    model, optimizer = net(), keras.optimizers.SGD(0.1)  # and the way out
    step, states = traced(model, optimizer, jit_compile=True), [take(model)]
    with wl.watch(model, FOLDER / "xla by hand") as rec:
        for _ in range(3):
            step(X, Y)
            rec.step()
            states.append(take(model))
    check("xla by hand", states)

    # variables of a TensorFlow 1 graph
    with tf.Graph().as_default():
        w = tf.compat.v1.get_variable("w", initializer=tf.ones((2,)))
        train_op = tf.compat.v1.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_sum(w**2))
        for given in ({"w": w}, [w], w, tf.compat.v1.trainable_variables()):
            refused(given, None, "session.run(")
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            variables = {v.name: v for v in tf.compat.v1.trainable_variables()}
            with wl.watch(session.run(variables), FOLDER / "session") as rec:
                for k in range(3):
                    session.run(train_op)
                    rec.step(session.run(variables), step=40 * (k + 1))
    run = wl.load(FOLDER / "session")
    assert run.steps.tolist() == [0, 40, 80, 120]
    assert np.allclose(run["w:0"][:, 0], 0.8 ** np.arange(4))

if BACKEND == "jax":
    import jax

    def stateless(model, optimizer, how):
        def loss_of(trainable, others, x, y):
            out, others = model.stateless_call(trainable, others, x, training=True)
            return keras.ops.mean((out - y) ** 2), others

        def step(state, x, y):
            trainable, others, inner = state
            (loss, others), found = jax.value_and_grad(loss_of, has_aux=True)(trainable, others, x, y)
            trainable, inner = optimizer.stateless_apply(inner, found, trainable)
            return (trainable, others, inner), loss

        return how(step)

    def state_of(model, optimizer):
        return tuple(
            [v.value for v in vs]
            for vs in (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        )

    def taken(model, state):
        return {v.path: np.array(x) for v, x in zip(model.trainable_variables, state[0])}

    for name, how in (
        ("stateless", lambda step: step),
        ("jit", jax.jit),
        ("donated", lambda step: jax.jit(step, donate_argnums=0)),
    ):
        model, optimizer = net(), keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
        step = stateless(model, optimizer, how)
        state = jax.tree.map(lambda x: x.copy(), state_of(model, optimizer))
        states = [taken(model, state)]
        with wl.watch(model, FOLDER / name, optimizer=optimizer) as rec:
            for k in range(6):
                state, loss = step(state, X, Y)
                states.append(taken(model, state))
                rec.log(k=k)
        run = check(name, states)
        assert run.scalars["k"][1:].tolist() == [0, 1, 2, 3, 4, 5], run.scalars["k"]

    # a loss scaler skips the third update
    model, optimizer = net(), keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    optimizer.build(model.trainable_variables)
    step = stateless(model, optimizer, jax.jit)
    state = state_of(model, optimizer)
    states = [taken(model, state)]
    with wl.watch(model, FOLDER / "skipped", optimizer=optimizer):
        for k in range(5):
            state, _ = step(state, X, Y * np.float32("inf" if k == 2 else 1))
            state = (
                state[0],
                [v.value for v in model.non_trainable_variables],
                state[2],
            )  # whose statistics are not finite then
            if k != 2:
                states.append(taken(model, state))
    check("skipped", states)

    # a whole loop inside of one compiled call
    model, optimizer = net(), keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    one = stateless(model, optimizer, jax.jit)
    state = state_of(model, optimizer)
    states = [taken(model, state)]
    for _ in range(5):
        state, _ = one(state, X, Y)
        states.append(taken(model, state))
    step = stateless(model, optimizer, lambda step: step)
    scan = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, X, Y), state, None, length=5))
    with wl.watch(model, FOLDER / "scan", optimizer=optimizer):
        scan(state_of(model, optimizer))
    run = wl.load(FOLDER / "scan")
    assert run.steps.tolist() == list(range(6)), run.steps
    for tensor in run.names:
        assert np.allclose(run[tensor][:], np.stack([s[tensor] for s in states]), atol=1e-6), tensor

    # frozen layers, and values given by hand
    model, optimizer = net(first={"trainable": False}), keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    step = stateless(model, optimizer, jax.jit)
    state = state_of(model, optimizer)
    states = [taken(model, state)]
    still = value(model.get_layer("first").kernel)
    with wl.watch(model, FOLDER / "still", optimizer=optimizer):
        for _ in range(3):
            state, _ = step(state, X, Y)
    run = wl.load(FOLDER / "still")
    assert run.frames == 4
    assert all(np.array_equal(frame, still) for frame in run["net/first/kernel"][:])

    model, optimizer = net(), keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    step = stateless(model, optimizer, jax.jit)
    state = state_of(model, optimizer)
    states = [{**taken(model, state), **{v.path: np.array(x) for v, x in zip(model.non_trainable_variables, state[1])}}]
    with wl.watch(model, FOLDER / "by hand", streams=("weights", "buffers")) as rec:
        for _ in range(4):
            state, _ = step(state, X, Y)
            rec.step(state[:2])
            states.append(
                {
                    **taken(model, state),
                    **{v.path: np.array(x) for v, x in zip(model.non_trainable_variables, state[1])},
                }
            )
    check("by hand", [{k: v for k, v in s.items() if "seed" not in k} for s in states])

    def blind():
        with wl.watch(model, FOLDER / "blind", optimizer=optimizer, streams=("weights", "buffers")):
            stateless(model, optimizer, jax.jit)(state, X, Y)

    texts = said(blind)
    assert any("no stateless update on JAX shows it" in t and "rec.step(" in t for t in texts), texts

    # several networks at once: only one of them is recorded, and that is said
    model, optimizer = net(), keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    several = [
        [np.stack([v.value * (k + 1) for k in range(3)]) for v in vs]
        for vs in (optimizer.variables, model.trainable_variables)
    ]
    for k, how in enumerate((jax.vmap, lambda f: jax.jit(jax.vmap(f)), lambda f: jax.vmap(jax.jit(f)))):
        together = how(lambda inner, weights: optimizer.stateless_apply(inner, weights, weights))

        def ensemble():
            with wl.watch(model, FOLDER / f"ensemble {k}", optimizer=optimizer):  # noqa: B023
                together(*several)  # noqa: B023

        texts = said(ensemble)
        assert any("several networks at once" in t for t in texts), texts

if BACKEND == "torch":
    import torch

    model, states = net(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    states.append(take(model))
    with wl.watch(model, FOLDER / "torch", optimizer=optimizer):
        for _ in range(5):
            loss, _ = gradients(model, X, Y)
            optimizer.step()
            states.append(take(model))
    check("torch", states)
print("checked on", BACKEND)
