"""Network B learns to answer like network A (Keras 3, a loop of one's own). Lines that end in ``# weightlapse`` were added; steps from the command line."""

import sys

import keras
import tensorflow as tf

import weightlapse as wl  # weightlapse

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 50
keras.utils.set_random_seed(0)


def network():
    return keras.Sequential([keras.Input((10,)), *(keras.layers.Dense(n, activation="tanh") for n in (8, 8, 1))])


teacher, learner = network(), network()
optimizer = keras.optimizers.Adam(0.05)


@tf.function
def train_step(x):
    with tf.GradientTape() as tape:
        error = tf.reduce_sum((teacher(x) - learner(x)) ** 2) / 50
    gradients = tape.gradient(error, learner.trainable_variables)
    optimizer.apply_gradients(zip(gradients, learner.trainable_variables))
    return error


wl.watch(teacher, "A", example=tf.zeros((4, 10))).close()  # weightlapse
rec = wl.watch(learner, "B", optimizer=optimizer, example=tf.zeros((4, 10)))  # weightlapse
for _ in range(STEPS):
    error = train_step(tf.random.uniform((50, 10), -1, 1))
    rec.log(error=error)  # weightlapse
rec.close()  # weightlapse
print("error of the last batch:", float(error))

print(wl.make_film("A", "film.mp4", other="B", fps=10, title="A teaches B"))  # weightlapse
