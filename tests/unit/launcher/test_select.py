import numpy as np
import pytest

from launcher.cli import main
from selection import select_batches
from selection.artifacts import write_manifest
from selection.schedule import open_schedule
from tests.conftest import planted_pairs


@pytest.fixture
def files(tmp_path):
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=10, dim=16)
    np.save(tmp_path / "U.npy", U)
    np.save(tmp_path / "V.npy", V.astype(np.float16))
    return tmp_path


def select(files, *arguments, names=("U.npy", "V.npy"), batch_size=8):
    paths = [str(files / name) for name in names]
    return main(
        ["select", *paths, "--batch-size", str(batch_size), "--out", str(files / "s"), *arguments]
    )


def test_a_schedule_comes_out(files, capsys):
    assert select(files, "--set", "graph.num_neighbors=6", batch_size=9) == 0
    schedule = open_schedule(files / "s", {"strategy": "spectral"})
    assert schedule.batches.shape == (22, 9)
    assert len(schedule.leftover) == 2
    assert schedule.manifest["batch_loss"] > schedule.manifest["random_batch_loss"]
    assert "22 batches of 9, 2 left over" in capsys.readouterr().out


def test_settings_may_come_one_by_one(files):
    assert select(files, "--set", "graph.num_neighbors=6", "--set", "hardness.cluster_size=4") == 0
    config = open_schedule(files / "s").manifest["config"]
    found = config["graph"]["num_neighbors"], config["hardness"]["cluster_size"]
    assert found == (6, 4)


def test_one_file_is_single_view_data_and_seeds_differ(files):
    hashes = []
    for seed in ("0", "0", "1"):
        assert select(files, "--seed", seed, names=("U.npy",)) == 0
        hashes.append(open_schedule(files / "s").content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_rounds_count_on_from_the_schedule_before(files):
    warm = ("--set", "hardness.warmup_rounds=2")
    assert select(files, *warm, batch_size=9) == 0
    first = open_schedule(files / "s")
    (files / "s").rename(files / "first")
    assert select(files, *warm, "--previous", str(files / "first"), batch_size=9) == 0
    second = open_schedule(files / "s")
    assert (first.manifest["round"], second.manifest["round"]) == (0, 1)
    assert first.manifest["num_random_per_batch"] == 9 > second.manifest["num_random_per_batch"] > 0
    assert np.isin(first.leftover, second.batches).all()
    assert len(first.leftover) == 200 % 9


def test_the_manifest_says_from_what(files):
    manifests = []
    for value in ("4", "5"):
        assert select(files, "--set", f"graph.num_neighbors={value}") == 0
        manifests.append(open_schedule(files / "s").manifest)
    assert [m["config"]["graph"]["num_neighbors"] for m in manifests] == [4, 5]
    assert manifests[0]["embeddings"] == {side: str(files / f"{side}.npy") for side in ("U", "V")}
    assert manifests[0]["embeddings_hash"] == manifests[1]["embeddings_hash"]
    assert len(set(manifests[0]["embeddings_hash"].values())) == 2


def test_random_needs_no_graph(files):
    assert select(files, "--strategy", "random") == 0
    assert open_schedule(files / "s").manifest["strategy"] == "random"


@pytest.mark.parametrize("kind", ["index", None])
def test_only_a_schedule_is_replaced(files, kind, capsys):
    (files / "s").mkdir()
    (files / "s/keep.txt").write_text("of years")
    if kind:
        write_manifest(files / "s", kind, ["keep.txt"], {})
    assert select(files) == 2
    assert "exists and is no schedule; choose another folder" in capsys.readouterr().err
    assert (files / "s/keep.txt").read_text() == "of years"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_same_batches_as_from_python(files, dtype):
    U, V = (np.load(files / name).astype(dtype) for name in ("U.npy", "V.npy"))
    np.save(files / "U.npy", U)
    np.save(files / "V.npy", V)
    assert select(files, "--seed", "3") == 0
    chosen = select_batches(U, V, batch_size=8, seed=3)
    schedule = open_schedule(files / "s")
    np.testing.assert_array_equal(schedule.batches, chosen.batches)
    assert schedule.manifest["batch_loss"] == chosen.fields["batch_loss"]


def save_bad_rows(files):
    U = np.load(files / "U.npy")
    U[3], U[5] = 0, np.nan
    np.save(files / "bad.npy", U)


@pytest.mark.parametrize(
    ("arguments", "names", "message"),
    [
        ([], ("absent.npy",), "no such file"),
        ([], ("text.npy",), "not a .npy file"),
        ([], ("objects.npy",), "not a .npy file"),
        ([], ("empty.npy",), "not a .npy file"),
        ([], ("zip.npy",), "not a .npy file"),
        ([], ("ids.npy",), "ids.npy: holds int64 of shape (4,)"),
        ([], ("bad.npy",), "row 3 is zero or not finite (norm 0), one of 2 such rows among 200"),
        (
            [],
            ("U.npy", "long.npy"),
            "long.npy: row 0 is not on the unit sphere (norm 2), one of 200 such",
        ),
        ([], ("U.npy", "short.npy"), "has shape (7, 16), but"),
        (["--set", "graph.neighbors=3"], ("U.npy",), "did you mean 'num_neighbors'"),
        (["--set", "hardness.cluster_size=3"], ("U.npy",), "must divide --batch-size (8)"),
        (["--strategy", "best"], ("U.npy",), "strategy: got 'best'"),
        (["--temperature", "0"], ("U.npy",), "temperature: got 0.0"),
        (["--temperature", "inf"], ("U.npy",), "temperature: got inf"),
        (["--previous", "absent"], ("U.npy",), "absent"),
        (["--previous", __file__], ("U.npy",), "found no manifest.json"),
        (
            ["--strategy", "osgd", "--set", "hardness.cluster_size=4"],
            ("U.npy",),
            "cluster_size: is 4, but strategy osgd judges whole batches; set it to null",
        ),
        (["--batch-size", "201"], ("U.npy",), "only 200 pairs"),
        (
            ["--batch-size", "1"],
            ("U.npy",),
            "--batch-size: is 1, but must be a whole number, at least 2",
        ),
    ],
)
def test_mistakes_are_one_line_and_status_2(files, capsys, arguments, names, message):
    save_bad_rows(files)
    (files / "text.npy").write_text("hello")
    (files / "empty.npy").touch()
    (files / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
    np.save(files / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(files / "ids.npy", np.arange(4))
    np.save(files / "short.npy", np.load(files / "U.npy")[:7])
    np.save(files / "long.npy", np.load(files / "U.npy") * 2)
    assert select(files, *arguments, names=names) == 2
    text = capsys.readouterr().err.strip()
    assert message in text
    assert "\n" not in text
    assert not (files / "s").exists()


def test_a_folder_of_something_else_is_not_replaced(files):
    (files / "s").mkdir()
    (files / "s" / "thesis.tex").write_text("dear reader")
    assert select(files) == 2
    assert (files / "s" / "thesis.tex").is_file()


def test_a_place_where_nothing_can_be_written_is_refused_before_selecting(files, capsys):
    (files / "file").touch()
    arguments = [str(files / "U.npy"), str(files / "V.npy"), "--batch-size", "8"]
    assert main(["select", *arguments, "--out", str(files / "file" / "s")]) == 2
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text == f"coterie: --out: {files}/file: File exists; choose another folder"
