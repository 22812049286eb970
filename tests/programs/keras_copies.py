"""A callback of Keras that is copied records nothing and says so once, while the first one's recording stays as it is."""

import copy
import sys
import warnings

import keras
import numpy as np

import weightlapse as wl
from weightlapse.adapters.keras import WatchCallback

path = sys.argv[1] + "/run"
x, y = np.random.default_rng(0).random((16, 4)), np.arange(16) % 2
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="net")
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
watch = WatchCallback(path)
model.fit(x, y, batch_size=8, verbose=0, callbacks=[watch])
other = copy.deepcopy(watch)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[other])
assert sum("copy of a recorder" in str(w.message) for w in caught) == 1
assert wl.load(path).steps.tolist() == [0, 1, 2]
print("checked on", keras.backend.backend())
