import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from webdataset.compat import WebDataset

from selection.errors import ArtifactError, ConfigError
from selection.progress import silent
from selection.shards import build_index
from trainer.datasets import image_text, shard_writer
from trainer.datasets.image_text import (
    NUM_CHANGES_EASY,
    PARTS,
    ImageTextRequest,
    arrange,
    change,
    make_meanings,
    write_image_text,
)
from trainer.datasets.scenes import NUM_STYLES, NUM_VALUES, caption, describe, meaning_ids, render
from trainer.datasets.truth import num_false_negatives, read_truth

REQUEST = ImageTextRequest(200, num_classes=20, confusable=0.6, false_negatives=0.3, seed=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "data"
    write_image_text(folder, REQUEST, 1, silent)
    return folder


def read(folder, part):
    urls = sorted(str(path) for path in (folder / part).glob("*.tar"))
    return list(WebDataset(urls, shardshuffle=False))


def truths(samples):
    return [json.loads(sample["json"]) for sample in samples]


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


def test_each_part_holds_as_many_pairs_as_asked(made):
    sizes = {part: len(read(made, part)) for part in PARTS}
    assert sizes == {"train": 200, "validation": 256, "heldout": 256}
    keys = [sample["__key__"] for sample in read(made, "train")]
    assert [key.rsplit("/")[-1] for key in keys] == [f"{n:08d}" for n in range(200)]


def test_an_odd_number_of_pairs_of_which_all_should_be_twins():
    request = ImageTextRequest(7, num_classes=1, false_negatives=1.0)
    assert (request.num_twins, request.num_meanings) == (3, 4)


def test_more_classes_than_there_are_roots_are_refused():
    with pytest.raises(ConfigError, match=r"--classes: .* of all parts, but must not exceed"):
        ImageTextRequest(600_000, num_classes=300_000).check()


def test_the_share_of_false_negatives_is_the_one_asked_for(made):
    meanings = [truth["meaning"] for truth in truths(read(made, "train"))]
    counts = np.unique(meanings, return_counts=True)[1]
    assert counts.max() == 2
    assert 2 * (counts == 2).sum() == 0.3 * 200
    for part in ("validation", "heldout"):
        assert len({truth["meaning"] for truth in truths(read(made, part))}) == 256


def test_parts_share_neither_meanings_nor_classes(made):
    for name in ("meaning", "class"):
        values = [{truth[name] for truth in truths(read(made, part))} for part in PARTS]
        assert not any(a & b for a, b in itertools.combinations(values, 2))


def test_equal_meanings_have_equal_attributes_but_no_equal_bytes(made):
    by_meaning = {}
    samples = read(made, "train")
    for sample, truth in zip(samples, truths(samples), strict=True):
        by_meaning.setdefault(truth["meaning"], []).append((sample, truth))
    twins = [pairs for pairs in by_meaning.values() if len(pairs) == 2]
    assert len(twins) == 30
    for (a, truth_a), (b, truth_b) in twins:
        assert truth_a == truth_b
        assert a["txt"] != b["txt"]
        assert a["png"] != b["png"]


def test_samples_are_what_they_say(made):
    for sample in read(made, "heldout")[:20]:
        image = Image.open(io.BytesIO(sample["png"]))
        assert (image.size, image.mode) == ((32, 32), "RGB")
        attributes = json.loads(sample["json"])["attributes"]
        text = sample["txt"].decode()
        for name in ("background", "first_color", "second_color", "first_form", "second_form"):
            assert attributes[name] in text


@pytest.mark.parametrize("confusable", [0.0, 0.5, 1.0])
def test_classes_are_trees_of_confusable_meanings(confusable):
    made = make_meanings(600, 30, confusable, set(), np.random.default_rng(0))
    assert len(set(meaning_ids(made.values).tolist())) == 600
    assert np.bincount(made.class_ids).tolist() == [20] * 30
    is_root = made.num_changed == len(NUM_VALUES)
    assert is_root.sum() == 30
    assert (made.num_changed[~is_root] == 1).mean() == pytest.approx(confusable, abs=0.08)
    for row in np.flatnonzero(~is_root):
        before = made.values[:row][made.class_ids[:row] == made.class_ids[row]]
        assert made.num_changed[row] in (before != made.values[row]).sum(axis=1)


def test_taken_meanings_are_not_made_again():
    taken = set()
    first = make_meanings(500, 1, 1.0, taken, np.random.default_rng(0))
    second = make_meanings(500, 1, 1.0, taken, np.random.default_rng(0))
    ids = np.concatenate([meaning_ids(first.values), meaning_ids(second.values)]).tolist()
    assert len(set(ids)) == 1000
    assert taken == set(ids)


@pytest.mark.parametrize("num_changed", [1, NUM_CHANGES_EASY, len(NUM_VALUES)])
def test_a_change_changes_so_many_attributes(num_changed):
    rng = np.random.default_rng(1)
    values = rng.integers(0, NUM_VALUES, (200, len(NUM_VALUES)))
    changed = change(values, np.full(200, num_changed), rng)
    assert ((changed != values).sum(axis=1) == num_changed).all()
    assert ((changed >= 0) & (changed < NUM_VALUES)).all()


def test_twins_have_different_styles():
    rows, styles = arrange(50, 20, np.random.default_rng(0))
    for row in range(50):
        found = styles[rows == row]
        assert len(found) == len(set(found.tolist()))
    assert np.bincount(np.bincount(rows)).tolist() == [0, 30, 20]


@pytest.mark.parametrize("column", range(len(NUM_VALUES)))
def test_every_attribute_shows_in_picture_and_caption(column):
    meaning = np.zeros(len(NUM_VALUES), np.int64)
    other = meaning.copy()
    other[column] = 1
    assert describe(meaning) != describe(other)

    def shown(values):
        # The same random numbers: what differs, differs by the meaning alone.
        picture = np.asarray(render(values, 32, np.random.default_rng(0)), int)
        return picture, caption(values, 0, np.random.default_rng(0))

    (picture, text), (other_picture, other_text) = shown(meaning), shown(other)
    assert text != other_text
    assert np.abs(picture - other_picture).max() > 60


def test_styles_share_no_caption():
    rng = np.random.default_rng(0)
    meaning = np.zeros(len(NUM_VALUES), np.int64)
    captions = [{caption(meaning, style, rng) for _ in range(300)} for style in range(NUM_STYLES)]
    assert not captions[0] & captions[1]
    assert min(map(len, captions)) > 10


def test_the_same_files_whatever_the_number_of_processes(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "PAIRS_PER_SHARD", 64)
    for workers in (1, 2):
        write_image_text(tmp_path / f"{workers}", REQUEST, workers, silent)
    first = snapshot(tmp_path / "1")
    assert len(first) == 4 + 4 + 4
    assert first == snapshot(tmp_path / "2")


def test_another_seed_is_another_data_set(made, tmp_path):
    other = ImageTextRequest(**{**vars(REQUEST), "seed": 5})
    write_image_text(tmp_path / "other", other, 1, silent)
    ours = {truth["meaning"] for truth in truths(read(made, "train"))}
    theirs = {truth["meaning"] for truth in truths(read(tmp_path / "other", "train"))}
    assert len(ours & theirs) < 5


def test_it_is_not_made_again_and_not_mixed_up(made, monkeypatch):
    monkeypatch.setattr(image_text, "write_dataset", None)
    assert write_image_text(made, REQUEST, 1, silent)["train"]["num_twins"] == 30
    with pytest.raises(ConfigError, match="num_classes = 20, expected 21"):
        write_image_text(made, ImageTextRequest(**{**vars(REQUEST), "num_classes": 21}), 1, silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_pairs": 10**9}, "--pairs: is 1000000000"),
        ({"num_classes": 171}, r"--classes: is 171.*\(170\)"),
    ],
)
def test_what_cannot_be_made_is_refused(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        write_image_text(tmp_path / "d", ImageTextRequest(**{**vars(REQUEST), **change}), 1, silent)
    assert list(tmp_path.iterdir()) == []


def test_the_truth_of_a_part_is_read_in_the_order_of_ids(made, tmp_path):
    index = build_index(sorted((made / "train").glob("*.tar")), tmp_path / "index")
    expected = truths(read(made, "train"))
    for name in ("meaning", "class"):
        assert read_truth(index, name).tolist() == [truth[name] for truth in expected]
    with pytest.raises(ArtifactError, match="holds no number 'colour'"):
        read_truth(index, "colour")


@pytest.mark.parametrize("told", [b"{", b"[]", b'{"meaning": "a"}'])
def test_a_sample_that_tells_no_truth(told):
    class Told:
        def __len__(self):
            return 1

        def read(self, ids):
            return [{"__key__": "0", "json": told}]

    with pytest.raises(ArtifactError, match="sample '0': its json part holds no number 'meaning'"):
        read_truth(Told())


def test_false_negatives_are_counted_as_pairs_of_pairs():
    rng = np.random.default_rng(0)
    meanings = rng.integers(0, 12, 60)
    batches = rng.permutation(60).reshape(6, 10)
    expected = [
        sum(meanings[a] == meanings[b] for a, b in itertools.combinations(batch, 2))
        for batch in batches
    ]
    assert num_false_negatives(batches, meanings).tolist() == expected
    assert max(expected) > 3
