"""Reading files of test vectors and comparing arrays with them."""

import concurrent.futures
import dataclasses
import functools
import json
import pathlib
import zipfile

import jax
import numpy as np


class VectorError(Exception):
    """Vector files that are missing or broken."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A case: `settings` of the JSON file, `inputs` by name, `wanted`: {64 or 32: outputs}."""

    name: str
    settings: dict
    inputs: dict
    wanted: dict


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared quantity; difference = max|a - b| / max|b|, 0 for equal values, else inf."""

    stem: str
    case: str
    run: str
    quantity: str
    difference: float
    tolerance: float
    note: str = ""

    def place(self):
        """Returns what belongs together: (stem, case, run)."""
        return self.stem, self.case, self.run

    @property
    def passed(self):
        """Whether the difference is within the tolerance (it is not when it is no number)."""
        return bool(self.difference <= self.tolerance)


def read_json(directory, stem):
    """Returns the content of a stem's JSON file."""
    path = pathlib.Path(directory) / f"{stem}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise VectorError(f"{path}: {error}") from error


def read_arrays(directory, stem):
    """Returns the arrays of a stem's npz file by name."""
    path = pathlib.Path(directory) / f"{stem}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise VectorError(f"{path}: {error}") from error


def read_cases(directory, stem):
    """Returns the cases of a stem; inputs that cases share are resolved."""
    arrays = read_arrays(directory, stem)

    def under(prefix):
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    described = read_json(directory, stem)["cases"]
    strangers = {name.partition("/")[0] for name in arrays} - {"common", *described}
    if strangers:
        raise VectorError(f"{stem}.npz holds arrays of {sorted(strangers)}, {stem}.json does not")
    cases = []
    for name, settings in described.items():
        shared = tuple(settings.get("common") or ())
        inputs = {k: v for k, v in under("common/").items() if shared and k.startswith(shared)}
        if "state_of" in settings:  # weights that another case stores
            stored = under(f"{settings['state_of']}/")
            inputs |= {k: v for k, v in stored.items() if k.startswith("state/") or k == "alphas"}
        if "data_of" in settings:  # texts that another case stores
            stored = under(f"{settings['data_of']}/")
            inputs |= {k: v for k, v in stored.items() if k in ("train_data", "search_data")}
        own = under(f"{name}/")
        inputs |= {k: v for k, v in own.items() if not k.startswith(("out64/", "out32/"))}
        wanted = {bits: under(f"{name}/out{bits}/") for bits in (64, 32)}
        cases.append(Case(name, settings, inputs, wanted))
    return cases


def under(inputs, prefix):
    """Returns the entries of a dict whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in inputs.items() if k.startswith(prefix)}


def images(inputs, name):
    """Returns f[..., N, H, W, C] of `name`, or of `name`_int8 in steps of 1/32; stored as NCHW."""
    x = inputs[name] if name in inputs else inputs[f"{name}_int8"] / 32.0
    return np.moveaxis(x, -3, -1)


def relative_difference(found, wanted):
    """Returns (max|found - wanted| / max|wanted|, note); inf with a note where shapes differ."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return float("inf"), f"found the shape {found.shape}, wanted {wanted.shape}"
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    scale = np.abs(wanted.astype(np.float64)).max(initial=0.0)
    largest = difference.max(initial=0.0)  # NaN stays NaN and fails
    return float(largest if largest == 0 else largest / scale if scale else np.inf), ""


def compare(stem, case, run, found, wanted, tolerance):
    """Returns a row for every wanted quantity, and fails those that were not found.

    found, wanted: name -> array.  tolerance(name) -> number.
    """
    rows = []
    for name, value in wanted.items():
        if name in found:
            difference, note = relative_difference(found[name], value)
        else:
            difference, note = float("inf"), "not covered"
        rows.append(Row(stem, case, run, name, difference, tolerance(name), note))
    return rows


def exact(stem, case, run, quantity, found, wanted):
    """Returns a row that passes when two values are equal."""
    equal = found == wanted
    note = "" if equal else f"found {found!r}, wanted {wanted!r}"[:300]
    return Row(stem, case, run, quantity, 0.0 if equal else float("inf"), 0.0, note)


def side_by_side(check, cases, threads=2):
    """Yields the rows of check(case) of all cases in order; most of the time is spent compiling."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for rows in pool.map(lambda case: list(check(case)), cases):
            yield from rows


def check_case(stem, case, layouts, compute, tolerance):
    """Yields the rows of every precision and layout of a case that has float outputs.

    layouts(bits) -> names, "" where there is but one.  compute(layout, bits) -> {name: array}.
    tolerance(bits, name).
    """
    declared = {int(bits) for bits in case.settings.get("float_types", ())}
    present = {bits for bits, wanted in case.wanted.items() if wanted}
    if not declared | present:
        yield Row(stem, case.name, "", "(outputs)", float("inf"), 0.0, "the case has none")
    for bits in sorted(declared | present, reverse=True):
        if bits not in present:
            yield Row(stem, case.name, f"float{bits}", "(outputs)", float("inf"), 0.0, "missing")
            continue
        for layout in layouts(bits):
            run = f"float{bits} {layout}".strip()

            def rows(bits=bits, layout=layout, run=run):
                with jax.enable_x64(bits == 64):
                    found = compute(layout, bits)
                limit = functools.partial(tolerance, bits)
                return compare(stem, case.name, run, found, case.wanted[bits], limit)

            yield from guarded(stem, case.name, run, rows)


def guarded(stem, case, run, compute):
    """Returns compute()'s rows, or one failed row when it raises: the other cases go on."""
    try:
        return compute()
    except Exception as error:
        note = f"{type(error).__name__}: {error}"[:300]
        return [Row(stem, case, run, "(error)", float("inf"), 0.0, note)]
