"""The vectors that ship with the tests: excerpts of them, and the check of a folder."""

import json
import pathlib

import check_parity
import numpy as np
from parity import vectors

VECTORS = pathlib.Path(__file__).parent / "data" / "parity"


def excerpt(folder, stem, names, change=lambda name, value: value, settings=None):
    """Writes some cases of a stem into a folder; `change` gets every array."""
    tree = json.loads((VECTORS / f"{stem}.json").read_text())
    cases = {name: tree["cases"][name] | (settings or {}) for name in names}
    (folder / f"{stem}.json").write_text(json.dumps({"cases": cases}))
    starts = ("common/", *(f"{name}/" for name in names))
    arrays = vectors.read_arrays(VECTORS, stem)
    kept = {k: change(k, v) for k, v in arrays.items() if k.startswith(starts)}
    np.savez(folder / f"{stem}.npz", **{k: v for k, v in kept.items() if v is not None})


def check(folder, *stems):
    """Returns the exit code of the check of some stems."""
    return check_parity.main([str(folder), "--only", *stems])
