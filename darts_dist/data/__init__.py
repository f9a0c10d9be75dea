"""Pictures: their `sources`, their order (`pipeline`) and their augmentation (`augment`)."""
