"""A network that writes the weights of another (Keras 3, sample by sample). Lines that end in ``# weightlapse`` were added; samples from the command line."""

import random
import sys

import keras
import numpy as np
import tensorflow as tf

import weightlapse as wl  # weightlapse

SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
random.seed(0)
keras.utils.set_random_seed(0)

x = np.array([[random.randrange(10) for _ in range(3)] for _ in range(SAMPLES)], dtype="float32")
y = (x[:, :1] ** 2 + 2 * x[:, 1:2] * x[:, 2:]).astype("float32")
shapes = [(3, 5), (5,), (5, 1), (1,)]
cuts = np.cumsum([np.prod(s) for s in shapes]).tolist()

lift = keras.Sequential([keras.Input((3,)), keras.layers.Dense(10, "relu"), keras.layers.Dense(cuts[-1])], name="lift")
optimizer, moment = keras.optimizers.RMSprop(0.001), tf.Variable(tf.zeros(cuts[-1]))


def task(weights, x):
    w1, b1, w2, b2 = (tf.reshape(weights[b - np.prod(s) : b], s) for b, s in zip(cuts, shapes))
    return tf.nn.relu(x @ w1 + b1) @ w2 + b2


@tf.function
def train_step(x, y):
    with tf.GradientTape(persistent=True) as tape:
        weights = lift(x)[0]
        with tf.GradientTape() as inner:
            inner.watch(weights)
            error = tf.reduce_sum((task(weights, x) - y) ** 2)
        gradient = tf.stop_gradient(inner.gradient(error, weights))
        moment.assign(0.9 * moment + 0.1 * gradient**2)
        better = tf.stop_gradient(weights - 0.001 * gradient / (tf.sqrt(moment) + 1e-7))
        loss = tf.reduce_mean((weights - better) ** 2)
    optimizer.apply_gradients(zip(tape.gradient(loss, lift.trainable_variables), lift.trainable_variables))
    return error


rec = wl.watch(lift, "lift", optimizer=optimizer)  # weightlapse
for i in range(SAMPLES):
    error = train_step(x[i : i + 1], y[i : i + 1])
    rec.log(error=error)  # weightlapse
rec.close()  # weightlapse
print("last error:", float(error))

print(wl.make_film("lift", "film.mp4", seconds=8, title="Lift, sample by sample"))  # weightlapse
