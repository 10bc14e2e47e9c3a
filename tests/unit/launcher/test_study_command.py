import argparse
import contextlib

import pytest
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


def test_a_study_without_data_is_one_line(tmp_path, capsys):
    arguments = ["study", "selectors", "configs/quickstart.yaml", f"data.train={tmp_path}/no.tar"]
    assert main([*arguments, "--strategies", "random,osgd", "--out", str(tmp_path / "s")]) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("coterie: data.train")
    assert "\n" not in text


def test_an_unknown_strategy_is_named(capsys):
    arguments = ["study", "selectors", "configs/quickstart.yaml", "--strategies", "random,best"]
    assert main(arguments) == 2
    assert "selection.strategy: got 'best'" in capsys.readouterr().err
