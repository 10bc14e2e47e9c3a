import json
from itertools import product

import numpy as np
import pytest

from launcher.cli import main
from launcher.studies.free_embeddings import contrastive_loss, to_sphere
from launcher.studies.synthetic import study
from launcher.studies.synthetic.methods import METHODS
from launcher.studies.synthetic.runs import (
    SETTINGS,
    Curves,
    Setting,
    first_below,
    first_points,
    train,
)
from launcher.studies.synthetic.study import run_synthetic
from launcher.studies.synthetic.summary import REFERENCE_GAPS, orders, setting_table
from selection.progress import silent

SMALL = Setting(4, 8)


def test_settings_are_the_papers():
    assert [(s.num_pairs, s.dim) for s in SETTINGS] == [
        (4, 8), (4, 2), (8, 16), (8, 4), (16, 32), (16, 8)
    ]  # fmt: skip
    assert [s.is_simplex for s in SETTINGS] == [True, False] * 3
    assert {(s.num_pairs, s.dim) for s in SETTINGS} == set(REFERENCE_GAPS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_the_same_points(method):
    curves = train(SMALL, method, num_runs=2, num_steps=1, seed=5)
    U, V = to_sphere(first_points(SMALL, 2, 5))
    everyone = np.broadcast_to(np.arange(4), (2, 1, 4))
    gaps = contrastive_loss(U @ V.swapaxes(1, 2), everyone) - 1.1653153
    np.testing.assert_allclose(curves.gaps[0], gaps, atol=1e-6)
    assert curves.gaps.shape == (2, 2)
    assert (curves.gaps[1] != curves.gaps[0]).all()


@pytest.mark.parametrize("method", ["random", "osgd", "paper_spectral"])
def test_a_run_depends_on_its_seed_alone(method):
    several = train(Setting(4, 2), method, num_runs=3, num_steps=8, seed=1)
    again = train(Setting(4, 2), method, num_runs=3, num_steps=8, seed=1)
    alone = train(Setting(4, 2), method, num_runs=1, num_steps=8, seed=2)
    assert np.array_equal(several.gaps, again.gaps)
    np.testing.assert_allclose(several.gaps[:, [1]], alone.gaps, atol=1e-12)


def test_gaps_are_above_the_optimum_and_fixed_batches_stay_there():
    full, fixed, osgd, random = (
        train(SMALL, method, num_runs=4, num_steps=300, seed=0)
        for method in ("full", "fixed", "osgd", "random")
    )
    for curves in (full, fixed, osgd, random):
        assert curves.gaps.min() > -1e-12
        assert curves.distances.shape == (31, 4)
    assert np.median(osgd.gaps[-1]) < 0.2 * np.median(random.gaps[-1])
    assert np.median(full.distances[-1]) < 0.1
    assert fixed.gaps[-1].min() > 0.02


def test_first_below():
    gaps = np.array([[0.3, 0.04, 0.2], [0.04, 0.3, 0.2], [0.01, 0.01, 0.2]])
    assert first_below(gaps, 0.05).tolist() == [1, 0, -1]


def curves_of(method, gap, setting=SMALL, num_steps=300):
    gaps = np.full((num_steps + 1, 3), gap)
    return Curves(setting, method, gaps, gaps[::10], np.eye(setting.num_pairs))


def test_order_against_the_reference():
    def marks(osgd, random):
        found = orders([curves_of("osgd", osgd), curves_of("random", random)])
        return {(order.step, order.better, order.worse): order.holds for order in found}

    steps = [(100, "osgd", "random"), (300, "osgd", "random")]
    assert marks(0.01, 0.02) == dict.fromkeys(steps, True)
    assert marks(0.02, 0.01) == dict.fromkeys(steps, False)
    assert orders([curves_of("osgd", 0.1), curves_of("random", 0.2)])[0].is_clear
    assert orders([curves_of("osgd", 0.1, num_steps=50), curves_of("full", 0.2)]) == []


@pytest.mark.parametrize(("factor", "status"), [(1, 0), (99, 1)])
def test_a_clear_order_that_is_not_found_fails_the_study(
    tmp_path, monkeypatch, capsys, factor, status
):
    """All gaps are those of the reference, but for the ones of OSGD."""

    def train_all(settings, methods, *_):
        for setting, method in product(settings, methods):
            curves = curves_of(method, 0.3, setting, 500)
            for step, gaps in REFERENCE_GAPS[setting.num_pairs, setting.dim].items():
                curves.gaps[step] = gaps.get(method, 0.3) * (factor if method == "osgd" else 1)
            yield curves

    monkeypatch.setattr(study, "train_all", train_all)
    assert main(["study", "synthetic", "--out", str(tmp_path)]) == status
    printed = capsys.readouterr()
    assert "## The order of the methods" in printed.out
    assert ("clear orders are not found, such as osgd before" in printed.err) == bool(status)


def test_a_row_says_how_many_arrived():
    never, there = setting_table(
        [curves_of("fixed", 0.2), curves_of("osgd", 0.01)], [100]
    ).splitlines()[2:]
    assert never.endswith("never |     0 of 3 |")
    assert there.endswith("0 (0 to 0) |     3 of 3 |")


def test_the_study_does_not_depend_on_the_number_of_processes(tmp_path):
    settings, methods = [SMALL, Setting(4, 2)], ["random", "osgd"]
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        run_synthetic(tmp_path / str(workers), 2, 20, 0, workers, silent, settings, methods)
    one, two = (tmp_path / "1", tmp_path / "2")
    names = sorted(path.name for path in one.iterdir())
    assert names == [
        "study-synthetic-distance.png", "study-synthetic-gap.png", "study-synthetic-heatmaps.png",
        "study-synthetic.json", "study-synthetic.md",
    ]  # fmt: skip
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    curves = json.loads((one / "study-synthetic.json").read_text())["curves"]
    assert [(c["num_pairs"], c["dim"], c["method"]) for c in curves] == [
        (4, 8, "random"), (4, 8, "osgd"), (4, 2, "random"), (4, 2, "osgd")
    ]  # fmt: skip
    assert curves[0]["steps"] == [0]
    assert np.shape(curves[0]["gap"]) == np.shape(curves[0]["distance"]) == (3, 1)
