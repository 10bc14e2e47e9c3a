import numpy as np
import pytest

from trainer.evaluate import RECALL_AT, partner_ranks, retrieval_metrics


def unit_rows(rng, n, d):
    rows = rng.normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force_ranks(queries, pool):
    ranks = []
    for i, query in enumerate(queries.astype(np.float64)):
        own = query @ pool[i]
        ranks.append(1 + sum(query @ pool[j] >= own for j in range(len(pool)) if j != i))
    return np.array(ranks)


@pytest.mark.parametrize("block_bytes", [1, 400, 10**6])
def test_ranks_equal_brute_force_whatever_the_block(block_bytes):
    rng = np.random.default_rng(0)
    U = unit_rows(rng, 50, 8)
    V = unit_rows(rng, 50, 8) + U
    assert np.array_equal(partner_ranks(U, V, block_bytes), brute_force_ranks(U, V))


def test_metrics_are_those_of_the_ranks():
    rng = np.random.default_rng(1)
    U = unit_rows(rng, 40, 6)
    V = unit_rows(rng, 40, 6) + 0.5 * U
    metrics = retrieval_metrics(U, V)
    for name, queries, pool in (("u_to_v", U, V), ("v_to_u", V, U)):
        ranks = brute_force_ranks(queries, pool)
        assert metrics[f"{name}/mrr"] == pytest.approx(np.mean(1 / ranks))
        for k in RECALL_AT:
            assert metrics[f"{name}/recall_at_{k}"] == np.mean(ranks <= k)
    assert len(metrics) == 2 * (1 + len(RECALL_AT))


def test_perfect_and_collapsed_embeddings():
    U = unit_rows(np.random.default_rng(2), 30, 16)
    assert set(retrieval_metrics(U, U).values()) == {1.0}
    collapsed = np.repeat(U[:1], 30, axis=0)
    metrics = retrieval_metrics(collapsed, collapsed)
    assert metrics["u_to_v/recall_at_10"] == 0
    assert metrics["u_to_v/mrr"] == pytest.approx(1 / 30)


def test_duplicates_count_against_the_model_on_every_kernel_path():
    U = unit_rows(np.random.default_rng(3), 333, 96)
    U[300:] = U[:33]
    expected = np.ones(333)
    expected[:33] = expected[300:] = 2
    assert np.array_equal(partner_ranks(U, U, block_bytes=10_000), expected)
