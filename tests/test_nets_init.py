"""First weights: the two schemes' bounds, and that a network is a function of its key."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist import interop
from darts_dist.nets.init import Keys, conv, depthwise, pointwise
from darts_dist.nets.pure import pure
from darts_dist.nets.supernet import Supernet

SIZES = {"layers": 3, "nodes": 2, "operations": ("sep_conv_5x5", "dil_conv_3x3", "skip_connect")}
CHANNELS = 8


def first_weights(init, seed=0):
    def build(key):
        return Supernet(key, channels=CHANNELS, classes=10, channels_in=3, init=init, **SIZES)

    return jax.jit(pure(build)[0])(jax.random.key(seed))


@pytest.mark.medium
@pytest.mark.parametrize("init", ("original", "modern"))
def test_weights_fill_the_bounds_of_their_scheme(init):
    params, stats = first_weights(init)
    named = interop.search_to_torch(params, stats, **SIZES)
    for name, value in named.items():
        if name.endswith("running_mean") or name == "stem.1.bias":
            assert not value.any(), name
        elif name.endswith("running_var"):
            assert (value == 1).all(), name
        elif name == "stem.1.weight":
            low, high = (0, 1) if init == "original" else (1, 1)
            assert value.min() >= low and value.max() <= high
            assert (np.ptp(value) > 0.5) == (init == "original")
        else:
            shape = named["classifier.weight"].shape if name == "classifier.bias" else value.shape
            fan = math.prod(shape[1:])
            if init == "original" and value.ndim == 4 and shape[1] == 1:
                fan *= shape[0]  # 0.3.1 counts all channels of a depthwise convolution
            bound = 1 / math.sqrt(fan)
            assert np.abs(value).max() <= bound * (1 + 1e-6), name
            if value.size >= 64:
                assert np.abs(value).max() > 0.9 * bound, name
                assert abs(value.mean()) < 3 * bound / math.sqrt(3 * value.size) * 1.5, name


@pytest.mark.medium
def test_a_network_is_a_function_of_its_key():
    one, same, other = (first_weights("original", seed)[0] for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    named = interop.search_to_torch(one, **SIZES)
    rest = interop.search_to_torch(other, **SIZES)
    for name in named.keys() - {"stem.1.bias"}:
        assert not np.array_equal(named[name], rest[name]), name
    kernels = [np.ravel(v) for k, v in named.items() if v.shape == (CHANNELS, 1, 3, 3)]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels) > 1


@pytest.mark.parametrize(
    ("values", "bound"),
    (
        (lambda keys: conv(keys, (3, 3, 5, 40)), 1 / math.sqrt(45)),
        (lambda keys: pointwise(keys, (6, 50, 20)), 1 / math.sqrt(50)),
        (lambda keys: depthwise(keys, (9, 3, 3, 16), "original"), 1 / math.sqrt(144)),
        (lambda keys: depthwise(keys, (9, 3, 3, 16), "modern"), 1 / 3),
    ),
    ids=("conv", "pointwise", "depthwise original", "depthwise modern"),
)
def test_bounds_are_reached_and_kept(values, bound):
    drawn = np.asarray(values(Keys(jax.random.key(0))))
    assert drawn.dtype == jnp.float32
    assert 0.98 * bound < np.abs(drawn).max() <= bound * (1 + 1e-6)
