import os
import pickle
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from selection.artifacts import hash_file, read_manifest
from selection.errors import ArtifactError
from selection.progress import silent
from trainer.encoders import prepare_encoder, tokenizer
from trainer.encoders.tokenizer import (
    EMPTY_ID,
    PAD_ID,
    PairTokenizer,
    TextPart,
    decode,
    open_tokenizer,
    read_part,
    train_tokenizer,
)

TEXTS = {"u": TextPart("txt", 12), "v": TextPart("py", 20)}
TRAIN_AGAIN = """
import pickle, sys
from selection.progress import silent
from trainer.config import TextTransformerConfig
from trainer.encoders.tokenizer import TextPart, train_tokenizer
samples, config, texts = pickle.load(sys.stdin.buffer)
class Pairs:
    def __len__(self):
        return len(samples)
    def read(self, ids):
        return [samples[number] for number in ids]
sys.stdout.write(train_tokenizer(TextTransformerConfig(**config), texts, Pairs(), silent).to_str())
"""


@pytest.mark.parametrize("parallel", ["false", "true"])
def test_training_gives_the_same_file_in_any_process(pairs, encoder_config, parallel):
    expected = train_tokenizer(encoder_config, TEXTS, pairs, silent).to_str()
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", TRAIN_AGAIN],
        input=pickle.dumps((pairs.samples, encoder_config.model_dump(), TEXTS)),
        capture_output=True,
        env=environment,
        cwd=Path(tokenizer.__file__).parents[2],
        check=True,
    )
    assert found.stdout.decode() == expected


def test_pairs_are_read_in_chunks_in_id_order(pairs, encoder_config, monkeypatch):
    monkeypatch.setattr(tokenizer, "_CHUNK_PAIRS", 10)
    reports = []
    train_tokenizer(
        encoder_config, TEXTS, pairs, lambda stage, done, total, unit="": reports.append(done)
    )
    assert [len(ids) for ids in pairs.reads] == [10] * 6 + [4]
    assert list(chain(*pairs.reads)) == list(range(64))
    assert reports[0] == 0
    assert reports[-1] == 64


def test_at_most_so_many_pairs_are_read(pairs, encoder_config, monkeypatch):
    monkeypatch.setattr(tokenizer, "MAX_TRAINING_PAIRS", 20)
    train_tokenizer(encoder_config, TEXTS, pairs, silent)
    assert pairs.reads == [list(range(0, 64, 4))]


def test_prepare_is_not_repeated(pairs, encoder_config, tmp_path):
    prepare_encoder(encoder_config, pairs, tmp_path / "encoder", silent)
    num_reads = len(pairs.reads)
    prepare_encoder(encoder_config, pairs, tmp_path / "encoder", silent)
    assert len(pairs.reads) == num_reads
    assert read_manifest(tmp_path / "encoder", "encoder")["index_hash"] == pairs.content_hash


def test_other_pairs_or_settings_are_refused(pairs, encoder_config, tmp_path):
    folder = tmp_path / "encoder"
    prepare_encoder(encoder_config, pairs, folder, silent)
    with pytest.raises(ArtifactError, match="vocab_size"):
        open_tokenizer(encoder_config.model_copy(update={"vocab_size": 500}), folder)
    pairs.content_hash = "of-others"
    with pytest.raises(ArtifactError, match="index_hash"):
        prepare_encoder(encoder_config, pairs, folder, silent)


def test_altered_vocabulary_is_refused(pairs, encoder_config, tmp_path):
    folder = tmp_path / "encoder"
    prepare_encoder(encoder_config, pairs, folder, silent)
    path = folder / "tokenizer.json"
    before = hash_file(path)
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    assert hash_file(path) != before
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        open_tokenizer(encoder_config, folder)


def test_rows_are_padded_to_the_longest_and_cut_at_the_limit(encoder_config, encoder_folder):
    tokenizer = open_tokenizer(encoder_config, encoder_folder)
    ids = tokenizer.tokenize("v", [b"a b", b"a", b"a b c d e"])
    assert ids.shape == (3, 8)
    assert (ids != PAD_ID).sum(1).tolist() == [2, 1, 5]
    assert tokenizer.tokenize("u", [b"a b c d e f g h i j k l m n o p"]).shape == (1, 12)
    assert tokenizer.tokenize("v", [b"x " * 5000]).shape == (1, 20)


@pytest.mark.parametrize("text", ["", "plain", "naïve 東京 \U0001f600", "\x00tab\t"])
def test_any_text_comes_back(encoder_config, encoder_folder, text):
    tokenizer = open_tokenizer(encoder_config, encoder_folder)
    (row,) = tokenizer.tokenize("v", [text.encode()]).tolist()
    ids = [number for number in row if number != PAD_ID]
    assert ids
    if text:
        assert len(ids) <= encoder_config.v_max_tokens
        assert tokenizer.tokenizer.decode(ids) == text
    else:
        assert ids == [EMPTY_ID]


@pytest.mark.parametrize("text", ["<pad>", "a <pad> b", "<empty>", "<pad><empty>"])
def test_names_of_special_tokens_are_text(encoder_config, encoder_folder, text):
    tokenizer = open_tokenizer(encoder_config, encoder_folder)
    (row,) = tokenizer.tokenize("v", [text.encode()]).tolist()
    ids = [number for number in row if number != PAD_ID]
    assert EMPTY_ID not in ids
    assert tokenizer.tokenizer.decode(ids) == text


def test_broken_utf8_is_replaced(encoder_config, encoder_folder):
    tokenizer = open_tokenizer(encoder_config, encoder_folder)
    broken, replaced = tokenizer.tokenize("v", [b"ab\xffcd", "ab\ufffdcd".encode()])
    assert np.array_equal(broken, replaced)


def test_a_missing_part_is_named():
    sample = {"__key__": "000007", "txt": b"", "json": b""}
    with pytest.raises(
        ArtifactError, match=r"'000007': found parts json, txt, expected 'py'.*let v read"
    ):
        read_part(sample, "py", "v")


def test_the_collate_function_travels_to_other_processes(pairs, encoder_config, encoder_folder):
    collate = open_tokenizer(encoder_config, encoder_folder)
    copy = pickle.loads(pickle.dumps(collate))
    for side, inputs in collate(pairs.samples[:5]).items():
        assert np.array_equal(inputs, copy(pairs.samples[:5])[side])


def test_split_words_shares_tokens_between_spellings(pairs, encoder_config):
    config = encoder_config.model_copy(update={"split_words": True})
    trained = train_tokenizer(config, TEXTS, pairs, silent)

    def ids(text):
        return trained.encode(text).ids

    assert ids("read_file") == ids("readFile") == ids("Read\n   File")
    assert ids("a.b(c)") == ids("a . b ( c )")
    plain = train_tokenizer(encoder_config, TEXTS, pairs, silent)
    assert plain.encode("read_file").ids != plain.encode("readFile").ids


PIECES = st.sampled_from(
    [b" ", b"  ", b"\n    ", b"\t", b"\x0b", b"_", b".", b"(", b"abc", b"deadbeef", b"readFile", b"I'll", b"'s ", b"12"]
    + [text.encode() for text in ("\u6771\u4eac", "na\u00efve", "\u03a3", "\u00a0", "\u3000", "\u0130", "\U0001f600")]
    + [b"\xff", b"\xe6\x9d", b"x" * 90]
)  # fmt: skip


@pytest.mark.parametrize("split_words", [False, True])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.lists(PIECES, max_size=120).map(b"".join), min_size=1, max_size=4))
@example(texts=[b" " * 200 + b"abc", b"\n" * 500, b" " * 100 + b"abc" * 30])
def test_tokens_of_the_beginning_are_those_of_the_whole(
    pairs, encoder_config, tokenizers, split_words, texts
):
    config = encoder_config.model_copy(update={"split_words": split_words})
    if split_words not in tokenizers:
        tokenizers[split_words] = train_tokenizer(config, TEXTS, pairs, silent)
    whole = tokenizers[split_words]
    limit = TEXTS["v"].max_tokens
    found = PairTokenizer(whole, TEXTS).tokenize("v", texts).tolist()
    for row, text in zip(found, texts, strict=True):
        ids = whole.encode(decode(text, limit)).ids[:limit] or [EMPTY_ID]
        assert row == ids + [PAD_ID] * (len(row) - len(ids))


@pytest.fixture(scope="module")
def tokenizers():
    """With and without `split_words`."""
    return {}
