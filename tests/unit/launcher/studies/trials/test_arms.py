import pytest

from launcher.studies.trials.arms import build_arms
from launcher.studies.trials.config import load_study
from selection.errors import ConfigError


def test_axes_vary_one_setting_around_an_arm(make_study):
    size, share = "selection.hardness.cluster_size", "selection.hardness.random_share"
    study = make_study(
        arms={"random": {"selection.strategy": "random"}, "mild": {size: 8}},
        axes={"mild": {size: [4, 8, None], share: [0.5]}},
    )
    arms = build_arms(study)
    names = [
        "random",
        "mild",
        "mild cluster_size=4",
        "mild cluster_size=null",
        "mild random_share=0.5",
    ]
    assert [arm.name for arm in arms] == names  # 8 is the arm itself
    sizes = [arm.config.selection.hardness.cluster_size for arm in arms]
    assert sizes == [None, 8, 4, None, 8]
    assert [arm.overrides.get(share) for arm in arms] == [None, None, None, None, 0.5]


def test_strategies_are_the_arms_of_the_file_where_it_has_some(make_study):
    size = "selection.hardness.cluster_size"
    arms = {"random": {"selection.strategy": "random"}, "spectral": {size: 8}}
    study = make_study(arms=arms, axes={"spectral": {size: [4]}})
    chosen = build_arms(study.with_strategies(["spectral", "metis"]))
    assert [arm.name for arm in chosen] == ["spectral", "metis"]
    assert [arm.config.selection.strategy for arm in chosen] == ["spectral", "metis"]
    assert [arm.config.selection.hardness.cluster_size for arm in chosen] == [8, None]
    assert study.with_strategies(["spectral", "metis"]).reference == "spectral"


def test_settings_reach_all_arms_and_arms_come_last(make_study):
    study = make_study(settings={"train.batch_size": 32, "selection.strategy": "metis"})
    assert [arm.config.selection.strategy for arm in build_arms(study)] == ["random", "spectral"]
    assert {arm.config.train.batch_size for arm in build_arms(study)} == {32}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arms": {"random": {"train.batch_size": 32}}}, "arms may differ in selection"),
        ({"arms": {"random": {"selection.stratagy": "osgd"}}}, "did you mean 'strategy'"),
        (
            {"arms": {"random": {}, "same": {"selection.strategy": "spectral"}}},
            "arms 'random' and 'same' are the same",
        ),
        ({"arms": {"random": {"selection.strategy": "random"}, "../up": {}}}, "names are folders"),
        (
            {
                "arms": {
                    "random": {},
                    "a b": {"selection.strategy": "rcm"},
                    "a-b": {"selection.strategy": "osgd"},
                }
            },
            "arms 'a b' and 'a-b': have the same folder; rename one",
        ),
        ({"axes": {"random": {"seed": [7]}}}, "arms may differ in selection"),
        (
            {
                "settings": {
                    "selection.refresh.mode": "overlap",
                    "selection.refresh.embeddings": "computed",
                }
            },
            "refresh.mode is overlap, but .* by themselves; set it to alternate",
        ),
    ],
)
def test_mistakes_in_arms_are_named(make_study, fields, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_arms(make_study(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reference": "randm"}, "reference: 'randm' is no arm; arms are random, spectral"),
        ({"axes": {"osgd": {}}}, "axes: 'osgd' is no arm"),
        ({"shares": [0]}, "shares: 0 is not above 0"),
        ({"shares": [float("inf")]}, "shares"),
        ({"shares": [float("nan")]}, "shares"),
        ({"shares": [0.5, 0.5]}, "shares: 0.5 is there twice"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds: 1 is there twice"),
        ({"split": "test"}, "split"),
        (
            {"split": "validation", "settings": {"data.validation": None}},
            "compared on the validation split, but there is none",
        ),
        ({"split": "corrupted"}, "compared on the corrupted split, but there is none"),
        (
            {"split": "corrupted", "settings": {"data.corrupted": "c"}},
            r"metric is u_to_v/mrr, but corrupted images are judged by u_to_v/recall_at_1",
        ),
    ],
)
def test_mistakes_in_a_study_are_named(make_study, fields, message):
    with pytest.raises(ConfigError, match=message):
        make_study(**fields)


def test_overrides_and_options_replace_what_the_file_says(make_study, tmp_path):
    make_study(settings={"rounds": 7, "seed": 3})
    study = load_study(tmp_path / "study.yaml", ["rounds=9"], {"seeds": [4]})
    assert study.settings == {"rounds": 9, "seed": 3}
    assert study.seeds == [4]


def test_a_run_alone_is_compared_with_random_batches(make_study, tmp_path):
    make_study()
    study = load_study(tmp_path / "base.yaml")
    strategies = [arm.config.selection.strategy for arm in build_arms(study)]
    assert strategies == ["random", "spectral"]
    assert study.reference == "random"


def test_the_configuration_of_a_run_is_a_study_as_well(make_study, tmp_path):
    make_study()
    study = load_study(tmp_path / "base.yaml", [], {"arms": {"a": {}}, "reference": "a"})
    assert [arm.config.rounds for arm in build_arms(study)] == [3]
