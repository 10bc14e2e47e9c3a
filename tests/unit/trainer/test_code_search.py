import itertools
import json
import textwrap
from collections import Counter

import numpy as np
import pytest
from webdataset.compat import WebDataset

from selection.errors import ConfigError
from selection.progress import silent
from trainer.datasets import code_search, shard_writer
from trainer.datasets.code_search import PARTS, cap, write_code_search
from trainer.datasets.near_duplicates import first_of_each, minhash
from trainer.datasets.python_functions import first_paragraph, functions_of, is_sentence

NUM_PACKAGES = 30
FUNCTIONS_PER_PACKAGE = 4
WORDS = ["amber", "basalt", "cedar", "delta", "ember", "fjord", "grove", "heron", "indigo", "karst"]


def function_source(rng, name):
    """A function of random words, unlike every other one."""
    first, second, third, fourth, *rest = rng.choice(WORDS, 10)
    number = rng.integers(1_000_000)
    return textwrap.dedent(f'''
        def {name}({first}_{number}, {second}={number}):
            """Turn {" ".join(rest)} number {number} into words.

            Second paragraph.
            """
            {third}_{number} = {first}_{number} + {second} * {rng.integers(1_000_000)}
            for {fourth}_{number} in range({third}_{number}):
                {"_".join(rest[:4])}({fourth}_{number}, {rest[4]!r}, {rng.integers(1_000_000)})
            return {third}_{number}
    ''')


@pytest.fixture
def root(tmp_path):
    """A folder of small packages, every second one a single module."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "site"
    for package in range(NUM_PACKAGES):
        source = "".join(function_source(rng, f"f{n}") for n in range(FUNCTIONS_PER_PACKAGE))
        path = folder / (f"p{package}.py" if package % 2 else f"p{package}/sub/module.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def write(tmp_path, *roots, name="data", limit=None, num_workers=1, progress=silent):
    return write_code_search(tmp_path / name, limit, roots, num_workers, progress)


def samples(folder, part):
    urls = sorted(str(path) for path in (folder / part).glob("*.tar"))
    dataset = WebDataset(urls, shardshuffle=False).decode()
    return [sample for sample in dataset]  # noqa: C416  # pyright: ignore


def all_packages(manifest):
    sizes = Counter()
    for part in PARTS:
        sizes.update(manifest[part]["packages"])
    return dict(sizes)


def functions_in(tmp_path, source):
    path = tmp_path / "module.py"
    path.write_text(textwrap.dedent(source))
    return {function.qualname: function for function in functions_of(path) or []}


SOURCE = '''
    import missing_module
    if missing_module:
        @decorated(1)
        def top(a, *, b: int = 2) -> str:
            """Do the top
            thing here.

            More text.
            """
            # a comment stays
            text = """
    at column four"""

            def inner(c):
                "Do the inner thing."
                c = c + 1_000_000
                return call_something(c)

            return inner(a) + text

    class Outer:
        class Inner:
            async def method(self):
                """Wait for the result."""
                result = await self.something_slow()
                return result
'''


def test_extracts_nested_decorated_and_async_functions(tmp_path):
    found = functions_in(tmp_path, SOURCE)
    assert list(found) == ["top", "top.inner", "Outer.Inner.method"]
    assert found["top"].doc == "Do the top thing here."
    assert found["top"].signature == "def top(a, *, b: int=2) -> str"
    assert found["Outer.Inner.method"].signature == "async def method(self)"
    assert found["top.inner"].line == 15
    assert found["top.inner"].body == "c = c + 1_000_000\nreturn call_something(c)"
    assert found["top"].body.startswith("# a comment stays\ntext =")
    assert found["top"].body.endswith("\n\nreturn inner(a) + text")
    assert "More text" not in found["top"].body


@pytest.mark.parametrize(
    "body",
    [
        "    return a_single_statement_that_is_long_enough_to_count(1)",
        "    a = 1\n    return a",
        "    call_something_long_enough(1)\n" * 101,
    ],
    ids=["one statement", "short", "long"],
)
def test_skips_bodies_that_say_too_little_or_too_much(tmp_path, body):
    assert functions_in(tmp_path, f'def f():\n    """Do the thing."""\n{body}\n') == {}


def test_skips_a_function_on_the_line_of_its_docstring(tmp_path):
    source = 'def f(): "Do the thing."; first_statement_here(1); second_statement_here(2)\n'
    assert functions_in(tmp_path, source) == {}


@pytest.mark.parametrize(
    ("doc", "good"),
    [
        ("Return the sum.", True),
        ("Too short.", False),
        ("word " * 100, True),
        ("word " * 101, False),
        (":param x: the value", False),
        (">>> add(one, two)", False),
        ("Args: x and y", False),
        ("1 + 2 = 3 (4, 5, 6) [7]", False),
        ("вернуть сумму чисел", False),
    ],
)
def test_docstrings_must_read_like_a_sentence(doc, good):
    assert is_sentence(first_paragraph(doc)) is good


@pytest.mark.parametrize(
    "content", [b"def f(:\n", b"x = 1\0", b"# coding: utf-8\nx = '\xff'", b"# coding: no-such\n"]
)
def test_files_that_are_not_python_are_counted(tmp_path, root, content):
    (root / "bad.py").write_bytes(content)
    manifest = write(tmp_path, root)
    assert manifest["num_unparsable_files"] == 1
    assert manifest["num_pairs_found"] == NUM_PACKAGES * FUNCTIONS_PER_PACKAGE


def test_heeds_the_coding_line(tmp_path):
    source = '# coding: latin-1\ndef f(a):\n    """Do the thing."""\n    a = call("é", a, "long enough")\n'
    (tmp_path / "latin.py").write_bytes((source + "    return a\n").encode("latin-1"))
    (function,) = functions_of(tmp_path / "latin.py") or []
    assert '"é"' in function.body


def test_invalid_escapes_warn_nobody(tmp_path, recwarn):
    assert functions_in(tmp_path, r"x = '\d'") == {}
    assert len(recwarn) == 0


def test_nothing_is_imported_or_run(tmp_path, root):
    trap = f"open({str(tmp_path / 'was_run')!r}, 'w').close()\nraise SystemExit\n"
    (root / "trap.py").write_text(trap + function_source(np.random.default_rng(9), "f"))
    (root / "trap_package").mkdir()
    (root / "trap_package/__init__.py").write_text(trap)
    manifest = write(tmp_path, root, num_workers=2)
    assert not (tmp_path / "was_run").exists()
    assert manifest["num_pairs_found"] == NUM_PACKAGES * FUNCTIONS_PER_PACKAGE + 1


def test_webdataset_reads_all_parts(tmp_path, root):
    manifest = write(tmp_path, root)
    for part in PARTS:
        found = samples(tmp_path / "data", part)
        assert [sample["__key__"] for sample in found] == [f"{n:08d}" for n in range(len(found))]
        assert len(found) == manifest[part]["num_pairs"] > 0
        for sample in found:
            origin = sample["json"]
            number = origin["signature"].split("(")[1].split(",")[0].split("_")[1]
            assert sample["txt"].startswith("Turn ")
            assert f"number {number} into words." in sample["txt"]
            assert f"return {sample['py'].decode().split(' =')[0]}" in sample["py"].decode()
            source = (root / origin["path"]).read_text().split("\n")
            assert source[origin["line"] - 1].startswith(f"def {origin['qualname']}(")


def test_parts_share_no_package_but_those_that_are_known_and_miss_no_pair(tmp_path, root):
    manifest = write(tmp_path, root)
    apart = [name for part in PARTS[:3] for name in manifest[part]["packages"]]
    assert sorted(apart) == sorted(f"p{n}" for n in range(NUM_PACKAGES))
    assert manifest["known"]["packages"].keys() <= manifest["train"]["packages"].keys()
    sizes = {part: sum(manifest[part]["packages"].values()) for part in PARTS}
    total = NUM_PACKAGES * FUNCTIONS_PER_PACKAGE
    assert sum(sizes.values()) == total
    for part in ("validation", "heldout"):
        assert sizes[part] == pytest.approx(total / 4, abs=FUNCTIONS_PER_PACKAGE)


def test_packages_mix_in_the_order(tmp_path, root):
    write(tmp_path, root)
    packages = [sample["json"]["package"] for sample in samples(tmp_path / "data", "train")]
    same = sum(first == second for first, second in itertools.pairwise(packages))
    assert same < len(packages) / 4  # sorted, it would be three of four


def test_large_packages_are_not_held_out(tmp_path, root):
    rng = np.random.default_rng(1)
    (root / "huge.py").write_text("".join(function_source(rng, f"f{n}") for n in range(60)))
    assert all_packages(manifest := write(tmp_path, root))["huge"] == 60
    for part in ("validation", "heldout"):
        assert "huge" not in manifest[part]["packages"]


def test_test_folders_are_skipped(tmp_path, root):
    rng = np.random.default_rng(1)
    for name in ("p0/tests/a.py", "p0/test_a.py", "conftest.py", "site-packages/a.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(function_source(rng, "f"))
    assert write(tmp_path, root)["num_pairs_found"] == NUM_PACKAGES * FUNCTIONS_PER_PACKAGE


def replace_docstring(source):
    return source.replace("Turn ", "Something else about ")


def rename_one_argument(source):
    return source.replace("Second paragraph.", "", 1).replace("into words", "into many words")


@pytest.mark.parametrize(
    "change",
    [lambda source: source, replace_docstring, rename_one_argument],
    ids=["copy", "body", "near"],
)
def test_duplicates_keep_the_first(tmp_path, root, change):
    (root / "zz_copy.py").write_text(change((root / "p1.py").read_text()))
    manifest = write(tmp_path, root)
    assert manifest["num_near_or_exact_duplicates"] == FUNCTIONS_PER_PACKAGE
    packages = all_packages(manifest)
    assert packages["p1"] == FUNCTIONS_PER_PACKAGE
    assert "zz_copy" not in packages


def test_the_first_is_the_first_by_name_not_on_disk(tmp_path, root):
    copied = [f"p{number}" for number in range(1, NUM_PACKAGES, 2)]
    for name in copied:
        (root / f"a_{name}.py").write_text((root / f"{name}.py").read_text())
    manifest = write(tmp_path, root)
    packages = all_packages(manifest)
    assert not set(copied) & set(packages)
    assert {f"a_{name}" for name in copied} <= set(packages)


def jaccard(first, second):
    shingles = [
        {tuple(words[n : n + 3]) for n in range(len(words) - 2)} for words in (first, second)
    ]
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


@pytest.mark.parametrize("num_changed", [0, 2, 10, 40, 200])
def test_signatures_estimate_the_jaccard_similarity(num_changed):
    rng = np.random.default_rng(num_changed)
    errors = []
    for _ in range(20):
        first = rng.choice(1000, 200).astype(str).tolist()
        second = list(first)
        for position in rng.choice(200, num_changed, replace=False):
            second[position] = "changed" + str(position)
        estimate = (minhash(" ".join(first)) == minhash(" ".join(second))).mean()
        errors.append(estimate - jaccard(first, second))
    assert np.abs(errors).max() < 4 * 0.046
    assert abs(np.mean(errors)) < 4 * 0.046 / np.sqrt(len(errors))


def test_near_duplicates_agree_with_comparing_all():
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(60):
        words = rng.choice(500, 80).astype(str)
        texts.append(" ".join(words))
        for num_changed in rng.integers(0, 8, rng.integers(0, 3)):
            changed = words.copy()
            changed[rng.choice(80, num_changed, replace=False)] = "new"
            texts.append(" ".join(changed))
    signatures = np.stack([minhash(text) for text in texts])
    kept = []
    for row in range(len(texts)):
        similarities = (signatures[kept] == signatures[row]).mean(axis=1)
        if not (similarities >= 0.8).any():
            kept.append(row)
    assert np.flatnonzero(first_of_each(signatures, 0.8)).tolist() == kept
    assert 60 <= len(kept) < len(texts)


@pytest.mark.parametrize("text", ["", "one", "one two", "日本 語"])
def test_short_texts_have_signatures(text):
    assert minhash(text).tolist() == minhash(f" {text} ").tolist()


def file_hashes(manifest):
    return {name: entry["hash"] for name, entry in manifest["files"].items()}


def test_the_same_files_whatever_the_number_of_processes(tmp_path, root, monkeypatch):
    monkeypatch.setattr(code_search, "_FILES_PER_TASK", 3)
    monkeypatch.setattr(shard_writer, "PAIRS_PER_SHARD", 16)
    one = write(tmp_path, root, name="one", num_workers=1)
    two = write(tmp_path, root, name="two", num_workers=2)
    assert file_hashes(one) == file_hashes(two)
    assert len(one["files"]) > 4


def test_a_limit_keeps_a_prefix(tmp_path, root):
    write(tmp_path, root, name="all")
    write(tmp_path, root, name="some", limit=20)
    everything, some = (samples(tmp_path / name, "train") for name in ("all", "some"))
    assert [sample["py"] for sample in some] == [sample["py"] for sample in everything[:20]]


def test_a_limit_caps_the_other_parts(root, monkeypatch):
    monkeypatch.setattr(code_search, "MIN_HELDOUT_PAIRS", 3)
    pairs, _ = code_search._find_pairs([root], 1, silent)
    parts = dict.fromkeys(PARTS, pairs)
    for limit, sizes in ((80, [80, 10, 10, 10]), (8, [8, 3, 3, 3]), (None, [len(pairs)] * 4)):
        assert [len(part) for part in cap(parts, limit).values()] == sizes


def test_a_second_call_does_nothing(tmp_path, root):
    reports = []

    def progress(stage, done, total, unit="pairs"):
        reports.append((stage, done, total, unit))

    first = write(tmp_path, root, progress=progress)
    assert reports[0] == ("parse", 0, NUM_PACKAGES, "files")
    assert reports[-1] == ("write", *[NUM_PACKAGES * FUNCTIONS_PER_PACKAGE] * 2, "pairs")
    reports.clear()
    assert write(tmp_path, root, progress=progress, num_workers=2) == first
    assert reports == []


def test_other_parameters_are_refused(tmp_path, root):
    write(tmp_path, root)
    with pytest.raises(ConfigError, match=r"made with limit = None, expected 5; choose another"):
        write(tmp_path, root, limit=5)


def test_a_folder_with_other_files_is_left_alone(tmp_path, root):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not an empty folder"):
        write(tmp_path, root)
    assert (tmp_path / "data/thesis.txt").read_text() == "years of work"


def test_too_few_packages_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^--roots: found 0 pairs in 0 packages"):
        write(tmp_path, tmp_path / "empty")
    assert not (tmp_path / "data").exists()


def test_a_crash_leaves_nothing(tmp_path, root, monkeypatch):
    def fail(folder, shard):
        raise OSError("disk full")

    monkeypatch.setattr(shard_writer, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, root)
    assert not (tmp_path / "data").exists()


def test_the_manifest_says_how_it_was_made(tmp_path, root):
    manifest = write(tmp_path, root, limit=50)
    assert manifest == json.loads((tmp_path / "data/manifest.json").read_text())
    assert manifest["kind"] == "dataset"
    assert manifest["parameters"]["limit"] == 50
    assert manifest["parameters"]["roots"] == [str(root)]
