import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from launcher.cli import main
from launcher.record import read_record
from launcher.report import theme
from launcher.report.page import render, write_report
from launcher.report.sections import PART_OF, make_bars, thin
from selection.config import SelectionConfig
from selection.errors import ConfigError
from selection.select import choose
from selection.strategies import STRATEGIES
from tests.unit.launcher.report.run_folder import CHOSEN, HOSTILE, write_run

VOID = {"meta", "img", "br", "link", "input"}


class Strict(HTMLParser):
    """Collects elements, attributes and texts, and checks that what is opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def two(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    roots = [write_run(folder / "a", data, strategy="random"), write_run(folder / "b", data)]
    return [read_record(root) for root in roots]


@pytest.fixture(scope="module")
def page(two):
    return render(two)


def figures_of(page):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


@pytest.mark.parametrize("num_finished", [0, 1, 2])
def test_page_of_a_run_however_far_it_is(make_run, num_finished):
    record = read_record(make_run(num_finished=num_finished))
    page = render([record])
    assert Strict(page).texts
    for title in ("Learning", "Batches, spectrum and cut", "Where the seconds went", "Versions"):
        assert f"<h2>{title}</h2>" in page
    assert ("finished, 2 rounds" in page) == (num_finished == 2)


def test_page_of_several_runs(page):
    assert "2 runs side by side" in page
    assert "What differs:" in page
    assert "selection.strategy" in page
    assert len(figures_of(page)) == 4  # learning, batches, spectrum, seconds


def test_hostile_text_is_text(tmp_path, data):
    names = ["<script>alert('run')", '_"><script>$x$']
    roots = [write_run(tmp_path / name, data, alarms=(HOSTILE,)) for name in names]
    page = render([read_record(root) for root in roots])
    parsed = Strict(page)
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert sum(HOSTILE in text for text in parsed.texts) == 4  # a pair and an alarm of each
    for name in names:
        assert any(name in text for text in parsed.texts)
        assert any(text == name for svg in figures_of(page) for text in svg.itertext())


@pytest.mark.parametrize(("num_alarms", "more"), [(0, None), (5, None), (7, "2 more")])
def test_many_alarms_do_not_hide_the_results(make_run, num_alarms, more):
    record = read_record(make_run(alarms=tuple(f"alarm {n}" for n in range(num_alarms))))
    text = " ".join(Strict(render([record])).texts)
    assert all(f"run, round 1: alarm {n}" in text for n in range(num_alarms))
    assert (re.search(r"\d+ more(?= )", text) or [None])[0] == more


def test_nothing_is_loaded_and_no_script_may_run(page):
    elements = Strict(page).elements
    policy = next(a["content"] for _, a in elements if "content-security-policy" in str(a).lower())
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    addresses = [v for _, a in elements for k, v in a.items() if k in ("src", "href", "xlink:href")]
    assert all(address.startswith(("#", "data:image/")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    assert not any(name.startswith("on") for _, a in elements for name in a)


def test_figures_take_their_colours_from_the_page(page):
    style = Path(theme.__file__).with_name("page.css").read_text()
    light, dark = (
        set(re.findall(r"(--[\w-]+):", part)) for part in style.split("@media screen", 1)
    )
    assert dark == light
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used | set(theme.VARIABLES.values()) <= light
    assert {"--series-0", "--series-1", "--stage-3", "--ink", "--grid"} <= used
    for figure in figures_of(page):
        text = ElementTree.tostring(figure, encoding="unicode")
        assert not re.search(r"#[0-9a-f]{6}\b", text)


def test_ids_are_in_a_page_once(page):
    ids = [a["id"] for _, a in Strict(page).elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_figures_speak_to_who_does_not_see_them(page):
    for figure in figures_of(page):
        assert figure.get("role") == "img"
        assert len(figure.get("aria-label")) > 10


def test_same_runs_same_page(two, page):
    assert render(two) == page


def test_without_eigenvalues_there_is_no_spectrum(make_run):
    chosen = {key: value for key, value in CHOSEN.items() if key != "eigenvalues"}
    assert len(figures_of(render([read_record(make_run(chosen=chosen))]))) == 3


def test_thinned_curves_keep_their_mean():
    rows = np.arange(14.0).reshape(2, 7)
    assert thin(rows, 7) is not rows
    np.testing.assert_array_equal(thin(rows, 7), rows)
    np.testing.assert_array_equal(thin(rows, 3), [[1, 4, 6], [8, 11, 13]])
    assert thin(np.empty((3, 0)), 5).shape == (3, 0)
    assert thin(np.ones((3, 1001)), 300).shape[1] <= 300


def test_bars_hold_all_seconds(two):
    for by_round, labels in (
        (True, ["a, round 0", "a, round 1", "b, round 0", "b, round 1"]),
        (False, ["a", "b"]),
    ):
        bars = make_bars(two, by_round)
        assert [bar.label for bar in bars] == labels
        total = sum(sum(bar.stages.values()) for bar in bars)
        assert total == sum(sum(record.seconds.values()) for record in two)
        assert bars[-1].parts == {"neighbors": 0.5, "partition": 1.5, "other": 1.0}


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"full", "all"}))
def test_every_part_of_a_selection_has_a_place(strategy, random_pairs):
    config = SelectionConfig(strategy=strategy, hardness={"margin": 0.1})
    seconds = choose(random_pairs, 8, 0.1, config).fields["seconds"]
    assert {stage.removesuffix("_s") for stage in seconds} <= PART_OF.keys()


def test_command(make_run, tmp_path, capsys):
    out = tmp_path / "reports" / "page.html"
    assert main(["report", str(make_run()), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.read_text().startswith("<!doctype html>")
    assert not [path for path in out.parent.iterdir() if path != out]


def test_wrong_input(make_run, tmp_path, capsys):
    root = make_run()
    with pytest.raises(ConfigError, match="is there twice"):
        write_report([root, root.parent / "x" / ".." / root.name], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="is a folder"):
        write_report([root], tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert "no run" in capsys.readouterr().err


def test_a_schedule_that_is_gone_takes_its_examples_along(make_run):
    """As after a damaged one was deleted, which a finished run does not make again."""
    root = make_run()
    shutil.rmtree(root / "schedules" / "round-00001")
    page = render([read_record(root)])
    assert "made without embeddings" in page
    assert "<small>round 0, random batches</small>" in page


def test_a_page_has_no_place_inside_a_file(make_run, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(["report", str(make_run()), "--out", str(tmp_path / "notes.txt/page.html")]) == 2
    assert "--out:" in capsys.readouterr().err
