"""The only door from flax nnx modules to pytrees:
parameters and statistics as nested dicts, calls as pure functions.
"""

import jax
from flax import nnx


def split(module):
    """Returns (graph definition, parameters, statistics) of a module, both trees nested dicts of
    arrays.
    """
    graph, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def pure(build):
    """Returns (init, apply) of the module that `build(key)` makes.

    init(key) -> (params, stats).  apply(params, stats, *inputs, train) -> (output, new statistics).
    """
    graphs = []

    def shapes():
        graph, *trees = split(build(jax.random.key(0)))
        graphs.append(graph)
        return trees

    jax.eval_shape(shapes)
    (graph,) = graphs

    def init(key):
        return split(build(key))[1:]

    def apply(params, stats, *inputs, train):
        module = nnx.merge(graph, params, stats)
        output = module(*inputs, train=train)
        return output, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return init, apply


def remat(module, *inputs, train):
    """Returns module(*inputs), recomputed in the backward pass;
    its running statistics move as in a plain call.
    """
    graph, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)

    @jax.checkpoint
    def run(params, stats, inputs):
        own = nnx.merge(graph, params, stats)
        return own(*inputs, train=train), nnx.to_pure_dict(nnx.state(own, nnx.BatchStat))

    output, moved = run(nnx.to_pure_dict(params), nnx.to_pure_dict(stats), inputs)
    nnx.update(module, moved)
    return output
