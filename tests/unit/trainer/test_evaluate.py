import numpy as np
import pytest

from trainer.evaluate import RECALL_AT, corrupted_retrieval, partner_ranks, retrieval_metrics


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


def test_distractors_are_in_both_pools_and_look_for_nothing():
    rng = np.random.default_rng(6)
    U, V = (unit_rows(rng, 40, 6) for _ in range(2))
    distractors = tuple(unit_rows(rng, 25, 6) for _ in range(2))
    pools = [np.concatenate(both) for both in zip((U, V), distractors, strict=True)]
    metrics = retrieval_metrics(U, V, distractors)
    for name, queries, pool in (("u_to_v", U, pools[1]), ("v_to_u", V, pools[0])):
        ranks = brute_force_ranks(queries, pool)
        assert len(ranks) == 40
        assert metrics[f"{name}/mrr"] == pytest.approx(np.mean(1 / ranks))


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


@pytest.mark.parametrize("num_corruptions", [1, 4, 7])
def test_corrupted_retrieval_equals_a_search_in_each_pool(num_corruptions):
    rng = np.random.default_rng(4)
    num_images = 30
    U = unit_rows(rng, num_images * num_corruptions, 5)
    V = unit_rows(rng, num_images * num_corruptions, 5) * 0.9 + U
    V /= np.linalg.norm(V, axis=1, keepdims=True)
    found = corrupted_retrieval(U, V, num_corruptions)
    for name, queries, pool in (("u_to_v", U, V), ("v_to_u", V, U)):
        hits = 0
        for image in range(num_images):
            rows = range(image * num_corruptions, (image + 1) * num_corruptions)
            for query in rows:
                hits += query == max(rows, key=lambda row: queries[query] @ pool[row])
        assert found[f"{name}/recall_at_1"] == pytest.approx(hits / len(U))
    assert found["chance"] == 1 / num_corruptions


def test_corrupted_retrieval_is_at_chance_for_who_cannot_tell():
    rng = np.random.default_rng(5)
    U, V = unit_rows(rng, 19 * 400, 8), unit_rows(rng, 19 * 400, 8)
    found = corrupted_retrieval(U, V, 19)
    assert found["u_to_v/recall_at_1"] == pytest.approx(1 / 19, abs=0.01)
    # All corruptions of an image in one place: ties count against the model.
    same = np.repeat(unit_rows(rng, 400, 8), 19, axis=0)
    assert corrupted_retrieval(same, same, 19)["u_to_v/recall_at_1"] == 0
    with pytest.raises(ValueError, match="do not make pools of 18"):
        corrupted_retrieval(U, V, 18)
