"""The comparison of strategies, small: the table that it writes has the columns and the order that are told of it."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_strategies_side_by_side(tmp_path):
    words = "--data power:1100 --name small --batch-sizes 16 --strategies random metis spectral --repeats 1"
    command = [sys.executable, "-m", "benchmarks.selection", *words.split()]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    found = json.loads((tmp_path / "selection-small.json").read_text())
    assert {"cpu", "GiB", "commit", "faiss-cpu", "pymetis"} <= found["machine"].keys()
    rows = {row["strategy"]: row for row in found["rows"]}
    assert {row["num_pairs"] for row in found["rows"]} == {1024}
    assert all(row["exact_share"] == row["used_share"] == 1 for row in found["rows"])
    for figure in ("captured", "loss"):
        assert rows["random"][figure] < rows["metis"][figure] < rows["spectral"][figure]
    assert rows["spectral"]["peak_bytes"] > rows["spectral"]["data_bytes"] > 2 * 1024 * 64 * 4
    page = (tmp_path / "selection-small.md").read_text()
    assert (
        "| strategy | exact | used | captured | loss | p5 | p95 | graph s | partition s |" in page
    )
    assert "spectral against the best peer: captured 1." in page
    assert (tmp_path / "selection-small.png").read_bytes()[:4] == b"\x89PNG"


def test_a_whole_selection_and_how_it_grows():
    command = [sys.executable, "-m", "benchmarks.whole", "equal:1000", "equal:4010"]
    done = subprocess.run([*command, "--batch-size", "16"], check=True, capture_output=True)
    header, _, small, large, growth = done.stdout.decode().splitlines()
    stages = {"duplicates_s", "neighbors_s", "affinity_s", "partition_s", "swap_s", "measure_s"}
    assert stages <= set(header.split(" | "))
    total, peak, ratio = (
        float(cell.replace(",", "")) for cell in large.strip("| ").split(" | ")[-3:]
    )
    assert total > 0
    assert ratio == pytest.approx(peak * 2**20 / (4010 * (2 * 64 * 4 + 70 * 8)), rel=0.3)
    assert small.startswith("| equal:1000 |")
    assert growth.startswith("equal:1000 to equal:4010: N^")
