import pytest

from launcher.config import RunConfig, save_config
from launcher.search import _hit, describe, search
from selection.errors import ConfigError

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("sample", "part", "shown"),
    [
        ({"py": b"return 1\n"}, "py", "return 1"),
        ({"py": b"clich\xe9"}, "py", "clich\ufffd"),
        ({"png": PNG, "txt": b"a red disc"}, "png", "a red disc"),
        ({"png": PNG}, "png", "png, 16 bytes"),
    ],
)
def test_what_was_found_is_shown_as_text(sample, part, shown):
    hit = _hit(0.5, {"__key__": "7", **sample}, part)
    assert describe("query", [hit]).splitlines()[-1].strip() == shown


def test_a_text_cannot_be_searched_for_where_u_is_a_picture(tmp_path):
    picture, text = {"tower": "image", "part": "png"}, {"tower": "text", "part": "txt"}
    encoder = {"name": "towers", "u": picture, "v": text, "image": {}, "text": {}}
    values = {"run_dir": tmp_path, "data": {"train": "t", "heldout": "h"}, "encoder": encoder}
    save_config(RunConfig.model_validate(values), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="u of this run reads pictures, but a query is a text"):
        search(tmp_path, ["a red disc"], top=1)


@pytest.mark.parametrize(
    "member", [b"[1]", b'"a"', b"no json", b"\xff", b'{"key": 5, "path": "a"}']
)
def test_what_the_json_member_holds_is_the_users(member):
    found = _hit(0.5, {"__key__": "k", "txt": b"text", "json": member}, "txt")
    where = "5  a:1" if member.startswith(b"{") else "k"
    assert describe("q", [found]).splitlines()[1] == f"  1. 0.500  {where}"


def test_nothing_that_is_shown_steers_the_terminal():
    sample = {"__key__": "\x1b[2J", "py": b"a\x1b[31m\tb\x9b"}
    text = describe("query\udce9", [_hit(0.5, sample, "py")])
    assert all(line.isprintable() for line in text.replace("\ufffd", "?").splitlines())
    assert "a\ufffd[31m  b\ufffd" in text
