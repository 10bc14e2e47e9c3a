"""Gains of exchanges against F itself, computed anew in float64."""

import numpy as np
import pytest

from selection.gains import State, gain_of_joining, gain_of_replacing, replace, sum_up, weigh

TEMPERATURE, SIZE, NUM_POINTS = 0.2, 9, 12  # no multiple of the four that share a logarithm


@pytest.fixture(params=range(3))
def exps(request):
    """e between all points, of which the first `SIZE` are a batch."""
    rng = np.random.default_rng(request.param)
    U, V = rng.standard_normal((2, NUM_POINTS, 5))
    U, V = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (U, V))
    return np.exp((U @ V.T - 1) / TEMPERATURE)


def slow_f(exps, members):
    """F of a batch, as `selection.gains` defines it."""
    inside = exps[np.ix_(members, members)]
    diagonal = np.diag(inside)
    return np.log(inside.sum(axis=1) / diagonal).sum() + np.log(inside.sum(axis=0) / diagonal).sum()


def state_of(exps, members):
    inside = exps[np.ix_(members, members)].astype(np.float32)[None]
    rows, columns, worth = np.empty((3, 1, len(members)), np.float32)
    nobody = np.empty(0, np.int64)
    state = State(nobody, nobody, nobody, nobody, inside, rows, columns, worth)
    sum_up(inside[0], rows[0], columns[0])
    weigh(inside[0], rows[0], columns[0], worth[0])
    return state


def to_batch(exps, node, members):
    """row, column and positive of a node, as `reach` makes them."""
    row, column = exps[node, members], exps[members, node]
    return row.astype(np.float32), column.astype(np.float32), np.float32(exps[node, node])


MEMBERS = np.arange(SIZE)


def test_f_is_the_loss_of_the_batch(exps):
    """2 B times the mean InfoNCE of both directions."""
    logits = np.log(exps[:SIZE, :SIZE])
    losses = [
        np.log(np.exp(side).sum(axis=1)).mean() - np.diag(side).mean()
        for side in (logits, logits.T)
    ]
    assert slow_f(exps, MEMBERS) == pytest.approx(2 * SIZE * np.mean(losses))


def test_a_node_is_worth_what_the_batch_loses_without_it(exps):
    worth = state_of(exps, MEMBERS).worth[0]
    expected = [slow_f(exps, MEMBERS) - slow_f(exps, np.delete(MEMBERS, j)) for j in range(SIZE)]
    np.testing.assert_allclose(worth, expected, rtol=1e-4, atol=1e-4)


def test_the_gain_of_joining(exps):
    state = state_of(exps, MEMBERS)
    for node in range(SIZE, NUM_POINTS):
        gain = gain_of_joining(state, 0, *to_batch(exps, node, MEMBERS))
        expected = slow_f(exps, [*MEMBERS, node]) - slow_f(exps, MEMBERS)
        assert gain == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("slot", [0, 4, SIZE - 1])
def test_the_gain_of_replacing(exps, slot):
    state = state_of(exps, MEMBERS)
    for node in range(SIZE, NUM_POINTS):
        after = MEMBERS.copy()
        after[slot] = node
        gain = gain_of_replacing(state, 0, slot, *to_batch(exps, node, MEMBERS))
        expected = slow_f(exps, after) - slow_f(exps, MEMBERS)
        assert gain == pytest.approx(expected, abs=1e-4)


def test_sums_after_a_node_was_replaced(exps):
    state, after = state_of(exps, MEMBERS), MEMBERS.copy()
    for slot, node in ((2, 9), (SIZE - 1, 10), (2, 11)):
        row, column, positive = to_batch(exps, node, after)
        after[slot] = node
        replace(state, 0, slot, row, column, positive)
        fresh = state_of(exps, after)
        for name in ("exps", "rows", "columns", "worth"):
            np.testing.assert_allclose(
                getattr(state, name), getattr(fresh, name), rtol=1e-4, atol=1e-5, err_msg=name
            )
