"""Watch the two weights of one neuron (Keras 3, ``fit`` with a callback). Lines that end in ``# weightlapse`` were added; epochs from the command line."""

import sys

import keras
import numpy as np

import weightlapse as wl  # weightlapse
from weightlapse.adapters.keras import WatchCallback  # weightlapse

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
keras.utils.set_random_seed(0)

rng = np.random.default_rng(0)
x = rng.random((500, 2))
y = np.tanh(x.sum(1))
x_test = rng.random((10, 2))
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="tanh", name="neuron")])
model.compile(keras.optimizers.SGD(0.5), "mse")

print("loss before:", model.evaluate(x_test, np.tanh(x_test.sum(1)), verbose=0))
model.fit(x, y, epochs=EPOCHS, verbose=0, callbacks=[WatchCallback("run")])  # weightlapse
print("loss after:", model.evaluate(x_test, np.tanh(x_test.sum(1)), verbose=0))

run = wl.load("run")  # weightlapse
wl.plot.lines(run, "*").figure.savefig("weights.png")  # weightlapse
print({name: run[name][-1].ravel().tolist() for name in run.names})  # weightlapse
