import base64
import io

import pytest
from PIL import Image

from launcher.record import read_record
from launcher.report.batches import gather_examples, show_part
from launcher.run_dir import RunDir
from tests.unit.launcher.report.run_folder import EXAMPLE, HOSTILE, write_data, write_run


def test_pairs_that_were_put_together_with_what_they_hold(make_run):
    gallery = gather_examples(read_record(make_run()))
    assert (gallery.round, gallery.strategy, gallery.note) == (1, "spectral", "")
    (example,) = gallery.examples
    assert (example.kind, example.batch, example.loss) == ("hardest", 1, 3.5)
    (confusion,) = example.confusions
    assert (confusion.own, confusion.across) == ([0.5, 0.4], [0.6, 0.3])
    assert [pair.id for pair in confusion.pairs] == EXAMPLE["confusions"][0]["ids"]
    assert [part.head for part in confusion.pairs[0].parts] == [HOSTILE, "return 0"]
    assert [part.head for part in confusion.pairs[1].parts] == ["query 9", "return 9"]


def test_batches_without_embeddings_are_shown_without_similarities(make_run):
    record = read_record(make_run(strategy="random"))
    gallery = gather_examples(record)
    assert "no similarities" in gallery.note
    (example,) = gallery.examples
    assert example.loss is None
    assert [confusion.own for confusion in example.confusions] == [None] * 4
    assert example.confusions[0].pairs[0].parts


def test_notes_of_a_run_whose_examples_are_lost(make_run):
    root = make_run()
    RunDir(root).examples.unlink()
    gallery = gather_examples(read_record(root))
    assert (gallery.round, gallery.examples[0].kind) == (1, "first")


def test_shards_that_have_moved_leave_ids_and_similarities(tmp_path):
    data = write_data(tmp_path / "data")
    record = read_record(write_run(tmp_path / "run", data))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    gallery = gather_examples(record)
    assert "cannot be shown" in gallery.note
    assert "shard-000000.tar" in gallery.note
    (confusion,) = gallery.examples[0].confusions
    assert confusion.own == [0.5, 0.4]
    assert confusion.pairs[0].parts == []


def test_a_run_without_a_schedule(make_run):
    record = read_record(make_run())
    record.manifests.clear()
    assert gather_examples(record) is None


def test_one_part_that_is_both_sides_is_shown_once(make_run):
    root = make_run(**{"encoder.u_part": "py"})
    (confusion,) = gather_examples(read_record(root)).examples[0].confusions
    assert [part.name for part in confusion.pairs[0].parts] == ["py"]


def test_a_long_text_is_cut():
    part = show_part("txt", b"\n".join(b"line %d" % n for n in range(2000)))
    assert part.head == "line 0\nline 1\nline 2\nline 3 …"
    assert part.text.startswith(part.head[:-2])
    assert part.text.endswith("more characters")
    assert len(part.text) < 4100
    assert len(show_part("txt", b"x" * 100_000).head) < 250


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (b"short", "short"),
        (b"", ""),
        (b"\xff\xfenot utf-8", "��not utf-8"),
        (b"\x00" * 1234, "1,234 bytes that are no text"),
        (b"<svg onload=alert(1)>", "<svg onload=alert(1)>"),
    ],
)
def test_what_is_no_long_text(data, head):
    part = show_part("bin", data)
    assert (part.head, part.text, part.image) == (head, "", "")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_small_pictures_are_shown(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, kind)
    part = show_part(kind, buffer.getvalue())
    header, encoded = part.image.split(",")
    assert header == f"data:image/{kind};base64"
    assert base64.b64decode(encoded) == buffer.getvalue()
    assert show_part(kind, buffer.getvalue() + b"\0" * 300_000).image == ""
