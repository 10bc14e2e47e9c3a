"""How seconds and memory of a strategy grow with the number of pairs; a part of the report of `selection.py` here."""

import math
import statistics
from itertools import pairwise
from typing import Any


def describe_growth(rows: list[dict[str, Any]]) -> list[str]:
    """How seconds grow with N, and memory beside the data, of whatever was done at several N of one kind."""
    lines = []
    rows = [row for row in rows if "error" not in row]
    for key in dict.fromkeys(map(growth_key, rows)):
        group = sorted((r for r in rows if growth_key(r) == key), key=lambda r: r["num_pairs"])
        if len(group) < 2:
            continue
        kind, batch_size, strategy = key
        lines += [
            "",
            f"## Growth: {strategy}, {kind}, B = {batch_size}",
            "",
            "| pairs | neighbours s | graph s | partition s | total s | peak / (U, V, graph) | without imports |",
            "|---|---|---|---|---|---|---|",
            *(growth_line(row) for row in group),
            "",
            *(describe_pace(small, large) for small, large in pairwise(group)),
        ]
    return lines


def growth_key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["data"].partition(":")[0], row["batch_size"], row["strategy"]


def stage_seconds(row: dict[str, Any]) -> tuple[float, float, float]:
    """Neighbours, graph, partition."""
    return (
        row["neighbors_s"], row["stages_s"]["affinity_s"], statistics.median(row["partition_s"]),
    )  # fmt: skip


def growth_line(row: dict[str, Any]) -> str:
    seconds = stage_seconds(row)
    stages = " | ".join(f"{value:.1f}" for value in (*seconds, sum(seconds)))
    ours = row["peak_bytes"] - row["import_bytes"]
    return (
        f"| {row['num_pairs']:,} | {stages} | {row['peak_bytes'] / row['data_bytes']:.2f} "
        f"| {ours / row['data_bytes']:.2f} |"
    )


def describe_pace(small: dict[str, Any], large: dict[str, Any]) -> str:
    """The power of N with which the total seconds grow."""
    sizes = [(row["num_pairs"], sum(stage_seconds(row))) for row in (small, large)]
    seconds, power = sizes[1][1] / sizes[0][1], growth_power(*sizes)
    pairs = f"{small['num_pairs']:,} to {large['num_pairs']:,} pairs"
    return f"{pairs}: total seconds {seconds:.1f} times as many, they grow as N^{power:.2f}."


def growth_power(small: tuple[int, float], large: tuple[int, float]) -> float:
    """The p of seconds ~ N^p, from (N, seconds) at two sizes."""
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])
