"""A whole study with runs that are written by hand instead of trained; `tests/integration` trains them."""

import json
import shutil

import pytest
import webdataset as wds

from launcher.studies.trials import study as study_module
from launcher.studies.trials.runner import Outcome
from launcher.studies.trials.study import plan_study, run_study
from selection.errors import ConfigError, JobError
from selection.progress import silent
from tests.unit.launcher.studies.trials.conftest import NUM_PAIRS, STEPS_PER_EPOCH, write_run

SCORES = {"random": [0.1, 0.2, 0.3], "spectral": [0.2, 0.35, 0.4], "metis": [0.1, 0.2, 0.2]}


@pytest.fixture
def study(make_study, tmp_path):
    (tmp_path / "data").mkdir()
    with wds.TarWriter(str(tmp_path / "data" / "shard.tar"), mtime=0) as writer:
        for number in range(NUM_PAIRS):
            writer.write({"__key__": f"{number:06d}", "txt": "u", "py": "v"})
    splits = ("train", "heldout", "validation")
    return make_study(settings={f"data.{split}": f"{tmp_path}/data/shard.tar" for split in splits})


@pytest.fixture
def done(monkeypatch):
    """Trials that were run, and a set of (arm, seed) of those that shall fail."""
    done, failing = [], set()

    def run_trials(trials, at_once, cpus, logs):
        for trial in trials:
            failed = (trial.arm, trial.seed) in failing
            if not failed:
                scores = [score + trial.seed / 100 for score in SCORES[trial.arm]]
                write_run(trial.config, scores)
                done.append((trial.budget, trial.arm, trial.seed))
            yield Outcome(trial, int(failed), logs / "log")

    monkeypatch.setattr(study_module, "run_trials", run_trials)
    return done, failing


def results(study):
    return json.loads((study.study_dir / "results.json").read_text())


def test_equal_steps_then_equal_seconds_then_tables(study, done):
    run_study(study, silent)
    assert done[0] == [
        ("steps", "random", 0), ("steps", "spectral", 0), ("steps", "random", 1), ("steps", "spectral", 1),
        # the reference at its own seconds is the run that was done before
        ("seconds-1", "spectral", 0), ("seconds-1", "spectral", 1),
    ]  # fmt: skip
    found = results(study)
    assert found["prices"]["step_s"] == pytest.approx(0.1)
    assert found["prices"]["refresh_s"] == pytest.approx({"random": 0, "spectral": 2 + 5})
    arms = {(a["budget"], a["arm"]): a for a in found["arms"]}
    spectral = arms["steps", "spectral"]
    assert spectral["num_steps"] == 3 * STEPS_PER_EPOCH
    assert spectral["difference"]["mean"] == pytest.approx(0.1)
    assert spectral["seconds"] == pytest.approx(5 + 3 + 2 * 7)
    # random ends at 0.3 after 8 s; spectral is at 0.2 after 6 s, selects until 13 s, and is at 0.35 after 14 s
    assert spectral["reach"]["mean"] == pytest.approx((13 + 2 / 3) / 8)
    # one step is 0.1 s and a refresh 7 s, more than the three seconds of steps that there are
    assert arms["seconds-1", "spectral"]["num_steps"] == 3 * STEPS_PER_EPOCH
    page = (study.study_dir / "table.md").read_text()
    assert "## Equal steps" in page
    assert "| 0.4050 ± 0.0635 | 0.4050 ± 0.0635 |" in page  # final and best round of spectral
    assert "+0.1000 [+0.1000, +0.1000] *" in page
    for name in ("curves.png", "differences.png"):
        assert (study.study_dir / name).read_bytes()[:4] == b"\x89PNG"


def test_a_second_call_has_nothing_to_do(study, done):
    run_study(study, silent)
    before = list(done[0])
    run_study(study, silent)
    assert done[0] == before


def test_a_study_goes_on_call_by_call(study, done):
    for count in range(1, 7):
        run_study(study, silent, most=1)
        assert len(done[0]) == count
    assert len(results(study)["trials"]) == 8
    assert [line.endswith("finished") for line in plan_study(study, silent)] == [True] * 8


def test_arms_that_come_later_get_a_price_of_their_own(study, done):
    run_study(study, silent)
    before = results(study)["prices"]
    more = study.model_copy(
        update={"arms": {**study.arms, "metis": {"selection.strategy": "metis"}}}
    )
    run_study(more, silent, most=1)
    assert done[0][-1] == ("steps", "metis", 0)
    after = results(study)["prices"]
    assert after["refresh_s"] == pytest.approx({**before["refresh_s"], "metis": 2 + 5})
    page = (study.study_dir / "table.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| metis "))
    assert row.endswith(" 0 of 1 seeds |")


def test_what_is_finished_at_equal_seconds_stays_while_seeds_or_arms_are_added(study, done):
    run_study(study, silent)
    kept = [trial for trial in results(study)["trials"] if trial["budget"] == "seconds-1"]
    assert len(kept) == 4
    more = study.model_copy(update={"seeds": [0, 1, 2]})
    run_study(more, silent, most=1)
    assert done[0][-1] == ("steps", "random", 2)
    found = [trial for trial in results(study)["trials"] if trial["budget"] == "seconds-1"]
    assert [(t["arm"], t["seed"]) for t in found if t not in kept] == [
        ("random", 2)
    ]  # the same run
    assert [line.split()[0] for line in plan_study(more, silent)].count("seconds-1") == 6
    done[1].add(("metis", 0))
    with pytest.raises(JobError):
        arms = {**study.arms, "metis": {"selection.strategy": "metis"}}
        run_study(study.model_copy(update={"arms": arms}), silent)
    assert kept == [t for t in results(study)["trials"] if t["budget"] == "seconds-1"]


def test_prices_of_another_configuration_are_forgotten(study, done, make_study):
    run_study(study, silent)
    shutil.rmtree(study.study_dir / "trials")
    changed = study.model_copy(update={"settings": {**study.settings, "train.batch_size": 32}})
    path = study.study_dir / "prices.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "step_s": 9.0}))
    run_study(changed, silent)
    assert results(study)["prices"]["step_s"] == pytest.approx(0.1)


def test_trials_on_other_pairs_are_not_compared(study, done):
    run_study(study, silent)
    for seed, held in ((0, "a"), (1, "b")):
        for root in (study.study_dir / "trials").glob(f"*/*/seed-{seed}"):
            (root / "data.json").write_text(json.dumps({"train": "same", "heldout": held}))
    with pytest.raises(ConfigError, match=r"data\.heldout held other pairs than for .*seed-0"):
        run_study(study, silent)


def test_seconds_are_planned_when_all_steps_are_done(study, done):
    run_study(study, silent, most=3)
    assert [line.split()[0] for line in plan_study(study, silent)] == ["steps"] * 4
    run_study(study.model_copy(update={"shares": []}), silent)
    assert [line.split()[0] for line in plan_study(study, silent)] == ["steps"] * 4 + [
        "seconds-1"
    ] * 4
    assert not (study.study_dir / "prices.json").exists()  # asking settles no price


def test_a_share_that_leaves_no_step_is_refused_and_the_others_are_told(study, done):
    short = study.model_copy(update={"shares": [0.1]})  # of 8 s, of which 5 start the ranks
    with pytest.raises(ConfigError, match=r"0\.1 of the 8 s of random is less than the 5 s that"):
        run_study(short, silent)
    assert len(results(study)["trials"]) == 4


def test_a_failed_trial_stops_no_other_and_is_told(study, done):
    done[1].add(("spectral", 0))
    with pytest.raises(JobError, match=r"1 of 4 trials failed, the first says why in .*log"):
        run_study(study, silent)
    finished = [("steps", "random", 0), ("steps", "random", 1), ("steps", "spectral", 1)]
    assert done[0] == finished
    told = results(study)["trials"]
    assert sorted((trial["budget"], trial["arm"], trial["seed"]) for trial in told) == finished


def test_trials_of_another_configuration_are_refused(study, done, make_study):
    run_study(study, silent)
    changed = study.model_copy(update={"settings": {**study.settings, "train.optimizer.lr": 1e-4}})
    with pytest.raises(ConfigError, match=r"another configuration \(train\.optimizer\.lr"):
        run_study(changed, silent)


def test_corrupted_images_are_compared_by_recall(study, done):
    settings = {**study.settings, "data.corrupted": study.settings["data.heldout"]}
    update = {"split": "corrupted", "metric": "u_to_v/recall_at_1", "settings": settings}
    run_study(study.model_copy(update=update), silent)
    assert results(study)["trials"][0]["scores"] == [score / 4 for score in SCORES["random"]]


def test_the_validation_split_is_compared_where_it_is_asked_for(study, done):
    run_study(study.model_copy(update={"split": "validation"}), silent)
    assert results(study)["trials"][0]["scores"] == [score / 2 for score in SCORES["random"]]
