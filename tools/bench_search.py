"""The steps of a search of convolutional cells, beside the same in eager PyTorch.

Timed are the step of the weights, and those of the alphas in first and in second order: here
exact, in PyTorch the central difference as in the original. The sides take turns. In each turn both
begin with the first weights and get the same prepared pictures; loss and norm of the gradient must
agree, in second order the loss after the virtual step. The second step is timed; the first brings
memory and caches back after the other's turn.
"""

import sys

import numpy as np
import turns

STEPS = ("weight", "first", "second")
# Relative differences of loss and norm of the gradient by rounding. That of alphas sums over
# whole maps; in second order the two sides take different derivatives.
CLOSE = {"weight": (1e-4, 1e-2), "first": (1e-4, 5e-2), "second": (1e-3, float("inf"))}
QUICK = {"layers": 3, "image": 16, "batch": 16}  # of the options that set sizes


def bench_search(args):
    """Times of the steps of a search of the paper's network; --quick, --peer torch."""
    peer = turns.Apart("peer_search") if args.peer else None
    from darts_dist import cluster

    cluster.start(platform="cpu", cpu_devices=1)
    ours = Ours({name: config_of(args, name) for name in ("first", "exact")})
    theirs = Theirs(peer, ours) if peer else None
    sides = {"torch": theirs, "ours": ours} if theirs else {"ours": ours}
    rows = {name: {step: [] for step in STEPS} for name in sides}
    for turn in range(args.repeats + 1):  # the first, which compiles, does not count
        for step in STEPS:
            for name, side in sides.items():
                side.begin()
                row = [side.step(step) for _ in range(2)][-1]
                rows[name][step].append(row)
                print(f"turn {turn}, {step}, {name}: {row}", file=sys.stderr)
            if theirs:
                gave = [rows[name][step][-1]["gave"] for name in ("ours", "torch")]
                turns.check(turn, (f"{step}: loss", f"{step}: norm"), CLOSE[step], *gave)
    found = {
        "search": [
            {"side": name} | turns.summary(step, rows[name][step][1:])
            for step in STEPS
            for name in sides
        ]
    }
    if theirs:
        pairs = {step: [rows[name][step][1:] for name in ("ours", "torch")] for step in STEPS}
        found |= turns.ratios(pairs)
    return found


def config_of(args, hypergradient, *more, small=None):
    """Returns the config of a search: of `args.config`, or of the paper, by sizes that are given.

    more: overrides.  small: sizes where none are given; left out, `QUICK` with --quick.
    """
    from bench_kernels import SIZES

    from darts_dist import config as configs

    given = {knob: getattr(args, name) for name, (knob, _) in SIZES.items()}
    if small is None:
        small = QUICK if args.quick else {}
    sizes = {SIZES[name][0]: size for name, size in small.items()}
    sizes |= {knob: size for knob, size in given.items() if size is not None}
    one = ("mesh.seed=1", "mesh.data=1", "seeds.count=1", "data.cutout_px=0")
    how = f"method.hypergradient={hypergradient}"
    overrides = (*one, how, *(f"{knob}={size}" for knob, size in sizes.items()), *more)
    if args.config:
        return configs.load(args.config, overrides)
    return configs.parse("", "the bench", overrides=overrides)


def draw_pictures(config):
    """Returns random pictures of ten classes for a search, four batches."""
    from darts_dist.data import sources

    side, count = config.network.image_px, 4 * config.data.global_batch
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, side, side, config.network.in_channels), np.uint8)
    labels = draw.integers(0, 10, count).astype(np.int32)
    names = tuple(map(str, range(10)))
    return sources.Pictures(images, labels, names, (0.5,) * 3, (0.25,) * 3)


class Ours:
    """The steps of this package, as searches by two hypergradients run them.

    configs: {"first", "exact"}.
    """

    def __init__(self, configs):
        from darts_dist.search import Search

        self.config = configs["first"]
        pictures = draw_pictures(self.config)
        self.searches = {name: Search(one, pictures) for name, one in configs.items()}
        self.rate = self.searches["first"].rate(0)
        self.begin()
        batch = next(iter(self.searches["first"].batches()))
        programs = self.searches["first"].programs
        (placed,) = programs.place_batches(batch)
        self.ready = programs.prepare(self.states[0], placed)

    def begin(self):
        """Begins anew with the first weights."""
        import jax

        self.states = jax.block_until_ready(self.searches["first"].init())

    def step(self, name):
        """Returns what a step gives, (loss, norm of the gradient), and its time."""
        return turns.timed(getattr(self, name))

    def weight(self):
        """Returns (loss, norm of the gradient) of the weights' step in a search of first order."""
        programs = self.searches["first"].programs
        state, seen = programs.update(self.states[0], self.ready, self.rate, architect=False)
        return self._seen(state, seen["loss"], seen["grad_norm"])

    def first(self):
        """Returns (validation loss, norm of the alpha gradient) of the alphas' step."""
        return self._alphas("first")

    def second(self):
        """Returns (validation loss after the virtual step, norm of the alpha gradient)."""
        return self._alphas("exact")

    def _alphas(self, name):
        programs = self.searches[name].programs
        state, _, seen, _ = programs.move_alphas(self.states[0], self.ready, self.rate)
        return self._seen(state, seen["valid_loss"], seen["alpha_grad_norm"])

    def _seen(self, state, *numbers):
        import jax

        self.states = (jax.block_until_ready(state),)
        return tuple(float(number[0]) for number in numbers)


class Theirs:
    """The steps of the peer, on the weights and prepared pictures of ours."""

    def __init__(self, peer, ours):
        import jax

        self.peer, self.ours = peer, ours
        self.batches = {
            name: (np.array(images[0].transpose(0, 3, 1, 2)), labels[0].astype(np.int64))
            for name, (images, labels) in jax.device_get(ours.ready).items()
        }

    def begin(self):
        """Begins anew with the first weights of ours."""
        import jax

        from darts_dist import interop
        from darts_dist.nets.supernet import is_reduction

        config = self.ours.config
        network, operations = config.network, config.space.operations
        sizes = {"nodes": network.nodes, "operations": operations, "layers": network.layers}
        state = self.ours.searches["first"].init()[0]
        params, stats, alphas = jax.tree.map(
            lambda x: np.array(x[0]), (state.params, state.stats, state.alphas)
        )
        more = {
            "channels": network.channels,
            "classes": 10,
            "reductions": [at for at in range(network.layers) if is_reduction(at, network.layers)],
        }
        weights, adam = config.weights, config.alphas
        self.peer.call(
            "begin",
            sizes | more,
            interop.search_to_torch(params, stats, **sizes),
            alphas,
            self.batches,
            {name: getattr(weights, name) for name in ("momentum", "weight_decay", "clip_norm")},
            {
                "lr": adam.learning_rate,
                "betas": tuple(adam.betas),
                "weight_decay": adam.weight_decay,
            },
        )

    def step(self, name):
        """Returns what a step gives, (loss, norm of the gradient), and its time."""
        return self.peer.call(name, self.ours.rate)
