"""Networks as flax nnx modules: they know sizes and axis names, nothing of config or mesh."""
