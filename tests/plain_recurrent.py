"""The language model once more, written down plainly in numpy: step after step, edge after edge."""

import numpy as np

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "identity": lambda x: x,
}


class Norm:
    """Batch norm without scale and shift; in training the statistics move with every call."""

    def __init__(self, statistics, train):
        self.mean, self.var, self.train = statistics["mean"], statistics["var"], train

    def __call__(self, x):
        mean, var = self.mean, self.var
        if self.train:
            mean, var = x.mean(0), x.var(0)
            self.mean = 0.9 * self.mean + 0.1 * mean
            self.var = 0.9 * self.var + 0.1 * var * len(x) / (len(x) - 1)
        return (x - mean) / np.sqrt(var + 1e-5)


def highway(before, matrix, activation, mask):
    """Returns a state moved by its gate towards its activated candidate."""
    gate, candidate = np.split((before * mask) @ matrix, 2, -1)
    return before + ACTIVATIONS["sigmoid"](gate) * (activation(candidate) - before)


def first_state(x, hidden, matrix, mask):
    """Returns the first state of a step; x has its masks already."""
    gate, candidate = np.split(np.concatenate([x, hidden * mask], -1) @ matrix, 2, -1)
    return hidden + ACTIVATIONS["sigmoid"](gate) * (np.tanh(candidate) - hidden)


def search_cell(start, matrices, weights, operations, norm, mask):
    """Returns the output of a step of the search cell."""
    states, row = [norm(start)], 0
    for matrix in matrices:
        state = 0
        for before in states:
            for share, name in zip(weights[row], operations, strict=True):
                if name != "none":
                    state = state + share * highway(before, matrix, ACTIVATIONS[name], mask)
            row += 1
        states.append(norm(state))
    return np.mean(states[1:], 0)


def fixed_cell(start, matrices, genotype, mask):
    """Returns the output of a step of a genotype's cell."""
    states = [start]
    for (name, before), matrix in zip(genotype.recurrent, matrices, strict=True):
        states.append(highway(states[before], matrix, ACTIVATIONS[name], mask))
    return np.mean([states[s] for s in genotype.concat], 0)


def window(params, tokens, hidden, cell, masks):
    """Returns (logits, hidden, raw outputs, dropped outputs) of a window.

    cell(first state, matrices, mask of states) -> output.  masks: by name, all of them.
    """
    embedded = params["embedding"] * masks["embedding"][:, None]
    raw = []
    for words in tokens:
        x = embedded[words] * masks["input"] * masks["cell_input"]
        start = first_state(x, hidden, params["cell"]["first"], masks["hidden"])
        hidden = cell(start, params["cell"]["nodes"], masks["hidden"])
        raw.append(hidden)
    raw = np.array(raw)
    dropped = raw * masks["output"]
    return dropped @ params["embedding"].T + params["bias"], hidden, raw, dropped
