import pytest

from launcher.search import _hit, describe

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
