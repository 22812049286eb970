"""Keras models are planned for as they are recorded, on any backend; frozen layers are known."""

import tempfile

import keras

import weightlapse as wl

model = keras.Sequential(
    [keras.Input((5,)), keras.layers.Dense(7), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
)
model.layers[0].trainable = False
for streams in (("weights",), ("weights", "buffers")):
    found = wl.plan(model, streams=streams, measure=False)
    with wl.watch(model, tempfile.mkdtemp() + "/run", streams=streams) as rec:
        rec.step()
    run = wl.load(rec.path)
    assert found.frame_nbytes == run.nbytes / run.frames
    assert [spec.name for spec in found.layout.tensors] == run.names
    assert sum(spec.nbytes for spec in found.layout.tensors if spec.name in found.frozen) == 4 * (5 * 7 + 7)
small = keras.Sequential([keras.Input((5,)), keras.layers.Dense(7, dtype="bfloat16")])
assert wl.plan(small, measure=False).frame_nbytes in (2 * 42, 4 * 42)
path = tempfile.mkdtemp() + "/model.keras"
model.save(path)
assert (
    wl.plan(path, streams=("weights", "buffers"), measure=False).values >= model.count_params()
)  # and the seeds of its layers
print("checked on", keras.backend.backend())
