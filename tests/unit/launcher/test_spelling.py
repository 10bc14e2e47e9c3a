import pytest

from launcher.spelling import spell_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (7380, "2 h 3 min"),
        (47.99 * 3600, "47 h 59 min"),
        (100 * 3600, "4 days 4 h"),
    ],
)
def test_seconds_are_spelled(seconds, text):
    assert spell_seconds(seconds) == text
