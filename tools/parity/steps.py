"""Architecture steps and trajectories, by the step builder that search runs."""

import contextlib
import dataclasses

import jax
import msgspec
import numpy as np
import optax

from darts_dist import cluster, interop
from darts_dist.config import Config
from darts_dist.methods.relaxation import softmax
from darts_dist.programs import BATCH, SEED
from darts_dist.searchstep import SearchStep
from darts_dist.spaces import cnn, derive
from parity.vectors import images, under

HYPERGRADIENT = {"fd": "finite_difference", "exact": "exact", "none": "first"}
ADAM = {"0.3.1": "original", "modern": "modern"}


def config_of(case, bits, hypergradient="first"):
    """Returns the search config that a case's settings and the shapes of its inputs stand for."""
    settings, inputs = case.settings, case.inputs
    nodes = derive.nodes_of(len(inputs["alphas_normal"]), "cnn")
    batch, channels, side = _sizes(inputs)
    tree = {
        "network": {
            "channels": settings["C"],
            "layers": settings["layers"],
            "nodes": nodes,
            "in_channels": channels,
            "image_px": side,
            "classes": settings["classes"],
        },
        "data": {"global_batch": batch},
        "precision": {"compute": f"float{bits}"},
        "method": {"hypergradient": hypergradient, "architect_statistics": "move"},
        "weights": {
            "momentum": settings["momentum"],
            "weight_decay": settings["weight_decay"],
            "clip_norm": settings.get("clip", 5.0),
        },
        "alphas": {
            "learning_rate": settings["arch_lr"],
            "betas": settings["arch_betas"],
            "weight_decay": settings["arch_weight_decay"],
            "epsilon_placement": ADAM[settings.get("adam", "0.3.1")],
        },
    }
    return msgspec.convert(tree, Config)


def _sizes(inputs):
    """Batch, channels and side of a case's images."""
    shape = next(v.shape for k, v in inputs.items() if k.startswith("x_"))
    return shape[-4], shape[-3], shape[-1]


def sizes_of(config):
    """Returns what `interop.search_*` need to know of a network."""
    return {
        "nodes": config.network.nodes,
        "operations": config.space.operations,
        "layers": config.network.layers,
    }


def imported(case, config):
    """Returns (params, stats, alphas) of a case's inputs, float32 as they are stored."""
    trees = interop.search_from_torch(under(case.inputs, "state/"), **sizes_of(config))
    return *trees, {cell: case.inputs[f"alphas_{cell}"] for cell in cnn.CELLS}


class Run:
    """A search of one seed on one device, from the weights, statistics and alphas of a case."""

    def __init__(self, case, layout, bits, hypergradient):
        """Traces nothing yet; hypergradient: a name of `methods.hypergradient`."""
        config = config_of(case, bits, hypergradient)
        self.case, self.config, self.dtype = case, config, f"float{bits}"
        self.sizes = sizes_of(config)
        self.step = SearchStep(
            config,
            cluster.make_mesh(1, 1, 1),
            classes=config.network.classes,
            mean=(),
            std=(),
            epoch_steps=1,
            layout=layout,
        )
        apply = self.step.one.model.apply
        self.logits = jax.jit(
            lambda params, stats, alphas, x, train: apply(
                params, stats, x, softmax(alphas), train=train
            )[0],
            static_argnames="train",
        )

    def state(self, momentum=None):
        """Returns the first state; momentum: buffers by the original's names, None for zeros."""
        (state,) = self.step.init([0])
        params, stats, alphas = self._place(imported(self.case, self.config))
        state = dataclasses.replace(state, params=params, stats=stats, alphas=alphas)
        if momentum is None:
            return state
        buffer, _ = interop.search_from_torch(momentum, **self.sizes, statistics=False)
        opt = optax.tree.set(state.weight_opt, trace=self._place(buffer))
        return dataclasses.replace(state, weight_opt=opt)

    def _place(self, tree):
        lead = jax.tree.map(lambda v: np.asarray(v, self.dtype)[None], tree)
        return self.step.place(lead, SEED, whole=True)

    def batch(self, name, at=...):
        """Returns one prepared batch; at: its number where a case has several."""
        x = images(self.case.inputs, f"x_{name}")[at].astype(self.dtype)
        y = self.case.inputs[f"y_{name}"][at].astype(np.int32)
        return self.step.place((x[None], y[None]), BATCH, whole=True)

    def update(self, state, train, valid, rate):
        """Returns (state, metrics, seen) of a step; seen: what its architecture part computed."""
        with watched(self.step) as seen:
            state, metrics = self.step.update(state, {"train": train, "valid": valid}, rate)
        return state, first_seed(metrics), seen

    def named(self, params):
        """Returns names -> arrays of a tree like the parameters."""
        return interop.search_to_torch(params, **self.sizes)

    def statistics(self, params, stats):
        """Returns names -> running statistics alone."""
        both = interop.search_to_torch(params, stats, **self.sizes)
        return {name: both[name] for name in both.keys() - self.named(params).keys()}


def first_seed(tree):
    """Returns copies of the first seed's values of a tree, numpy."""
    return jax.tree.map(lambda v: np.array(v[0]), tree)


@contextlib.contextmanager
def watched(step):
    """Yields a dict that notes what the parts of an architecture step return, by their names."""
    seen, passes, hypergradient = {}, step.passes, step.hypergradient
    step.passes = noted(passes, seen)
    step.hypergradient = _noted("hypergradient", hypergradient, seen)
    try:
        yield seen
    finally:
        step.passes, step.hypergradient = passes, hypergradient


def noted(passes, seen):
    """Returns passes that note in `seen` what each of them returns, call after call."""
    there = {f.name: getattr(passes, f.name) for f in dataclasses.fields(passes)}
    return dataclasses.replace(
        passes, **{name: _noted(name, one, seen) for name, one in there.items() if one}
    )


def _noted(name, function, seen):
    def run(*args, **options):
        out = function(*args, **options)
        seen.setdefault(name, []).append(out)
        return out

    return run


def architect(case, layout, bits):
    """Returns the outputs of an `architect` case: first order, second with both derivatives."""
    first, differences, exact = (
        Run(case, layout, bits, name) for name in ("first", "finite_difference", "exact")
    )
    found = {f"first/{name}": value for name, value in _architecture_step(first, None).items()}
    buffers = {"unrolled": under(case.inputs, "momentum/"), "unrolled_nomomentum": None}
    for group, momentum in buffers.items():
        out = _architecture_step(differences, momentum)
        other = _architecture_step(exact, momentum)
        for cell in cnn.CELLS:
            out[f"implicit_fd_alphas_{cell}"] = out[f"implicit_alphas_{cell}"]
            out[f"implicit_exact_alphas_{cell}"] = other[f"implicit_alphas_{cell}"]
            out[f"grad_exact_alphas_{cell}"] = other[f"grad_alphas_{cell}"]
        found |= {f"{group}/{name}": value for name, value in out.items()}
    return found


def _architecture_step(run, momentum):
    """Returns what the architecture part of one step computed, by name."""
    state = run.state(momentum)
    weights = first_seed(state.params)
    rate = run.case.settings["eta"]
    _, metrics, seen = run.update(state, run.batch("train"), run.batch("valid"), rate)
    (hyper,) = seen["hypergradient"]
    trees = {"grad": metrics["alpha_grads"], "direct": first_seed(hyper.direct)}
    if hyper.implicit is not None:
        trees["implicit"] = first_seed(hyper.implicit)
    out = {f"{name}_alphas_{cell}": tree[cell] for name, tree in trees.items() for cell in tree}
    out["valid_loss"] = first_seed(hyper.metrics["loss"])
    groups = {"stats_after": run.statistics(weights, first_seed(hyper.stats))}
    if "lookahead" in seen:
        theta = first_seed(seen["lookahead"][0])
        vector = first_seed(seen["gradient"][1].params)
        groups |= {"theta": run.named(theta), "vector": run.named(vector)}
        out |= {
            "theta_norm": norm(theta),
            "theta_sum": sum(leaf.sum(dtype=np.float64) for leaf in jax.tree.leaves(theta)),
            "theta_step_norm": distance(theta, weights),
            "vector_norm": norm(vector),
        }
        if "perturb" in seen:
            out["R"] = distance(first_seed(seen["perturb"][0][0]), weights) / norm(vector)
    return out | {f"{g}/{name}": v for g, values in groups.items() for name, v in values.items()}


def norm(tree):
    """Returns the norm of all values of a tree."""
    return np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(tree)))


def distance(a, b):
    """Returns the norm of the difference of two trees."""
    return norm(jax.tree.map(np.subtract, a, b))


def trajectory(case, layout, bits):
    """Returns the outputs of a trajectory: what every step showed, and the state at the end."""
    settings = case.settings
    run = Run(case, layout, bits, HYPERGRADIENT[settings["implicit"]])
    state, shown = run.state(), []
    for at in range(settings["steps"]):
        train, valid = run.batch("train", at), run.batch("valid", at)
        before = first_seed((state.params, state.stats))  # the step uses up its state
        state, metrics, _ = run.update(state, train, valid, settings["lr"])
        alphas = first_seed(state.alphas)
        shown.append(
            {
                "train_loss": metrics["loss"],
                "grad_norm_before_clip": metrics["grad_norm"],
                "train_logits": run.logits(*before, alphas, first_seed(train[0]), train=True),
                "theta_norm": norm(first_seed(state.params)),
                **{f"alphas_{cell}": alphas[cell] for cell in cnn.CELLS},
                **{f"grad_alphas_{cell}": metrics["alpha_grads"][cell] for cell in cnn.CELLS},
            }
        )
    found = {name: np.stack([np.asarray(one[name]) for one in shown]) for name in shown[0]}
    here = first_seed((state.params, state.stats, state.alphas))
    probe = images(case.inputs, "x_probe").astype(run.dtype)
    found |= {"probe_logits_eval": run.logits(*here, probe, train=False)}
    found |= {"probe_logits_train": run.logits(*here, probe, train=True)}
    theta = run.named(here[0])
    found["theta_norm_per_param"] = np.array([norm(value) for value in theta.values()])
    groups = {"theta_final": theta, "stats_final": run.statistics(*here[:2])}
    return found | {f"{g}/{name}": v for g, values in groups.items() for name, v in values.items()}
