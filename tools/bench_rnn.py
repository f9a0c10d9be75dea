"""The weight step of a search of recurrent cells, beside the same step in eager PyTorch.

They take turns. In each, both begin with the first weights, see the same window and masks of
dropout, and must come to the same loss and the same norm of the gradient in the first step; the
second is timed, the first brings memory and caches back after the other side. A large product
measures in between at what rate the machine multiplies at that time.

In a step: words embedded, the cell over the window, all dropout and the penalty on changes, the
loss, gradients of all weights, clipping, SGD, running statistics, the hidden state for the next
window. This package draws the masks of dropout in the step; PyTorch is given them.
"""

import sys

import numpy as np
import turns

# Relative differences of loss and norm by rounding. The first states hardly vary, and the
# shared norm makes them large, step after step; the norm of the gradient feels it.
CLOSE = (1e-5, 5e-2)
PRODUCT = 3072  # side of the matrices whose product is timed


def bench_rnn(args):
    """The weight step of the search of recurrent cells at the paper's size; --peer torch."""
    peer = turns.Apart("peer_rnn") if args.peer else None
    from darts_dist import cluster

    cluster.start(platform="cpu", cpu_devices=1, recurrent=True)
    task, windows = make_task(args)
    ours = Ours(task)
    theirs = Theirs(peer, task) if peer else None
    rows, rates = [], []
    for turn in range(args.repeats + 1):  # the first, which compiles, does not count
        window, masks, seen = windows[turn], [], {"torch": [], "ours": []}
        ours.begin()
        if theirs:
            theirs.begin(ours.states[0])
        for _ in range(2):
            masks.append(ours.masks())
            seen["ours"].append(turns.timed(ours.step, window))
        for one in masks if theirs else ():
            theirs.give(window, one)
            seen["torch"].append(theirs.step())
        # The second step amplifies how the first ones round.
        row = {name: steps[1] | {"gave": steps[0]["gave"]} for name, steps in seen.items() if steps}
        rows.append(row)
        rates.append(product_rates(peer))
        print(f"turn {turn}: {row}, a product: {rates[-1]}", file=sys.stderr)
        if theirs:
            gave = [row[name]["gave"] for name in ("ours", "torch")]
            turns.check(turn, ("loss", "gradient norm"), CLOSE, *gave)
    flops = flops_of(task)
    best = {kind: max(one[kind] for one in rates) for kind in turns.TIMES}
    told = {name: summary(name, [row[name] for row in rows[1:]], flops, best) for name in rows[0]}
    product = {kind.replace("_s", "_gflop_per_s"): round(rate, 1) for kind, rate in best.items()}
    found = {"rnn": list(told.values()), "product": [product]}
    if theirs:
        pair = [[row[name] for row in rows[1:]] for name in ("ours", "torch")]
        found |= turns.ratios({"weight": pair})
        found["last_loss"] = [{name: round(rows[-1][name]["gave"][0], 5) for name in rows[-1]}]
    return found


def make_task(args):
    """Returns (a search on random words, windows of full length for all turns)."""
    from darts_dist import config as configs
    from darts_dist.data.text import Corpus
    from darts_dist.texttask import TextSearch

    sizes = {
        "network.channels": args.channels or 300,
        "network.nodes": args.nodes,
        "data.global_batch": args.batch or 256,
        "data.window": args.window,
    }
    given = [f"{knob}={size}" for knob, size in sizes.items()]
    more = ("space.kind=rnn", "method.preset=darts_first", "mesh.seed=1", "mesh.data=1")
    config = configs.parse("", "the bench", overrides=(*more, *given))
    batch, window = config.data.global_batch, config.data.window
    count = batch * (2 + window * (args.repeats + 2))
    draw = np.random.default_rng(0)
    # Some words are frequent and most are rare, as in a language.
    text = (args.words * draw.random(count) ** 3).astype(np.int32)
    task = TextSearch(config, Corpus(tuple(map(str, range(args.words))), text, text, text))
    steps = (task.windows[step] for step in range(2 * args.repeats + 20))
    whole = [one for one in steps if (one["train"]["length"] == window).all()]
    return task, whole[: args.repeats + 1]


class Ours:
    """The step of this package, as a search runs it where its alphas do not move."""

    def __init__(self, task):
        import jax

        self.task, self.states = task, ()
        self.wait, self.draw = jax.block_until_ready, jax.jit(self._draw)

    def begin(self):
        """Begins anew with the first weights."""
        self.states = self.wait(self.task.init())

    def masks(self):
        """Returns the masks of dropout that the next step will draw, as arrays."""
        return {name: np.array(one) for name, one in self.draw(self.states[0]).items()}

    def _draw(self, state):
        import jax

        from darts_dist.nets import dropout
        from darts_dist.seedwork import STREAMS

        model, batch = self.task.programs.one.model, self.task.config.data.global_batch
        step_key = jax.random.fold_in(state.key[0], state.step[0])
        return dropout.draw_masks(
            jax.random.fold_in(step_key, STREAMS["train"]),
            np.arange(batch),
            model.dropout,
            words=model.words,
            width=self.task.config.network.channels,
            dtype=np.float32,
        )

    def step(self, window):
        """Returns (loss, norm of the gradient) of one step, masks drawn on the way."""
        rate = self.task.rate(0)
        self.states, seen = self.task.step(self.states, window, rate, architect=False)
        self.wait(self.states)
        return float(seen["loss"][0]), float(seen["grad_norm"][0])


class Theirs:
    """The step of the peer, from the weights and with the masks and windows of ours."""

    def __init__(self, peer, task):
        self.peer, self.task, self.config = peer, task, task.config

    def begin(self, state):
        """Begins anew with the weights, alphas and hidden state of a State of ours."""
        import jax

        params, hidden = jax.tree.map(lambda x: np.array(x[0]), (state.params, state.hidden))
        mixture = np.array(jax.nn.softmax(state.alphas["recurrent"][0]))
        self.peer.call(
            "begin",
            params,
            mixture,
            self.config.space.operations,
            temporal=self.config.regularisation.temporal,
            clip_norm=self.config.weights.clip_norm,
            weight_decay=self.config.weights.weight_decay,
        )
        self.peer.call("carry", hidden["train"])

    def give(self, window, masks):
        """Takes what the next step sees."""
        words = window["train"]
        tokens, targets = (words[name][0].T.astype(np.int64) for name in ("tokens", "targets"))
        self.peer.call("give", tokens, targets, masks, bool(words["starts"][0]))

    def step(self):
        """Returns what one step gives, (loss, norm of the gradient), and its time."""
        return self.peer.call("step", self.task.rate(0))


def product_rates(peer):
    """Returns the multiplications and additions of one large product, in 1e9, a second on the clock
    and a second of a core: by the faster library of those that take part.
    """
    import jax

    square = np.ones((PRODUCT, PRODUCT), np.float32)
    x = jax.numpy.asarray(square)
    ways = [lambda: turns.timed(lambda: jax.block_until_ready(jax.numpy.matmul(x, x)))]
    if peer:
        ways.append(lambda: peer.call("product", square))
    rows = [[way() for _ in range(2)][-1] for way in ways]  # the first compiles
    return {kind: 2 * PRODUCT**3 / min(row[kind] for row in rows) / 1e9 for kind in turns.TIMES}


def flops_of(task):
    """Returns the multiplications and additions of a step's matrix products: of the words and of
    the cell, forward, and twice as many backward.
    """
    network, data = task.config.network, task.config.data
    width, words = network.channels, len(task.corpus.words)
    edges = network.nodes * (network.nodes + 1) // 2
    a_word = 2 * width * words + 2 * (2 * width) ** 2 + edges * 2 * width * 2 * width
    return 3 * data.global_batch * data.window * a_word


def summary(name, rows, flops, rates):
    """Returns what is told of one side: its times, and its share of a product's rates."""
    found = turns.summary(name, rows)
    share = {kind: flops / found[kind] / 1e9 / rates[kind] for kind in turns.TIMES}
    return found | {
        "flops": flops,
        "gflop_per_s": round(flops / found["wall_s"] / 1e9, 1),
        "of_product_percent": round(100 * share["wall_s"]),
        "gflop_per_cpu_s": round(flops / found["cpu_s"] / 1e9, 1),
        "of_product_cpu_percent": round(100 * share["cpu_s"]),
    }
