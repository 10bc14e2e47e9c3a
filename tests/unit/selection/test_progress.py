import json

from selection.progress import FileProgress, TerminalProgress


def test_file_progress_is_throttled_but_keeps_the_end(tmp_path):
    progress = FileProgress(tmp_path / "p.jsonl")
    for done in range(1001):
        progress("search", done, 1000)
    events = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert events[0]["done"] == 0
    assert events[-1]["done"] == 1000
    assert len(events) < 100


def test_terminal_progress_shows_each_stage(capsys):
    progress = TerminalProgress()
    for stage in ("embed", "search"):
        for done in (0, 50, 100):
            progress(stage, done, 100)
    text = capsys.readouterr().err
    assert "embed" in text
    assert "search" in text
    assert "100/100" in text


def test_two_bars_in_a_log_do_not_move_about(capsys):
    first, second = TerminalProgress(), TerminalProgress()
    for done in (0, 50, 100):
        first("train", done, 100)
        second("search", done, 100)
    text = capsys.readouterr().err
    assert text.count("100/100") == 2
    assert "\x1b" not in text
