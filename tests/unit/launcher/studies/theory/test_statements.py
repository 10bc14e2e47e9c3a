import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli import main
from launcher.studies.claims import Claim, Table
from launcher.studies.designs import full_batch
from launcher.studies.free_embeddings import minimise
from launcher.studies.theory import batches, open_questions, optima, ordered, study

PUBLISHED = {
    "N = 4, d = 8: L*": 1.165315,
    "N = 8, d = 16: L*": 2.346416,
    "N = 16, d = 32: L*": 3.636902,
    "N = 4, d = 3: L*": 1.165315,
    "N = 8, d = 7: L*": 2.346416,
    "N = 16, d = 15: L*": 3.636902,
    "N = 4, d = 2: L*": 1.253047,
    "N = 8, d = 4: L*": 2.413505,
    "N = 16, d = 8: L*": 3.676538,
    "all batches of 2, N = 7, d = 6: L*": 0.542195,
    "all batches of 3, N = 7, d = 6: L*": 0.968314,
    "20 of 21: similarity of the missing pair": 1.0,
    "34 of 35 triples: lowest similarity": -0.2146,
    "34 of 35 triples: highest similarity": -0.0391,
    "Fano plane, 7 of 35 triples: L*": 0.96831405,
    "full batch: L*": 3.076999,
    "full batch: loss of its optimum on all pairs": 0.650065,
    "all pairs: L*": 0.649935,
    "all pairs: full-batch loss of its optimum": 3.077856,
    "n = 4, m = 2: L*": 0.253856,
    "n = 4, m = 2: variance of orthogonal simplices": 2 / 9,
    "n = 4, m = 2: variance of a shared simplex": 8 / 9,
    "ratio of the drifts for t -> 0": 3.9391,
}
"""Found elsewhere, by other programs or by hand."""


@pytest.fixture(scope="module")
def claims():
    return {statement: statement(1) for statement in study.STATEMENTS}


@pytest.mark.parametrize("statement", study.STATEMENTS, ids=lambda one: one.__name__)
def test_every_claim_of_a_statement_holds(claims, statement):
    assert claims[statement]
    assert [claim for claim in claims[statement] if not claim.passed] == []


def test_published_values(claims):
    found = {claim.what: claim.found for group in claims.values() for claim in group}
    assert {what: found[what] for what in PUBLISHED} == pytest.approx(PUBLISHED, abs=1e-4)


def test_claims_have_names_of_their_own(claims):
    names = [(claim.statement, claim.what) for group in claims.values() for claim in group]
    assert len(set(names)) == len(names)


def test_hitting_ratios_have_a_row_each(claims):
    rows = [c.found for c in claims[ordered.ordered_is_faster] if "T_SGD / T_OSGD from" in c.what]
    assert rows == pytest.approx([4.75, 5.44, 8.75, 4.22, 4.53, 5.99, 4.12, 4.33, 5.35], abs=5e-3)


@given(st.data())
def test_rank_weights_are_what_enumeration_finds(data):
    num_batches = data.draw(st.integers(2, 8))
    num_drawn = data.draw(st.integers(1, num_batches))
    num_kept = data.draw(st.integers(1, num_drawn))
    weights = ordered.rank_weights(num_batches, num_drawn, num_kept)
    counted = ordered.enumerated_weights(num_batches, num_drawn, num_kept)
    assert weights == pytest.approx(counted)
    assert weights.sum() == pytest.approx(num_kept)
    assert (np.diff(weights) <= 1e-12).all()


@pytest.mark.parametrize("angle", [0.05, 0.3, 0.7])
def test_drifts_are_the_mean_of_real_steps(angle):
    for drift, choose in (
        (ordered.drift_random, ordered.random_pair),
        (ordered.drift_ordered, ordered.hardest_pair),
    ):
        first, second = ordered.trajectory(choose, angle, 2, num_runs=60_000, seed=0)
        moved = (second - first).mean() / ordered.LEARNING_RATE
        assert moved == pytest.approx(drift(angle), abs=0.01)


def test_a_run_that_never_arrives_has_no_time():
    times = ordered.hitting_times(ordered.random_pair, 0.1, 1e-9, num_runs=2, seed=0, num_steps=5)
    assert np.isnan(times).all()


def test_variance_bounds():
    assert batches.variance_bounds(4, 2) == pytest.approx((2 / 9, 8 / 9))


@pytest.mark.parametrize(
    ("num_pairs", "dim", "name", "pairs_agree"),
    [
        (6, 2, "regular polygon", True),
        (8, 2, "regular polygon", False),
        (5, 3, "simplices", True),
        (7, 4, "simplices", False),
        pytest.param(12, 3, "best code", False, marks=pytest.mark.slow),
        (8, 3, "no best code", False),
    ],
)
def test_optima_beyond_the_simplex(num_pairs, dim, name, pairs_agree):
    _, _, _, _, known_as, all_pairs, shared = open_questions._compare_optima(num_pairs, dim, seed=1)
    assert known_as == name
    assert (all_pairs == "the same") == pairs_agree
    assert shared == "the same"


def test_every_size_of_the_table_has_a_best_code():
    for num_pairs, dim in open_questions.SIZES:
        assert num_pairs > dim + 1
        assert -0.5 < open_questions.best_cosine(num_pairs, dim) < 1


@pytest.mark.parametrize(
    ("num_features", "noise", "reached"), [(10, 0.3, True), (4, 0.3, False), (10, 0.0, True)]
)
def test_a_shared_encoder_needs_as_many_features_as_views(num_features, noise, reached):
    features = open_questions.noisy_views(5, num_features, noise, seed=0)
    best = minimise(full_batch(5), open_questions.encodable(features), 8, num_starts=2)[0]
    gap = best.loss - optima.best_simplex_loss(5, 5)
    assert (gap < 1e-6) == reached
    if not noise:  # one encoder gives equal views equal embeddings
        np.testing.assert_allclose(best.U, best.V, atol=1e-9)


def test_the_command_writes_its_files_and_fails_with_a_claim(tmp_path, monkeypatch, capsys):
    wrong = Claim("Theorem 0", "two is three", 2, 3)
    monkeypatch.setattr(study, "STATEMENTS", (ordered.weights_by_rank, lambda seed: [wrong]))
    table = Table("Open", "Text.", ("a", "b"), [["1", "2"]])
    monkeypatch.setattr(study, "beyond_the_simplex", lambda seed, progress: table)
    monkeypatch.setattr(study, "shared_encoder", lambda seed: table)
    monkeypatch.setattr(study, "draw", lambda path, seed: path.write_bytes(b""))
    assert main(["study", "theory", "--out", str(tmp_path / "new")]) == 1
    shown = capsys.readouterr()
    assert "1 of 10 claims fail" in shown.err
    assert "FAIL" in shown.out
    page = (tmp_path / "new" / "study-theory.md").read_text()
    assert "9 of 10 claims hold" in page
    assert "## Open" in page
    written = json.loads((tmp_path / "new" / "study-theory.json").read_text())
    assert [claim["passed"] for claim in written["claims"]] == [True] * 9 + [False]


@pytest.mark.parametrize("kind", ["theory", "synthetic"])
def test_a_place_that_is_no_folder_is_found_out_at_once(kind, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["study", kind, "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err


def test_the_picture_is_drawn(tmp_path):
    study.draw(tmp_path / "theory.png", 0)
    assert (tmp_path / "theory.png").read_bytes().startswith(b"\x89PNG")
