"""Small things of recurrent cells: window lengths, when averaging begins, a corpus, sizes."""

import pathlib
import re
import tempfile

import jax
import numpy as np

from darts_dist import genotype as genotypes
from darts_dist.data import text, windows
from darts_dist.interop_recurrent import recurrent_to_torch
from darts_dist.optim import averaging_is_due
from darts_dist.spaces import rnn
from parity.vectors import Row, VectorError, exact, guarded, read_json

STEM = "rnn_small"
NETWORK = re.compile(r"(?:model_(\w+?)|search)_ntoken(\d+)_nhid(\d+)")
SPEC = re.compile(r"state_spec_ptb_(\w+)")
PTB = (10_000, 850)  # words and width of the network that is described
KNOWN = ("doc", "sequence_lengths", "nonmono", "corpus", "param_counts")


def check(directory):
    """Yields a row a quantity."""
    tree = read_json(directory, STEM)
    parts = {
        "sequence_lengths": lambda: list(sequence_lengths(tree["sequence_lengths"])),
        "nonmono": lambda: list(switches(tree["nonmono"])),
        "corpus": lambda: list(corpus(tree["corpus"])),
        "param_counts": lambda: list(counts(tree["param_counts"])),
    }
    for name in tree:
        if match := SPEC.fullmatch(name):
            yield from guarded(
                STEM, name, "", lambda match=match, name=name: spec(match, tree[name])
            )
        elif name not in KNOWN:
            yield Row(STEM, name, "", "", float("inf"), 0.0, "not covered")
    for name, rows in parts.items():
        yield from guarded(STEM, name, "", rows)


def sequence_lengths(settings):
    """Yields rows of the lengths that numpy's seed gives, and of the rates that follow."""
    length, excess = settings["bptt"], settings["max_seq_len_delta"]
    for kind, jitter in (("train", True), ("search", False)):
        draw = np.random.RandomState(settings["seed"])
        found = [
            windows.draw_length(draw, length, jitter=jitter, excess=excess)
            for _ in range(settings["n"])
        ]
        yield exact(STEM, f"windows {kind}", "", "seq_len", found, settings[kind]["seq_len"])
        rates = [settings["lr"] * one / length for one in found]
        yield exact(STEM, f"windows {kind}", "", "lr", rates, settings[kind]["lr"])


def switches(cases):
    """Yields a row a course of losses: the evaluation after which averaging begins."""
    for i, case in enumerate(cases):
        losses, patience = case["val_losses"], case["nonmono"]
        due = (at for at in range(len(losses)) if averaging_is_due(losses[: at + 1], patience))
        yield exact(STEM, f"nonmono [{i}]", "", "switch_at", next(due, None), case["switch_at"])


def corpus(case):
    """Yields rows of the words and numbers of a corpus on disk."""
    with tempfile.TemporaryDirectory() as folder:
        for split, content in case["text"].items():
            pathlib.Path(folder, f"{split}.txt").write_text(content, encoding="utf-8")
        found = text.read(folder)
    yield exact(STEM, "corpus", "", "idx2word", list(found.words), case["idx2word"])
    for split, wanted in case["ids"].items():
        yield exact(STEM, "corpus", "", split, getattr(found, split).tolist(), wanted)


def counts(cases):
    """Yields a row a network: its number of parameters."""
    for name, wanted in cases.items():
        match = NETWORK.fullmatch(name)
        if not match:
            raise VectorError(f"{name}: no network is named like this")
        genotype, words, width = match.groups()
        params, _ = shapes(genotype, int(words), int(width))
        found = sum(leaf.size for leaf in jax.tree.leaves(params))
        yield exact(STEM, f"size {name}", "", "parameters", found, wanted)


def spec(match, wanted):
    """Returns a row of a network's state: names and shapes, in order."""
    params, stats = shapes(match[1], *PTB)
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), (params, stats))
    named = recurrent_to_torch(*zeros, twice=True)
    found = [[name, list(value.shape)] for name, value in named.items()]
    return [exact(STEM, f"state {match[1]}", "", "names and shapes", found, wanted)]


def shapes(genotype, words, width):
    """Returns (params, stats) of a network that is described and never made; None: of a search."""
    if genotype is None:
        init, _ = rnn.build(words=words, width=width, nodes=rnn.NODES)
    else:
        init, _ = rnn.build_network(genotypes.load(genotype, "rnn"), words=words, width=width)
    return jax.eval_shape(init, jax.random.key(0))
