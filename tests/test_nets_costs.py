"""Multiply-adds by the mathematics, against those of plain convolutions; tables of networks."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from darts_dist import config as configs
from darts_dist import genotype, trainconfig
from darts_dist.nets import costs
from darts_dist.nets.batch_minor import BatchMinor
from darts_dist.nets.init import Keys
from darts_dist.nets.layout import LAYOUTS, ChannelsLast
from darts_dist.nets.network import Network
from darts_dist.nets.ops import OPS, FactorizedReduce, ReluConvBN
from darts_dist.nets.pure import pure
from darts_dist.nets.supernet import Supernet
from darts_dist.spaces import cnn, table

PLAIN = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")


class Naive(ChannelsLast):
    """Every depthwise and every pointwise convolution by itself, as they are defined."""

    fold = staticmethod(BatchMinor.fold)  # both weights as they are
    pick = staticmethod(BatchMinor.pick)

    @staticmethod
    def separable(x, filters, stride, dilation):
        return Naive._pairs(lambda s, t, o: x[..., s, :], *filters, stride, dilation)

    @staticmethod
    def separable_each(x, filters):
        return Naive._pairs(lambda s, t, o: x[..., s, t, o, :], *filters, 1, 1)

    @staticmethod
    def _pairs(own, dw, pw, stride, dilation):
        S, T, O, k, _, C = dw.shape
        pad = (dilation * (k // 2),) * 2

        def one(*at):
            filters = dw[at][:, :, None]
            how = {"dilation": dilation, "groups": C}
            y = ChannelsLast.conv(own(*at), filters, (stride,) * 2, pad, **how)
            return y @ pw[at]

        def stacked(start, sizes):
            if not sizes:
                return one(*start)
            return jnp.stack([stacked((*start, i), sizes[1:]) for i in range(sizes[0])], 3)

        return stacked((), (S, T, O))


@pytest.fixture(autouse=True)
def naive(monkeypatch):
    monkeypatch.setitem(LAYOUTS, "naive", Naive)


def counted(jaxpr):
    """The multiply-adds of the convolutions and matrix products in a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        out, params = equation.outvars[0].aval, equation.params
        if equation.primitive.name == "conv_general_dilated":
            weights = equation.invars[1].aval
            features = weights.shape[params["dimension_numbers"].rhs_spec[0]]
            total += out.size * weights.size // features
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += out.size * math.prod(left[axis] for axis in contracted)
        for value in params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                total += counted(inner) if hasattr(inner, "eqns") else 0
    return total


def of_module(build, *shapes):
    """The multiply-adds of one call of a module on inputs of these shapes, when not training."""
    init, apply = pure(build)
    trees = jax.eval_shape(init, jax.random.key(0))
    inputs = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda one: isinstance(one, tuple) and isinstance(one[0], int),
    )
    call = functools.partial(apply, train=False)
    return counted(jax.make_jaxpr(call)(*trees, *inputs).jaxpr)


def rest():
    keys = Keys(jax.random.key(0))
    dtype = {"axis_name": None, "dtype": jnp.float32}
    return {"keys": keys, "layout": Naive, "affine": False, "init": "modern"} | dtype


def test_a_separable_convolution_by_hand():
    # to 4x4 pixels of 4 channels, twice: 9 taps a channel, then each channel from each
    assert costs.operation("sep_conv_3x3", (8, 8, 4), 2) == 2 * (16 * 4 * 9 + 16 * 4 * 4) == 1664


def test_a_dilated_convolution_by_hand():
    assert costs.operation("dil_conv_5x5", (6, 6, 3), 1) == 36 * 3 * 25 + 36 * 3 * 3 == 3024


@pytest.mark.parametrize("px", (8, 7))
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("name", OPS)
def test_every_operation_costs_what_its_convolutions_do(name, stride, px):
    shape = (px, px + 2, 6)
    found = of_module(lambda key: OPS[name](6, stride, **rest()), (5, *shape))
    assert found == 5 * costs.operation(name, shape, stride)


@pytest.mark.parametrize("kind", (ReluConvBN, FactorizedReduce))
def test_both_ways_of_preprocessing_cost_one_pointwise_convolution(kind):
    found = of_module(lambda key: kind(6, 5, **rest()), (1, 7, 7, 6))
    px = 4 if kind is FactorizedReduce else 7
    assert found == costs.convolution((1, 1), 6, (px, px, 5))


def costs_of(parts):
    return sum(part.multiply_adds for part in parts)


@pytest.mark.parametrize("stem", ("cifar", "imagenet"))
@pytest.mark.parametrize("layers", (1, 3))
def test_a_search_network_costs_what_its_plain_convolutions_do(stem, layers):
    sizes = {"channels": 5, "layers": layers, "nodes": 3, "classes": 7}
    sizes |= {"operations": PLAIN, "stem": stem}  # one kernel size of a kind: none is padded
    weights = dict.fromkeys(("normal", "reduce"), (9, len(PLAIN)))
    found = of_module(
        lambda key: Supernet(key, channels_in=2, layout="naive", **sizes), (3, 20, 20, 2), weights
    )
    assert found == 3 * costs_of(costs.supernet((20, 20, 2), **sizes))


@pytest.mark.parametrize("stem", ("cifar", "imagenet"))
@pytest.mark.parametrize("name", ("DARTS_V1", "DARTS_V2", "NASNet", "AmoebaNet"))
def test_a_genotypes_network_costs_what_its_plain_convolutions_do(stem, name):
    value = genotype.load(name, "cnn")
    sizes = {"stem": stem, "channels": 4, "layers": 3, "classes": 7}

    def build(key):
        return Network(key, genotype=value, channels_in=3, layout="naive", **sizes)

    wanted = costs_of(costs.network((20, 20, 3), value, **sizes))
    assert of_module(build, (1, 20, 20, 3)) == wanted


def test_the_papers_imagenet_network_has_530_million_multiply_adds():
    value = genotype.load("DARTS_V2", "cnn")
    sizes = {"stem": "imagenet", "channels": 48, "layers": 14, "classes": 1000}
    total = costs_of(costs.network((224, 224, 3), value, **sizes))
    assert round(total / 1e6) == 530


def numbers(text):
    """The rows of a table by name: parameters and multiply-adds; and its sums."""
    rows = {}
    for line in text.splitlines()[2:]:
        name, _, _ = line.partition("  ")
        rows[name] = tuple(int(word.replace(",", "")) for word in line.split()[-2:])
    return rows, rows.pop("sum")


def check_sums(text, wanted):
    rows, sums = numbers(text)
    assert sums == tuple(map(sum, zip(*rows.values(), strict=True)))
    assert sums[0] == wanted
    return rows


def test_a_search_networks_table_sums_to_its_tree():
    config = configs.parse("", "a test")
    params, _ = jax.eval_shape(cnn.build(config, 10)[0], jax.random.key(0))
    text = table.of_search(config, 10, params, 64)
    rows = check_sums(text, 1_930_618)
    assert len(rows) == 1 + 8 + 1 and rows["classifier"] == (2570, 2560)
    assert rows["stem"] == (3 * 9 * 48 + 2 * 48, 3 * 9 * 48 * 32 * 32)
    assert "cell 3, normal     32x32x64 halved, 16x16x128  64x16x16x128" in text


def test_a_genotypes_table_sums_to_its_tree_with_the_auxiliary_head():
    changes = ("network.layers=20", "network.channels=36", "network.stem=cifar")
    config = trainconfig.load(None, (*changes, "regularisation.auxiliary_weight=0.4"))
    value = genotype.load("DARTS_V2", "cnn")
    params, _ = jax.eval_shape(cnn.build_network(config, value, 10)[0], jax.random.key(0))
    rows = check_sums(table.of_genotype(config, value, 10, params, 96), 3_825_768)
    assert rows["auxiliary head"] == (476_426, 0)
    assert [rows["stem"][0], rows["cell 0, normal"][0], rows["cell 6, reduction"][0]] == [
        3132,
        26532,
        21024,
    ]
