"""Fifteen weights, one that decides (TensorFlow 1's graph and session). Lines that end in ``# weightlapse`` were added; steps from the command line."""

import sys

import numpy as np
import tensorflow.compat.v1 as tf

import weightlapse as wl  # weightlapse

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
tf.disable_v2_behavior()
tf.set_random_seed(0)
rng = np.random.default_rng(0)

features = np.concatenate([10 * rng.standard_normal((2, 1000)), 0.01 * rng.standard_normal((13, 1000))])
labels = (features[:1] >= 0).astype("float32")

X, Y = tf.placeholder(tf.float32, (15, None)), tf.placeholder(tf.float32, (1, None))
W = tf.get_variable("W1", (1, 15), initializer=tf.glorot_uniform_initializer())
b = tf.get_variable("b1", (1, 1), initializer=tf.zeros_initializer())
cost = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=W @ X + b, labels=Y))
train = tf.train.AdamOptimizer(1e-4).minimize(cost)

with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    rec = wl.watch({"W1": session.run(W), "b1": session.run(b)}, "run")  # weightlapse
    for step in range(1, STEPS + 1):
        _, now = session.run([train, cost], {X: features, Y: labels})
        if step % 40 == 0:
            rec.step({"W1": session.run(W), "b1": session.run(b)}, step=step, cost=now)  # weightlapse
    rec.close()  # weightlapse
print("cost:", now)

run = wl.load("run")  # weightlapse
groups = {"w1": {"W1": [0]}, "w2": {"W1": [1]}, "noise": {"W1": range(2, 15)}}  # weightlapse
print({k: round(float(v[-1]), 3) for k, v in wl.measure(run, "mass", groups=groups).items()})  # weightlapse
wl.make_film(run, "film.mp4", groups=groups, panels=("groups", "mass:W1"), title="15 weights")  # weightlapse
