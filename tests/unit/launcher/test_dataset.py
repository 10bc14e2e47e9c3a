import io
import tarfile

import pytest

from launcher.cli import main


def test_a_generated_data_set_by_command(tmp_path, capsys):
    arguments = ["--pairs", "40", "--classes", "4", "--confusable", "1", "--false-negatives", "0.2"]
    arguments = ["dataset", "image-text", str(tmp_path / "d"), *arguments, "--workers", "1"]
    assert main(arguments) == 0
    text = capsys.readouterr().out.strip()
    assert text == f"{tmp_path / 'd'}: 40 train, 256 validation, 256 heldout pairs"
    # The same again is found; another one is refused.
    assert main(arguments) == 0
    assert main([*arguments, "--seed", "1"]) == 2
    assert "made with seed = 0, expected 1" in capsys.readouterr().err


def test_code_of_one_s_own_by_command(tmp_path, capsys):
    doc = '"""Repeat what it is given, with some more of it at its end."""'
    body = "    total = first + 12\n    return [total] * second + [first] * 12\n"
    (tmp_path / "code").mkdir()
    (tmp_path / "code/package.py").write_text(f"def repeat(first, second):\n    {doc}\n{body}")
    arguments = ["dataset", "code-search", str(tmp_path / "d"), "--workers", "1", "--roots"]
    assert main([*arguments, str(tmp_path / "code"), str(tmp_path / "none")]) == 2
    assert f"--roots: {tmp_path / 'none'} is no folder; give" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "code")]) == 2
    found = f"found 1 pairs in 1 packages of {tmp_path / 'code'}, too few for 4 parts; add roots"
    assert found in capsys.readouterr().err


def test_the_current_folder_is_no_place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["dataset", "image-text", ".", "--pairs", "40", "--classes", "4"]) == 2
    assert ". cannot be replaced as a whole; name a folder inside it" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["1.5", "-0.1", "nan"])
def test_shares_are_checked(tmp_path, share, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["dataset", "image-text", str(tmp_path / "d"), "--confusable", share])
    assert caught.value.code == 2
    assert f"{share} is not from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cifar100", "cifar100-c", "tiny-imagenet"])
def test_an_absent_source_is_one_line(tmp_path, kind, capsys):
    source = str(tmp_path / "none")
    assert main(["dataset", kind, str(tmp_path / "d"), "--source", source]) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith(f"coterie: --source: {source} is n")
    assert "\n" not in text


def test_cifar_100_by_command(tmp_path, capsys):
    source = tmp_path / "cifar-100-binary.tar.gz"
    files = {
        "train.bin": bytes([0, 0]) + bytes(3072),
        "test.bin": bytes([0, 0]) + bytes(3072),
        "fine_label_names.txt": b"apple\n",
        "coarse_label_names.txt": b"fruit\n",
    }
    with tarfile.open(source, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert (
        main(
            ["dataset", "cifar100", str(tmp_path / "d"), "--source", str(source), "--workers", "1"]
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'd'}: 1 train, 1 heldout pairs"
