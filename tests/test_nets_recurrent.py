"""Recurrent cells and the language model over them: against a plain loop, padded, carried on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import plain_recurrent as plain
import pytest
from jax.sharding import PartitionSpec as P

from darts_dist import cluster, losses
from darts_dist.errors import CheckpointError
from darts_dist.genotype import PUBLISHED, RnnGenotype
from darts_dist.interop_recurrent import recurrent_from_torch, recurrent_to_torch
from darts_dist.nets import dropout, recurrent
from darts_dist.spaces import rnn

T, N, V, H, NODES = 3, 4, 7, 5, 3
SMALL = RnnGenotype((("tanh", 0), ("relu", 1), ("sigmoid", 1), ("identity", 3)), (0, 2, 4))
SIZES = {"words": V, "width": H}
RATES = dict.fromkeys(dropout.MASKS, 0.4)
SHUFFLED = ("relu", "none", "identity", "tanh", "sigmoid")  # none need not come first


def make(genotype=None, dtype="float64", **sizes):
    """Returns (apply, params, stats, alphas) of a network with weights large enough to matter."""
    sizes = SIZES | {"compute": jnp.dtype(dtype)} | sizes
    if genotype is None:
        sizes = {"nodes": NODES} | sizes
        init, apply = rnn.build(**sizes)
        operations = sizes.get("operations", rnn.OPERATIONS)
        draw = {"nodes": sizes["nodes"], "operations": operations, "scale": 1.0}
        alphas = rnn.draw_alphas(jax.random.key(2), **draw, dtype=dtype)
    else:
        (init, apply), alphas = rnn.build_network(genotype, **sizes), None
    params, stats = init(jax.random.key(1))
    return apply, jax.tree.map(lambda x: 10 * x, params), stats, alphas


def feed(time=T, count=N, dtype="float64"):
    """Returns (tokens, hidden, masks)."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(V, size=(time, count))
    masks = dropout.draw_masks(
        jax.random.key(3), jnp.arange(count), RATES, words=V, width=H, dtype=dtype
    )
    return tokens, jnp.asarray(draw.normal(size=(count, H)), dtype), masks


def close(found, wanted, rtol=1e-12):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol, rtol)


def shares(alphas):
    return {"recurrent": jax.nn.softmax(alphas["recurrent"])}


@pytest.mark.parametrize("nodes", (1, 2, 8))
@pytest.mark.parametrize("operations", (rnn.OPERATIONS, SHUFFLED, ("identity",)))
def test_search_cells_of_any_nodes_and_operations_give_logits(nodes, operations):
    sizes = {"nodes": nodes, "operations": operations}
    init, apply = rnn.build(**SIZES, **sizes)
    params, stats = jax.eval_shape(init, jax.random.key(0))
    alphas = jax.ShapeDtypeStruct(rnn.alpha_shape(**sizes), jnp.float32)
    tokens, hidden, masks = feed(dtype="float32")
    out, moved = jax.eval_shape(
        functools.partial(apply, train=True), params, stats, tokens, hidden, {"recurrent": alphas}
    )
    assert out.logits.shape == (T, N, V) and out.hidden.shape == (N, H)
    assert out.raw.shape == out.dropped.shape == (T, N, H)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), moved) == jax.tree.map(
        lambda x: (x.shape, x.dtype), stats
    )
    del masks


@pytest.mark.parametrize("genotype", (*PUBLISHED["rnn"].values(), SMALL))
def test_cells_of_any_genotype_give_logits(genotype):
    init, apply = rnn.build_network(genotype, **SIZES)
    params, stats = jax.eval_shape(init, jax.random.key(0))
    tokens, hidden, masks = feed(dtype="float32")
    out, _ = jax.eval_shape(
        functools.partial(apply, train=True), params, stats, tokens, hidden, None, masks
    )
    assert out.logits.shape == (T, N, V) and stats == {}


def test_levels_hold_every_node_once_after_what_it_needs():
    for genotype in (*PUBLISHED["rnn"].values(), SMALL):
        known = {0}
        for level in recurrent.levels(genotype.recurrent):
            assert {genotype.recurrent[node][1] for node in level} <= known
            known |= {node + 1 for node in level}
        assert known == set(range(len(genotype.recurrent) + 1))


@pytest.mark.medium
@pytest.mark.parametrize("train", (True, False))
def test_the_search_cell_is_a_loop_over_steps_edges_and_operations(float64, train):
    apply, params, stats, alphas = make(operations=SHUFFLED)
    tokens, hidden, masks = feed()
    weights = shares(alphas)
    found, moved = jax.jit(functools.partial(apply, train=train))(
        params, stats, tokens, hidden, weights, masks
    )
    norm = plain.Norm(jax.tree.map(np.asarray, stats["cell"]["statistics"]), train)

    mixture = np.asarray(weights["recurrent"])

    def cell(start, matrices, mask):
        return plain.search_cell(start, matrices, mixture, SHUFFLED, norm, mask)

    arrays = jax.tree.map(np.asarray, (params, hidden, masks))
    close(tuple(found), plain.window(arrays[0], tokens, arrays[1], cell, arrays[2]))
    close(moved["cell"]["statistics"], {"mean": norm.mean, "var": norm.var})


@pytest.mark.medium
@pytest.mark.parametrize("genotype", (SMALL, PUBLISHED["rnn"]["ENAS"]), ids=("small", "ENAS"))
def test_the_fixed_cell_is_a_loop_over_steps_and_nodes(float64, genotype):
    apply, params, stats, _ = make(genotype)
    tokens, hidden, masks = feed()
    found, _ = jax.jit(functools.partial(apply, train=True))(
        params, stats, tokens, hidden, None, masks
    )

    def cell(start, matrices, mask):
        return plain.fixed_cell(start, matrices, genotype, mask)

    arrays = jax.tree.map(np.asarray, (params, hidden, masks))
    close(tuple(found), plain.window(arrays[0], tokens, arrays[1], cell, arrays[2]))


@pytest.mark.medium
def test_the_search_cell_with_one_candidate_an_edge_is_the_fixed_cell_where_the_norm_rests(float64):
    genotype = RnnGenotype((("relu", 0), ("tanh", 1), ("sigmoid", 0)), (1, 2, 3))
    apply, params, stats, alphas = make()
    weights, row = np.zeros_like(alphas["recurrent"]), 0
    for node, (name, state) in enumerate(genotype.recurrent):
        weights[row + state, rnn.OPERATIONS.index(name)] = 1
        row += 1 + node
    statistics = {"mean": jnp.zeros(H), "var": jnp.full(H, 1 - recurrent.EPSILON)}
    tokens, hidden, _ = feed()
    found, _ = apply(
        params,
        {"cell": {"statistics": statistics}},
        tokens,
        hidden,
        {"recurrent": jnp.asarray(weights)},
        train=False,
    )
    fixed, _, _, _ = make(genotype)
    close(found, fixed(params, {}, tokens, hidden, train=False)[0])
    del stats


def loss_of(apply, params, stats, alphas, tokens, hidden, masks, length=None):
    """Returns (loss with both penalties, (hidden, statistics))."""
    weights = None if alphas is None else shares(alphas)
    out, moved = apply(params, stats, tokens, hidden, weights, masks, length, train=True)
    loss = losses.sequence_cross_entropy(out.logits, (tokens + 1) % V, length)
    loss += 0.3 * losses.activation_penalty(out.dropped, length)
    loss += 0.7 * losses.temporal_penalty(out.raw, length)
    return loss.mean(), (out.hidden, moved)


@pytest.mark.medium
@pytest.mark.parametrize("genotype", (None, SMALL), ids=("search", "fixed"))
def test_what_lies_beyond_the_length_changes_nothing(float64, genotype):
    apply, params, stats, alphas = make(genotype)
    tokens, hidden, masks = feed(2 * T)
    take = jax.value_and_grad(loss_of, (1, 3), has_aux=True, allow_int=genotype is not None)
    take = jax.jit(take, static_argnums=0)
    for length in (1, T, 2 * T):
        own = tokens[:length]
        wanted = take(apply, params, stats, alphas, own, hidden, masks)
        filled = np.where(np.arange(2 * T)[:, None] < length, tokens, V - 1 - tokens)
        found = take(apply, params, stats, alphas, filled, hidden, masks, jnp.asarray(length))
        close(found, wanted)
        # Programs of other lengths may round the hidden states otherwise, no more.
        np.testing.assert_allclose(found[0][1][0], wanted[0][1][0], rtol=1e-14)


@pytest.mark.medium
def test_every_parameter_and_candidate_is_learned_but_none(float64):
    apply, params, stats, alphas = make(operations=SHUFFLED)
    tokens, hidden, masks = feed()

    def loss(params, weights):
        out, _ = apply(params, stats, tokens, hidden, weights, masks, train=True)
        return losses.sequence_cross_entropy(out.logits, tokens).mean()

    grads, by_weights = jax.jit(jax.grad(loss, (0, 1)))(params, shares(alphas))
    assert all((abs(leaf) > 0).any() for leaf in jax.tree.leaves(grads))
    assert all((abs(matrix) > 0).any() for matrix in grads["cell"]["nodes"])
    by_weights = by_weights["recurrent"]
    none = SHUFFLED.index("none")
    assert (by_weights[:, none] == 0).all()
    assert (abs(jnp.delete(by_weights, none, 1)) > 0).all()


@pytest.mark.medium
def test_computing_steps_twice_changes_nothing(float64):
    tokens, hidden, masks = feed()
    found = []
    for remat in (False, True):
        apply, params, stats, alphas = make(remat=remat)
        take = jax.jit(jax.value_and_grad(loss_of, (1, 3), has_aux=True), static_argnums=0)
        found.append(take(apply, params, stats, alphas, tokens, hidden, masks))
    close(*found)


@pytest.mark.medium
def test_windows_that_carry_hidden_on_are_one_long_window(float64):
    apply, params, stats, alphas = make()
    tokens, hidden, _ = feed(2 * T)
    whole, _ = apply(params, stats, tokens, hidden, shares(alphas), train=False)
    parts = []
    for part in (tokens[:T], tokens[T:]):
        out, _ = apply(params, stats, part, hidden, shares(alphas), train=False)
        hidden = out.hidden
        parts.append(out.logits)
    close(jnp.concatenate(parts), whole.logits)
    close(hidden, whole.hidden)


@pytest.mark.medium
def test_narrow_products_leave_states_and_logits_wide():
    found = {}
    for dtype in ("float32", "bfloat16"):
        apply, params, stats, alphas = make(dtype=dtype)
        tokens, hidden, masks = feed(dtype="float32")
        weights = jax.tree.map(lambda x: x.astype(jnp.float32), shares(alphas))
        found[dtype], moved = apply(params, stats, tokens, hidden, weights, masks, train=True)
        for leaf in jax.tree.leaves((found[dtype], moved)):
            assert leaf.dtype == jnp.float32
    differences = jax.tree.map(lambda a, b: abs(a - b).mean(), found["bfloat16"], found["float32"])
    assert max(map(float, jax.tree.leaves(differences))) < 0.3
    assert abs(found["bfloat16"].logits - found["float32"].logits).max() > 0


@pytest.mark.medium
def test_statistics_of_the_global_batch_do_not_depend_on_the_devices(float64):
    mesh = cluster.make_mesh(1, 1, 2)
    tokens, hidden, masks = feed()
    alone, params, stats, alphas = make()
    wanted, moved = alone(params, stats, tokens, hidden, shares(alphas), masks, train=True)
    apply, *_ = make(sync=True)
    split = {name: P() if name == "embedding" else P("data") for name in masks}

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P(), P(None, "data"), P("data"), P(), split),
        out_specs=(P(None, "data"), P("data"), P()),
    )
    def run(params, stats, tokens, hidden, weights, masks):
        out, moved = apply(params, stats, tokens, hidden, weights, masks, train=True)
        return out.logits, out.hidden, moved

    found = run(params, stats, jnp.asarray(tokens), hidden, shares(alphas), masks)
    close(found, (wanted.logits, wanted.hidden, moved))


def test_masks_belong_to_places_and_the_mask_of_words_to_the_key():
    draw = functools.partial(dropout.draw_masks, words=50, width=40, dtype=jnp.float32, rates=RATES)
    whole, part = (
        draw(jax.random.key(0), jnp.arange(30)),
        draw(jax.random.key(0), jnp.array([7, 3])),
    )
    for name in dropout.MASKS:
        wanted = whole[name] if name == "embedding" else whole[name][np.array([7, 3])]
        np.testing.assert_array_equal(part[name], wanted)
        assert set(np.unique(whole[name])) == {np.float32(0), np.float32(1 / 0.6)}
        assert abs(whole[name].mean() - 1) < (0.3 if name == "embedding" else 0.06)
    other = draw(jax.random.key(1), jnp.arange(30))
    assert all((other[name] != whole[name]).any() for name in dropout.MASKS)
    assert not np.array_equal(whole["input"], whole["cell_input"])


def test_no_rate_makes_no_mask():
    rates = {"hidden": 0.5, "input": 0.0}
    masks = dropout.draw_masks(
        jax.random.key(0), jnp.arange(2), rates, words=V, width=H, dtype=jnp.float32
    )
    assert set(masks) == {"hidden"}


def test_names_of_the_original_go_both_ways(float64):
    for genotype, count in ((None, 2), (SMALL, 0)):
        _, params, stats, _ = make(genotype)
        named = recurrent_to_torch(params, stats, twice=True)
        assert list(named)[-2:] == ["decoder.weight", "decoder.bias"]
        assert sum("running" in name for name in named) == count
        close(recurrent_from_torch(named), (params, stats))
        for change, said in (
            ({"decoder.weight": 2 * named["decoder.weight"]}, "differ; wanted one matrix"),
            ({"decoder.bias": np.zeros(V + 1)}, "has the shape"),
            ({"rnns.0._W0": np.zeros(3)}, "has not 2 axes"),
            ({"rnns.1._W0": np.zeros(3)}, "is not part of this network"),
        ):
            with pytest.raises(CheckpointError, match=said):
                recurrent_from_torch(named | change)
        del named["rnns.0._Ws.0"]
        with pytest.raises(CheckpointError, match=r"rnns\.0\._Ws\.0 is missing"):
            recurrent_from_torch(named)


def test_a_random_cell_is_one_that_can_be_built():
    cells = {rnn.random_cell(rnn.OPERATIONS, 8, seed) for seed in range(20)}
    assert len(cells) == 20 and all(len(cell.recurrent) == 8 for cell in cells)
    assert {name for cell in cells for name, _ in cell.recurrent} == set(rnn.OPERATIONS) - {"none"}
