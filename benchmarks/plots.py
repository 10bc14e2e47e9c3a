"""Pictures of benchmark results."""

import statistics
from pathlib import Path
from typing import Any

COLORS = {"spectral": "tab:red", "metis": "tab:blue", "kaminpar": "tab:green", "random": "black"}


def plot_strategies(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel per data set and batch size: loss of the batches over seconds of the partition."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = list(dict.fromkeys((row["data"], row["batch_size"]) for row in rows))
    width = min(3, len(keys))
    height = -(-len(keys) // width)
    figure, axes = pyplot.subplots(
        height, width, figsize=(5 * width, 3.6 * height), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(keys) :]:
        panel.axis("off")
    for panel, key in zip(axes.flat, keys, strict=False):
        for row in rows:
            if (row["data"], row["batch_size"]) == key and "error" not in row:
                seconds = max(1e-3, statistics.median(row["partition_s"]))
                color = COLORS.get(row["strategy"].split(":")[0], "tab:gray")
                panel.scatter(seconds, row["loss"], color=color)
                panel.annotate(
                    row["strategy"],
                    (seconds, row["loss"]),
                    (4, 3),
                    textcoords="offset points",
                    fontsize=7,
                )
        panel.set(
            xscale="log", xlabel="seconds of the partition", ylabel="loss of the batches",
            title=f"{key[0]}, B = {key[1]}",
        )  # fmt: skip
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
