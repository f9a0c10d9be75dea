"""The order of a text: which words make up each step's windows, and the words after them.

A text lies in columns, one an example, and a window is some of its rows. Windows follow each other
through the text, and passes through it follow each other without end; window after window, the
state of the network is carried on. The windows of a seed are a pure function of (seed, step).

Letters: R rows (time), B columns, T words of a window, S seeds of this process, n columns of this
process.
"""

import bisect
import dataclasses
import functools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from darts_dist.errors import ConfigError

FULL_SHARE = 0.95  # of the windows; the rest is half as long
SHORTEST, DEVIATION = 5, 5.0  # of windows whose length varies around the wanted one
STREAMS = ("train", "valid")  # what trains weights, what trains alphas
ENDLESS = 2**62  # steps


@dataclasses.dataclass(frozen=True)
class Window:
    """`length` rows from row `start`; the words to predict lie one row further.

    wanted: the length that was drawn, which the learning rate is scaled by, also where the end of
    the text leaves fewer rows.
    """

    start: int
    length: int
    wanted: int


def draw_length(draw: Any, length: int, *, jitter: bool, excess: int = 20) -> int:
    """Returns a random length: `length`, in one of twenty cases half of it.

    jitter: then moved by a normal draw, but neither below SHORTEST nor above length + excess; as
    the original trains, while its search does not.  draw: a numpy RandomState, moved by one uniform
    and, with jitter, one normal number.  Source: arXiv 1708.02182, the code of 1806.09055.
    """
    middle = length if draw.random_sample() < FULL_SHARE else length / 2
    if not jitter:
        return max(1, int(middle))
    return min(max(SHORTEST, int(draw.normal(middle, DEVIATION))), length + excess)


class Windows:
    """The windows of one seed, by step: `windows[step]`.

    rows: R of the text.  length, jitter, excess: of `draw_length`.  Raises ConfigError where the
    text has not as many rows as a window needs.
    """

    def __init__(
        self, seed: int, rows: int, *, length: int, jitter: bool, excess: int = 20
    ) -> None:
        check_rows(rows, length)
        self.seed, self.rows = seed, rows
        self.rule = {"length": length, "jitter": jitter, "excess": excess}
        self.firsts = [0]  # the first step of each pass that is known
        self.lock = threading.Lock()
        self.windows_of = functools.lru_cache(maxsize=4)(self.one_pass)

    def one_pass(self, number: int) -> tuple[Window, ...]:
        """Returns the windows of one pass through the text, counted from 0."""
        # Numpy keeps what a RandomState draws from given bits the same for all time.
        draw = np.random.RandomState(np.random.Philox(key=np.array((self.seed, number), np.uint64)))
        windows, start = [], 0
        while start < self.rows - 2:
            wanted = draw_length(draw, **self.rule)
            windows.append(Window(start, min(wanted, self.rows - 1 - start), wanted))
            start += wanted
        return tuple(windows)

    def locate(self, step: int) -> tuple[int, int]:
        """Returns (pass, place in it) of a step, each counted from 0."""
        with self.lock:
            while self.firsts[-1] <= step:
                windows = self.windows_of(len(self.firsts) - 1)
                self.firsts.append(self.firsts[-1] + len(windows))
            number = bisect.bisect_right(self.firsts, step) - 1
            return number, step - self.firsts[number]

    def __getitem__(self, step: int) -> Window:
        """Returns the window of a step, counted from 0."""
        number, place = self.locate(step)
        return self.windows_of(number)[place]


def opposite(window: Window, rows: int, length: int) -> Window:
    """Returns the window that trains alphas while `window` trains weights, of a text of its own.

    It starts at the same row, counted around, and is `length` long where the text goes on for as
    long: the original's rule.
    """
    start = window.start % (rows - 1)
    return Window(start, min(length, rows - 1 - start), length)


def check_rows(rows: int, length: int) -> None:
    """Raises ConfigError where a text of so many rows has no window of a length."""
    if rows - 1 < max(length, 2):
        raise ConfigError(
            f"windows of {length} words need a text of at least {max(length, 2) + 1} rows, found "
            f"{rows}; use a longer text, fewer columns (data.global_batch) or shorter windows"
        )


def cut(text: np.ndarray, window: Window, size: int, columns: slice = slice(None)) -> dict:
    """Returns {"tokens", "targets"}, int32[n, size] each, and "length", int32: how many count.

    text: int32[R, B].  size: T; what is beyond the window's length is filled with word 0.
    columns: those of this process.
    """
    rows = text[window.start : window.start + window.length + 1, columns].T
    out = np.zeros((2, len(rows), size), np.int32)
    out[0, :, : window.length], out[1, :, : window.length] = rows[:, :-1], rows[:, 1:]
    return {"tokens": out[0], "targets": out[1], "length": np.int32(window.length)}


class Batches:
    """Random access to this process's part of the batches of each step: `batches[step]`.

    texts: int32[R, B] by stream, "train" and, in a search, "valid".  seeds: all that run, so that
    every process pads to the same size.  own: the S seed numbers of this process.  columns: slice
    of the B columns, n long.  sizes: that windows of "train" are padded to, the smallest that fits
    those of all seeds; each is a shape to compile for.  The rest: see `Windows`.

    An item is, by stream, {"tokens", "targets": int32[S, n, T], "length": int32[S] words that
    count, "starts": bool[S] whether the text begins anew here, "rate": f64[S] what the learning
    rate is to be multiplied with}.
    """

    def __init__(
        self,
        texts: Mapping[str, np.ndarray],
        *,
        seeds: Sequence[int],
        own: Sequence[int],
        columns: slice,
        length: int,
        jitter: bool,
        excess: int = 20,
        sizes: Sequence[int] = (),
    ) -> None:
        self.texts, self.own, self.columns, self.length = texts, tuple(own), columns, length
        rule = {"length": length, "jitter": jitter, "excess": excess}
        self.windows = {seed: Windows(seed, len(texts["train"]), **rule) for seed in seeds}
        self.sizes = sorted({*sizes, length + excess if jitter else length})
        if "valid" in texts:
            check_rows(len(texts["valid"]), length)

    def __len__(self) -> int:
        """Returns how many steps there are: no end of them."""
        return ENDLESS

    def __getitem__(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """Returns the batches of a step, counted from 0."""
        train = {seed: self.windows[seed][step] for seed in self.own}
        streams = {"train": ([train[seed] for seed in self.own], self.size_at(step))}
        if "valid" in self.texts:
            rows = len(self.texts["valid"])
            facing = [opposite(train[seed], rows, self.length) for seed in self.own]
            streams["valid"] = (facing, self.length)
        starts = np.array([train[seed].start == 0 for seed in self.own])
        out = {}
        for stream, (windows, size) in streams.items():
            cuts = [cut(self.texts[stream], one, size, self.columns) for one in windows]
            out[stream] = {name: np.stack([one[name] for one in cuts]) for name in cuts[0]}
            rates = np.array([one.wanted / self.length for one in windows])
            out[stream] |= {"starts": starts, "rate": rates}
        return out

    def size_at(self, step: int) -> int:
        """Returns how many words the windows of "train" are padded to in a step, of all seeds."""
        longest = max(windows[step].length for windows in self.windows.values())
        return next(size for size in self.sizes if size >= longest)


def evaluation_windows(
    text: np.ndarray, length: int, columns: slice = slice(None)
) -> Iterator[dict]:
    """Yields the windows of one pass through int32[R, B] in order, as `cut` gives them.

    The last is padded where the text ends within it; hidden is carried from each to the next.
    """
    for start in range(0, len(text) - 1, length):
        window = Window(start, min(length, len(text) - 1 - start), length)
        yield cut(text, window, length, columns)


def mean_loss(total: float, rows: int, columns: int, *, original: bool = False) -> float:
    """Returns the mean loss of a word, of the sum over all predicted words of an evaluation.

    A text of R rows has R - 1 in each column to predict; the original divides by R all the same,
    and so do the perplexities that its authors published.
    """
    return total / columns / (rows if original else rows - 1)


def perplexity(loss: float) -> float:
    """Returns e to the power of a mean loss, infinite where that is too large for a number."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
