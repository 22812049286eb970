"""Networks of other frameworks as torch modules: what Keras, Flax NNX, Equinox and JAX functions compute, operator by operator."""
