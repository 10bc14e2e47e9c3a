import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.compat import WebDataset

from selection import shard_index, shards
from selection.artifacts import write_manifest
from selection.errors import ArtifactError, ConfigError
from selection.shard_index import coalesce
from selection.shards import ShardIndex, build_index, expand_shards


def write_tar(path, members, tar_format=tarfile.GNU_FORMAT):
    """Write (name, payload) members; a payload of None makes a folder."""
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, payload in members:
            member = tarfile.TarInfo(name)
            if payload is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload or b""))
    return path


def webdataset_samples(paths):
    """What webdataset's own reader yields, without the fields that name the shard."""
    urls = [str(path) for path in paths]
    dataset = WebDataset(urls, shardshuffle=False, empty_check=False)
    named = ("__url__", "__local_path__")
    return [{k: v for k, v in sample.items() if k not in named} for sample in dataset]


def all_samples(index):
    return index.read(np.arange(len(index)))


def pairs(first, count):
    return [
        (f"{number:05d}.{extension}", f"{extension} of {number}".encode())
        for number in range(first, first + count)
        for extension in ("txt", "py")
    ]


LONG = "folder/" * 30 + "name" * 30
AWKWARD = {
    "several dots": [("a.tar.gz.JPG", b"1"), ("a.cls", b"2"), ("b.1.5.txt", b"3"), ("b.txt", b"4")],
    "folders stay in the key": [
        ("x.y/a.txt", b"1"),
        ("./a.txt", b"2"),
        ("x/", None),
        ("a.txt", b""),
    ],
    "long names": [(LONG + ".txt", b"1"), (LONG + ".seg.png", b"2"), (LONG + "2.txt", b"3")],
    "a sample apart": [("a.txt", b"1"), ("b.txt", b"2"), ("a.py", b"3"), ("a.txt", b"4")],
    "skipped": [
        ("__meta__", b"1"),
        ("__meta__/a.txt", b"2"),
        ("README", b"3"),
        ("a.txt", b"4"),
        ("README2", b"5"),
        ("a.py", b"6"),
    ],
    "hidden": [(".a.txt", b"1"), ("x/.b", b"2"), ("x/.c.txt", b"3"), ("end.", b"4")],
    "not ASCII": [("Größe/é.txt", b"1"), ("Größe/é.py", b"2"), ("日本.txt", b"3")],
    "empty": [],
    "line break": [("a\nb.txt", b"1"), ("c.txt\n", b"2")],
}


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@pytest.mark.parametrize("members", AWKWARD.values(), ids=AWKWARD.keys())
def test_yields_the_samples_of_webdataset(tmp_path, members, tar_format):
    paths = [
        write_tar(tmp_path / "0.tar", members, tar_format),
        write_tar(tmp_path / "1.tar", [("last.txt", b"last")]),
    ]
    assert all_samples(build_index(paths, tmp_path / "index")) == webdataset_samples(paths)


def test_links_are_skipped_as_in_webdataset(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in [
            ("a.txt", tarfile.REGTYPE),
            ("a.lnk", tarfile.LNKTYPE),
            ("b.sym", tarfile.SYMTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.txt" if kind != tarfile.REGTYPE else ""
            tar.addfile(member)
    assert all_samples(build_index([path], tmp_path / "index")) == webdataset_samples([path])


NAMES = st.from_regex(r"(d/|d\.e/|__m__/)?[ab.]{0,3}(\.[xyX]){0,2}[ab]", fullmatch=True)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=12))
def test_random_tars_yield_the_samples_of_webdataset(tmp_path_factory, members):
    folder = tmp_path_factory.mktemp("random")
    path = write_tar(folder / "0.tar", members)
    try:
        expected = webdataset_samples([path])
    except ValueError:  # a second member of the same extension
        with pytest.raises(ArtifactError, match="has a second part"):
            build_index([path], folder / "index")
    else:
        assert all_samples(build_index([path], folder / "index")) == expected


@pytest.fixture
def data(tmp_path):
    """Three shards of 40, 0 and 25 pairs, and what webdataset reads from them."""
    paths = [
        write_tar(tmp_path / "train-0.tar", pairs(0, 40)),
        write_tar(tmp_path / "train-1.tar", []),
        write_tar(tmp_path / "train-2.tar", pairs(40, 25)),
    ]
    return paths, webdataset_samples(paths)


@pytest.mark.parametrize("max_open_shards", [128, 1])
def test_reads_in_the_order_asked(tmp_path, data, monkeypatch, max_open_shards):
    paths, expected = data
    monkeypatch.setattr(shard_index, "_MAX_OPEN_SHARDS", max_open_shards)
    index = build_index(paths, tmp_path / "index")
    ids = np.random.default_rng(0).integers(0, len(index), 500)  # many come more than once
    for part in np.split(ids, 10):
        assert index.read(part) == [expected[sample_id] for sample_id in part]
    assert index.read(ids[:0]) == []


def test_an_id_that_comes_twice_gives_two_dicts(tmp_path, data):
    first, second = build_index(data[0], tmp_path / "index").read(np.array([3, 3]))
    first["txt"] = b"changed"
    assert second == data[1][3]


def test_locates_ids_across_an_empty_shard(tmp_path, data):
    index = build_index(data[0], tmp_path / "index")
    shard_ids, rows = index.locate(np.array([0, 39, 40, 64]))
    assert index.shard_starts.tolist() == [0, 40, 40, 65]
    assert shard_ids.tolist() == [0, 0, 2, 2]
    assert rows.tolist() == [0, 39, 0, 24]


@pytest.mark.parametrize("sample_id", [-1, 65])
def test_an_id_out_of_range_is_an_index_error(tmp_path, data, sample_id):
    index = build_index(data[0], tmp_path / "index")
    with pytest.raises(IndexError, match=f"{sample_id} is outside 0..64"):
        index.read(np.array([0, sample_id]))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_descriptors_are_bounded_and_closed(tmp_path, data, monkeypatch):
    def num_open():
        return len(list(Path("/proc/self/fd").iterdir()))

    monkeypatch.setattr(shard_index, "_MAX_OPEN_SHARDS", 1)
    before = num_open()
    index = build_index(data[0], tmp_path / "index")
    all_samples(index)
    assert num_open() <= before + 2
    index.close()
    assert num_open() == before


def test_travels_by_pickle(tmp_path, data):
    index = build_index(data[0], tmp_path / "index")
    index.read(np.array([0]))
    copy = pickle.loads(pickle.dumps(index))
    index.close()
    assert all_samples(copy) == data[1]
    assert copy.content_hash == index.content_hash


RANGES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=30)


@given(RANGES, st.integers(0, 200), st.integers(1, 1000))
def test_coalesced_blocks_cover_all_ranges_once_and_respect_the_limits(steps, gap, block):
    gaps, sizes = np.array(steps).T
    offsets = np.cumsum(gaps + sizes) - sizes
    blocks = coalesce(offsets, sizes, gap, block)
    covered = np.concatenate([np.arange(len(offsets))[part] for part in blocks])
    assert covered.tolist() == list(range(len(offsets)))
    for part in blocks:
        assert (gaps[part][1:] <= gap).all()
        assert offsets[part][-1] - offsets[part][0] < block


def test_a_compressed_tar_is_refused(tmp_path):
    path = tmp_path / "named-like-a-plain-one.tar"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(ArtifactError, match=r"plain-one.tar: compressed with gzip.*decompress it"):
        build_index([path], tmp_path / "index")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 700, 1023, 1024, 1536, 2000, 2048])
def test_a_truncated_tar_is_refused(tmp_path, size):
    path = write_tar(tmp_path / "cut.tar", [("a.txt", bytes(300)), ("a.py", b"1")])
    os.truncate(path, size)
    with pytest.raises(
        ArtifactError, match=r"cut.tar: truncated or not a tar .*write the shard again"
    ):
        build_index([path], tmp_path / "index")


def test_a_file_that_is_no_tar_is_refused(tmp_path):
    path = tmp_path / "text.tar"
    path.write_text("not a tar " * 1000)
    with pytest.raises(ArtifactError, match=r"text.tar: truncated or not a tar"):
        build_index([path], tmp_path / "index")


def test_a_damaged_header_is_refused(tmp_path):
    path = write_tar(tmp_path / "bad.tar", pairs(0, 3))
    with path.open("r+b") as file:
        file.seek(2048 + 148)  # the checksum of the third header
        file.write(b"x")
    with pytest.raises(ArtifactError, match="at byte 2048"):
        build_index([path], tmp_path / "index")


def test_a_reserved_extension_is_refused(tmp_path):
    path = write_tar(tmp_path / "0.tar", [("a.__key__", b"1")])
    with pytest.raises(ArtifactError, match="reserved by webdataset"):
        build_index([path], tmp_path / "index")


@pytest.fixture
def scans(monkeypatch):
    """Names of the shards scanned from now on, in this process."""
    names = []

    def scan(path, original=shards.scan_tar):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(shards, "scan_tar", scan)
    return names


def test_a_complete_index_is_opened_and_not_written(tmp_path, data, scans):
    first = build_index(data[0], tmp_path / "index")
    manifest = (tmp_path / "index/manifest.json").stat()
    scans.clear()
    second = build_index(data[0], tmp_path / "index")
    assert scans == []
    assert (tmp_path / "index/manifest.json").stat().st_mtime_ns == manifest.st_mtime_ns
    assert second.content_hash == first.content_hash


def test_resumes_after_a_shard_that_failed(tmp_path, data, scans):
    paths, expected = data
    good = paths[2].read_bytes()
    os.truncate(paths[2], 700)
    with pytest.raises(ArtifactError, match=r"train-2.tar"):
        build_index(paths, tmp_path / "index")
    with pytest.raises(ArtifactError, match="found no manifest"):
        ShardIndex.open(tmp_path / "index")
    paths[2].write_bytes(good)
    scans.clear()
    assert all_samples(build_index(paths, tmp_path / "index")) == expected
    assert scans == ["train-2.tar"]


def test_a_layout_that_was_damaged_before_the_index_was_complete(tmp_path, data, scans):
    paths, expected = data
    build_index(paths, tmp_path / "index")
    (tmp_path / "index/manifest.json").unlink()  # as after an interruption
    layout = tmp_path / "index/shard-000002.npy"
    layout.write_bytes(layout.read_bytes()[:-1] + b"?")
    scans.clear()
    assert all_samples(build_index(paths, tmp_path / "index")) == expected
    assert scans == ["train-2.tar"]


def test_a_layout_that_was_damaged_while_another_shard_changed(tmp_path, data, scans):
    paths = data[0]
    build_index(paths, tmp_path / "index")
    layout = tmp_path / "index/shard-000002.npy"
    layout.write_bytes(layout.read_bytes()[:-1] + b"?")
    write_tar(paths[1], pairs(100, 3))
    scans.clear()
    assert all_samples(build_index(paths, tmp_path / "index")) == webdataset_samples(paths)
    assert sorted(scans) == ["train-1.tar", "train-2.tar"]


def test_what_a_killed_scan_was_filling_is_no_obstacle(tmp_path, data):
    paths, expected = data
    (tmp_path / "index").mkdir()
    (tmp_path / "index/.shard-000000.npy.1.tmp").write_bytes(b"half")
    assert all_samples(build_index(paths, tmp_path / "index")) == expected


def test_only_a_changed_shard_is_scanned_again(tmp_path, data, scans):
    paths = data[0]
    before = build_index(paths, tmp_path / "index").content_hash
    scans.clear()
    write_tar(paths[1], pairs(100, 3))
    index = build_index(paths, tmp_path / "index")
    assert scans == ["train-1.tar"]
    assert all_samples(index) == webdataset_samples(paths)
    assert index.content_hash != before


@pytest.mark.parametrize("kind", ["embeddings", None])
def test_only_an_index_is_replaced(tmp_path, data, kind):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "shard-000000.npy").write_text("of years")
    if kind:
        write_manifest(folder, kind, ["shard-000000.npy"], {})
    with pytest.raises(ConfigError, match="theirs exists and is no index; choose another folder"):
        build_index(data[0], folder)
    if kind:  # of another program, which need not be an object
        (folder / "manifest.json").write_text("[1]")
        with pytest.raises(ConfigError, match="exists and is no index"):
            build_index(data[0], folder)
    assert (folder / "shard-000000.npy").read_text() == "of years"


def test_an_index_of_fewer_shards_leaves_nothing_behind(tmp_path, data):
    build_index(data[0], tmp_path / "index")
    index = build_index(data[0][:1], tmp_path / "index")
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert len(index) == 40
    assert names == {"manifest.json", "shard-000000.json", "shard-000000.npy"}


@pytest.mark.parametrize("change", ["touched", "grown", "gone"])
def test_a_stale_shard_is_refused_when_opened(tmp_path, data, change):
    paths = data[0]
    build_index(paths, tmp_path / "index")
    if change == "touched":
        os.utime(paths[0], ns=(1, 1))
    elif change == "grown":
        with paths[0].open("ab") as file:
            file.write(bytes(512))
    else:
        paths[0].unlink()
    with pytest.raises(ArtifactError, match=r"train-0.tar: found .*, expected .* bytes.*again"):
        ShardIndex.open(tmp_path / "index")


def test_a_shard_cut_while_open_is_refused_when_read(tmp_path, data):
    index = build_index(data[0], tmp_path / "index")
    os.truncate(data[0][0], 1024)
    with pytest.raises(ArtifactError, match=r"train-0.tar: found the end at byte"):
        index.read(np.array([30]))


def test_the_hash_ignores_the_folder_and_sees_order_and_names(tmp_path, data):
    paths = data[0]
    moved = []
    for path in paths:
        (tmp_path / "moved").mkdir(exist_ok=True)
        moved.append(tmp_path / "moved" / path.name)
        moved[-1].write_bytes(path.read_bytes())
    original = build_index(paths, tmp_path / "a").content_hash
    assert build_index(moved, tmp_path / "b").content_hash == original
    assert build_index(paths[::-1], tmp_path / "c").content_hash != original
    renamed = moved[0].rename(moved[0].with_name("other.tar"))
    assert build_index([renamed, *moved[1:]], tmp_path / "d").content_hash != original


def test_several_processes_make_the_same_index(tmp_path, data):
    reports = []

    def progress(stage, done, total, unit="pairs"):
        reports.append((stage, done, total, unit))

    one = build_index(data[0], tmp_path / "one")
    two = build_index(data[0], tmp_path / "two", progress, num_workers=2)
    assert two.content_hash == one.content_hash
    assert all_samples(two) == data[1]
    assert reports == [("index", done, 3, "shards") for done in range(4)]


def test_an_error_in_a_process_reaches_the_caller(tmp_path, data):
    os.truncate(data[0][0], 700)
    with pytest.raises(ArtifactError, match=r"train-0.tar: truncated"):
        build_index(data[0], tmp_path / "index", num_workers=2)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("train-{0..2}.tar", ["train-0.tar", "train-1.tar", "train-2.tar"]),
        ("train-*.tar", ["train-0.tar", "train-1.tar", "train-2.tar"]),
        ("train-{2,0}.tar", ["train-0.tar", "train-2.tar"]),
        ("{train-[01],train-?}.tar", ["train-0.tar", "train-1.tar", "train-2.tar"]),
        ("**/train-1.tar", ["train-1.tar"]),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_patterns_expand_sorted_and_once(tmp_path, data, monkeypatch, pattern, names, relative):
    monkeypatch.chdir(tmp_path)
    found = expand_shards(pattern if relative else str(tmp_path / pattern))
    assert [path.name for path in found] == names
    assert all(path.is_file() for path in found)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("valid-*.tar", "matches no file"),
        ("train-{0..3}.tar", r"found no file .*train-3.tar"),
        ("train-{0..2.tar", "unbalanced braces|found no file"),
        ("*.tar*", r"packed.tar.gz is compressed"),
        ("s3://bucket/{0..3}.tar", "is remote"),
    ],
)
def test_wrong_patterns_name_the_field(tmp_path, data, monkeypatch, pattern, message):
    (tmp_path / "packed.tar.gz").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^data\.shards: .*({message})"):
        expand_shards(pattern, "data.shards")
