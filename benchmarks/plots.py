"""Pictures of benchmark results."""

import statistics
from pathlib import Path
from typing import Any

MARKERS = "osv^DPphX"
OURS = {"color": "black", "marker": "*", "s": 160, "zorder": 3}


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
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    for panel, key in zip(axes.flat, keys, strict=False):
        for row in rows:
            if (row["data"], row["batch_size"]) == key and "error" not in row:
                panel.scatter(
                    max(1e-3, statistics.median(row["partition_s"])),
                    row["loss"],
                    label=row["strategy"],
                    **_look(row["strategy"], names),
                )
        panel.set(
            xscale="log", xlabel="seconds of the partition", ylabel="loss of the batches",
            title=f"{key[0]}, B = {key[1]}",
        )  # fmt: skip
    handles = {
        label: handle
        for panel in axes.flat
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _look(strategy: str, names: list[str]) -> dict[str, Any]:
    """A colour for each engine, a marker for each of its presets, and a star for ours."""
    if strategy == "spectral":
        return OURS
    engine, engines = strategy.split(":")[0], [name.split(":")[0] for name in names]
    number = list(dict.fromkeys(engines)).index(engine)
    preset = engines[: names.index(strategy)].count(engine)
    return {"color": f"C{number % 10}", "marker": MARKERS[preset]}
