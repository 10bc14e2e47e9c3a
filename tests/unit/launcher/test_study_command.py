import argparse
import contextlib

import pytest
import webdataset as wds
import yaml

from launcher.cli import main
from launcher.commands.study import _seeds, _shares


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..4", [0, 1, 2, 3, 4]), ("3..3", [3]), ("0,7", [0, 7]), ("5", [5])]
)
def test_seeds(text, seeds):
    assert _seeds(text) == seeds


@pytest.mark.parametrize("text", ["4..0", "1,1", "-1,2", "0..99999999"])
def test_wrong_seeds(text):
    with pytest.raises(argparse.ArgumentTypeError):
        _seeds(text)


@pytest.mark.parametrize(("text", "shares"), [("none", []), ("1", [1.0]), ("0.6,1.0", [0.6, 1.0])])
def test_shares(text, shares):
    assert _shares(text) == shares


@pytest.mark.parametrize(("shares", "message"), [("1,x", "--shares"), ("1,0", "0 is not above 0")])
def test_wrong_shares(shares, message, capsys):
    arguments = ["study", "selectors", "configs/studies/known_code.yaml", "--shares", shares]
    with contextlib.suppress(SystemExit):
        assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "has no axes, so there is nothing to vary"),
        ({"axes": {"random": {"selection.graph.num_neighbors": [8]}}}, "split is heldout"),
    ],
)
def test_an_ablation_has_axes_and_a_validation_split(tmp_path, capsys, fields, message):
    path = tmp_path / "study.yaml"
    study = {"study_dir": str(tmp_path / "s"), "base": "configs/quickstart.yaml", **fields}
    path.write_text(yaml.safe_dump(study))
    assert main(["study", "ablation", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def shard(tmp_path):
    with wds.TarWriter(str(tmp_path / "shard.tar"), mtime=0) as writer:
        for number in range(40):
            writer.write({"__key__": f"{number:03d}", "txt": "u", "py": "v"})
    return str(tmp_path / "shard.tar")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.train=no.tar"], "data.train: found no file no.tar"),
        (["data.heldout=no.tar"], "data.heldout: found no file no.tar"),
        (["encoder.v_part=cpp"], "cpp"),
        (["train.batch_size=64"], "train.batch_size: is 64, but data.train has only 40 pairs"),
        (["data.train=a.tar", "data.train=b.tar"], "data.train: is given twice in a row"),
    ],
)
def test_a_study_that_cannot_be_is_one_line_before_any_trial(
    shard, tmp_path, capsys, settings, message
):
    data = [f"data.heldout={shard}", f"data.train={shard}", f"data.validation={shard}"]
    names = [setting.partition("=")[0] for setting in settings]
    settings = [*(d for d in data if d.partition("=")[0] not in names), *settings]
    arguments = ["study", "selectors", "configs/quickstart.yaml", *settings]
    assert main([*arguments, "--strategies", "random,osgd", "--out", str(tmp_path / "s")]) == 2
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("coterie: ")
    assert message in text
    assert not (tmp_path / "s" / "logs").exists()


def test_a_study_whose_folder_is_a_file(shard, capsys):
    arguments = ["study", "selectors", "configs/quickstart.yaml", "--out", f"{shard}/study"]
    assert main([*arguments, f"data.train={shard}", f"data.heldout={shard}"]) == 2
    assert f"--out: {shard}/study: Not a directory" in capsys.readouterr().err


def test_an_unknown_strategy_is_named(capsys):
    arguments = ["study", "selectors", "configs/quickstart.yaml", "--strategies", "random,best"]
    assert main(arguments) == 2
    assert "selection.strategy: got 'best'" in capsys.readouterr().err
