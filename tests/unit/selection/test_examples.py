import itertools
import json

import numpy as np
import pytest

from selection.examples import KINDS, pick_examples, strongest_confusions
from selection.quality import batch_losses

TEMPERATURE = 0.1


def slow_weight(U, V, k, l, batch_size):  # noqa: E741
    """w(k, l) as the paper writes it."""
    total = 0.0
    for i, j in ((k, l), (l, k)):
        for a, b in ((U, V), (V, U)):
            gap = float(a[i] @ b[j] - a[i] @ b[i]) / TEMPERATURE
            total += np.log1p((batch_size - 1) * np.exp(gap))
    return total


def test_the_strongest_confusions_are_those_of_a_slow_search(random_pairs):
    U, V = random_pairs
    batch = np.arange(40, 60)
    couples = itertools.combinations(batch, 2)
    weights = {couple: slow_weight(U, V, *couple, len(batch)) for couple in couples}
    expected = []
    for k, l in sorted(weights, key=lambda pair: -weights[pair]):  # noqa: E741
        if not {k, l} & {i for pair in expected for i in pair}:
            expected.append((int(k), int(l)))
    found = strongest_confusions(U, V, batch, TEMPERATURE)
    assert [tuple(confusion["ids"]) for confusion in found] == expected[: len(found)]
    assert len(found) == 4
    k, l = found[0]["ids"]  # noqa: E741
    assert found[0]["own"] == pytest.approx([U[k] @ V[k], U[l] @ V[l]], abs=1e-4)
    assert found[0]["across"] == pytest.approx([U[k] @ V[l], U[l] @ V[k]], abs=1e-4)


def test_examples_are_ordered_by_loss_and_fit_into_json(random_pairs):
    U, V = random_pairs
    batches = np.random.default_rng(1).permutation(400).reshape(-1, 8)
    examples = pick_examples(U, V, batches, TEMPERATURE, np.random.default_rng(0))
    losses = batch_losses(U, V, batches, TEMPERATURE)
    assert [example["kind"] for example in examples] == list(KINDS)
    hardest, _, easiest = (example["batch"] for example in examples)
    assert (hardest, easiest) == (losses.argmax(), losses.argmin())
    for example in examples:
        assert example["loss"] == pytest.approx(losses[example["batch"]], abs=1e-4)
        ids = [i for confusion in example["confusions"] for i in confusion["ids"]]
        assert len(ids) == len(set(ids))
        assert set(ids) <= set(batches[example["batch"]].tolist())
    assert json.loads(json.dumps(examples)) == examples
    again = pick_examples(U, V, batches, TEMPERATURE, np.random.default_rng(0))
    assert again == examples


@pytest.mark.parametrize(("num_batches", "kinds"), [(1, KINDS[:1]), (2, KINDS[:2])])
def test_few_batches_are_shown_once_each(random_pairs, num_batches, kinds):
    U, V = random_pairs
    batches = np.arange(2 * num_batches).reshape(num_batches, 2)
    examples = pick_examples(U, V, batches, TEMPERATURE, np.random.default_rng(0))
    assert tuple(example["kind"] for example in examples) == kinds
    assert len({example["batch"] for example in examples}) == num_batches


def test_a_huge_batch_is_looked_at_in_part(random_pairs):
    U, V = (np.tile(side, (3, 1)) for side in random_pairs)
    found = strongest_confusions(U, V, np.arange(1200), TEMPERATURE)
    assert len(found) == 4
