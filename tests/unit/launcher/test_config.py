from pathlib import Path

import pytest
import yaml

from launcher.config import differences, load_config, parse_override, save_config
from launcher.studies.trials.arms import build_arms
from launcher.studies.trials.config import load_study
from selection.errors import ConfigError

STUDIES = sorted(Path("configs/studies").glob("*.yaml"))
CLUSTERS = Path("configs/cluster").glob("*.yaml")  # see test_cluster_files.py
CONFIGS = sorted({*Path("configs").rglob("*.yaml")} - {*STUDIES, *CLUSTERS})
SMALLEST = {"run_dir": "r", "data": {"train": "t", "heldout": "h"}}
OVERLAP = "selection.refresh.mode=overlap"
TEXT = {"tower": "text", "part": "txt"}
TOWERS = {**SMALLEST, "encoder": {"name": "towers", "u": TEXT, "v": TEXT, "text": {"views": {}}}}


@pytest.fixture
def write(tmp_path):
    def write(values):
        path = tmp_path / "c.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return path

    return write


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_shipped_config_loads(path):
    load_config(path)


@pytest.mark.parametrize("path", STUDIES, ids=str)
def test_every_shipped_study_loads(path):
    assert len(build_arms(load_study(path))) > 2


def test_there_are_shipped_configs():
    assert Path("configs/quickstart.yaml") in CONFIGS
    assert Path("configs/studies/ablation.yaml") in STUDIES


def test_overrides_are_yaml_and_reach_inside(write):
    config = load_config(
        write(SMALLEST), ["train.optimizer.lr=3e-4", "selection.temperature=null", "seed=7"]
    )
    assert config.train.optimizer.lr == 3e-4
    assert config.selection.temperature is None
    assert config.seed == 7


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        (
            SMALLEST,
            ["train.bach_size=3"],
            r"train\.bach_size: unknown key; did you mean 'batch_size'",
        ),
        (
            SMALLEST,
            ["selection.graph.k=3"],
            r"selection\.graph\.k: unknown key; known keys are num_neighbors",
        ),
        (SMALLEST, ["train.batch_size=ten"], r"train\.batch_size: got 'ten': .*integer"),
        (
            SMALLEST,
            ["train.batch_size=63"],
            r"train\.batch_size is 63, but must be a multiple of num_ranks \(2\)",
        ),
        (SMALLEST, ["encoder.num_heads=3"], "num_heads is 3, but must divide width"),
        (SMALLEST, ["encoder.name=tower"], "encoder: .*name must be text_transformer or towers"),
        (SMALLEST, ["encoder.widthh=3"], r"encoder\.widthh: unknown key; did you mean 'width'"),
        (SMALLEST, ["encoder.name=towers"], r"encoder\.u: required, but not set"),
        (TOWERS, ["encoder.text.max_tokns=3"], r"encoder\.text\.max_tokns: .*'max_tokens'"),
        (TOWERS, ["encoder.text.views.rename=2"], r"encoder\.text\.views\.rename: got 2"),
        (SMALLEST, ["selection.strategy=best"], r"selection\.strategy: got 'best': .*'random'"),
        (
            SMALLEST,
            ["selection.hardness.cluster_size=9"],
            r"cluster_size: is 9, but must divide train\.batch_size \(64\)",
        ),
        (
            SMALLEST,
            [OVERLAP, "selection.refresh.keep_ranks=false"],
            r"selection\.refresh\.keep_ranks is false, but with mode=overlap .*; set keep_ranks=true",
        ),
        (
            SMALLEST,
            [OVERLAP, "selection.refresh.embeddings=collected"],
            r"selection\.refresh\.epochs_per_round is 1, but mode=overlap .*; set epochs_per_round=2",
        ),
        (SMALLEST, ["rounds=0"], r"rounds: got 0: .*greater than or equal to 1"),
        (SMALLEST, ["rounds"], r"override 'rounds': expected key\.subkey=value"),
        (SMALLEST, ["seed.x=1", "seed.x.y=1"], r"x is 1 and has no keys inside"),
        ({"run_dir": "r"}, [], "data: required, but not set"),
        ("[1, 2]", [], "holds list, expected keys with values"),
        ("a: [1", [], "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", [], "not valid YAML"),
    ],
)
def test_mistakes_are_named(write, values, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(values), overrides)
    assert "\n" not in str(caught.value)


def test_what_overlaps(write):
    path, collected = write(SMALLEST), "selection.refresh.embeddings=collected"
    plain, overlap, drawn = (
        load_config(path, overrides).selection
        for overrides in ([], [OVERLAP], [OVERLAP, "selection.strategy=random"])
    )
    assert (plain.overlaps, overlap.overlaps, drawn.overlaps) == (False, True, True)
    assert (plain.selects_ahead, overlap.selects_ahead, drawn.selects_ahead) == (False, True, False)
    assert (plain.cpus_beside_ranks, overlap.cpus_beside_ranks) == (0, 1)
    assert load_config(
        path, [OVERLAP, collected, "selection.refresh.epochs_per_round=2"]
    ).selection.collects


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.yaml")


def test_saved_config_is_the_same(write, tmp_path):
    config = load_config(
        Path("configs/quickstart.yaml"), ["seed=3", "train.optimizer.betas=[0.8, 0.9]"]
    )
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_identity_is_what_decides_the_result(write):
    path = write(SMALLEST)
    config = load_config(path)
    assert load_config(path, ["run_dir=elsewhere", "ray.num_cpus=2"]).hash == config.hash
    other = load_config(path, ["train.optimizer.lr=1e-4"])
    assert other.hash != config.hash
    assert differences(config, other) == ["train.optimizer.lr: 0.001 -> 0.0001"]


def test_braces_that_a_shell_has_expanded(write):
    path = write(SMALLEST)
    with pytest.raises(ConfigError, match=r"data.train: is given twice in a row, .* quotes"):
        load_config(path, ["data.train=t-0.tar", "data.train=t-1.tar"])
    others = ["data.train=t-0.tar", "seed=1", "data.train=t-1.tar"]
    assert load_config(path, others).data.train == "t-1.tar"  # the last of several
    assert load_config(path, ["seed=1", "seed=2"]).seed == 2


def test_a_key_that_is_there_twice(write):
    path = write("run_dir: r\ndata: {train: t, heldout: h}\ntrain: {}\ntrain: {batch_size: 8}\n")
    with pytest.raises(ConfigError, match="not valid YAML: key 'train' is there twice"):
        load_config(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["slurm.partition=''"], r"slurm\.partition: is '', but must be one line"),
        (["slurm.modules=cuda"], r"slurm\.modules: is 'cuda', but must be a list; change it"),
        (["train=5"], r"train: is 5, but must be keys with values; change it"),
        (["slurm.extra_args=[-N4]"], r"slurm\.extra_args: '-N4' is set by `coterie submit` itself"),
        (["selection.osgd={num_candidates: 1, num_kept: 2}"], r"osgd\.num_kept is 2, but must"),
    ],
)
def test_field_and_rule_are_told_apart(write, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(SMALLEST), overrides)


def test_a_setting_that_is_added_later_changes_no_hash(write):
    told = load_config(write(SMALLEST))
    explicit = load_config(write({**SMALLEST, "seed": 0, "train": {"batch_size": 64}}))
    assert told.hash == explicit.hash
    assert told.hash != load_config(write(SMALLEST), ["seed=1"]).hash
    named = load_config(write(SMALLEST), ["encoder.name=text_transformer"])
    assert named.hash == told.hash != load_config(write(TOWERS)).hash


@pytest.mark.parametrize("name", ["2026-01-31", "2024-13-45"])
def test_a_name_that_looks_like_a_date_is_a_name(name, write):
    path = write(f"run_dir: {name}\ndata: {{train: t, heldout: h}}\n")
    assert load_config(path).run_dir == Path(name)
    assert parse_override(f"slurm.job_name={name}") == ("slurm.job_name", name)


def test_a_number_that_is_none_is_a_mistake_of_the_user():
    with pytest.raises(ConfigError, match="the value is not valid YAML; quote it"):
        parse_override("seed=0b_")
