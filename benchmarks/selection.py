"""Every strategy on the same embeddings and the same graph: quality of the batches, seconds, memory.

    make bench-selection                                    # 10^4 pairs; with --repeats 1 five minutes
    python -m benchmarks.selection --size full              # N up to 10^6, hours
    python -m benchmarks.selection --size growth --repeats 1  # how seconds and memory of `spectral` grow with N
    python -m benchmarks.selection --data code-search:data/code-search --batch-sizes 64

Data sets: `equal:N`, `power:N`, `none:N` are mixtures (`benchmarks/datasets.py`), `code-search:FOLDER` takes TF-IDF
embeddings of what `coterie dataset code-search FOLDER` wrote, `lines:N` those of lines of the installed Python packages
and of the lines that follow them, `run:FOLDER` the newest embeddings of a run. Neighbours are found once per data set,
with `--faiss` also by FAISS alone; every strategy then runs in a process of its own, with the settings that are
Coterie's defaults, but `metis` is k-way, `metis:recursive` bisects, KaMinPar gets all threads. Without a look for
duplicates, of which mixtures have none. Writes results/selection-NAME.{json,md,png}.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.datasets import embeddings
from benchmarks.faiss_alone import search_with_faiss
from benchmarks.growth import describe_growth
from benchmarks.plots import plot_strategies
from selection.config import GraphConfig
from selection.knn import find_neighbors

RESULTS = Path(__file__).parent / "results"
LARGEST_BATCH = 256  # N is cut to a multiple, so that every batch size divides it
SCALABLE = [
    "random", "osgd", "rcm", "random_walk", "kmeans", "metis", "metis:recursive",
    "kaminpar:largek", "kaminpar:default", "kaminpar:strong", "spectral",
]  # fmt: skip
DENSE = ["paper_spectral"]  # 40 x B nodes at a time; minutes beyond these
MOST_DENSE, LARGEST_DENSE_BATCH = 100_000, 64
PEERS = ("metis", "kaminpar")
COLUMNS = (
    "strategy", "exact", "used", "captured", "loss", "p5", "p95", "graph s", "partition s", "peak MiB",
    "peak / (U, V, graph)",
)  # fmt: skip
PACKAGES = ("numpy", "scipy", "numba", "faiss-cpu", "pymetis", "kaminpar")
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"data": ["equal:10000", "power:10000", "none:10000"], "batch_sizes": [32, 64, 256]},
    "full": {
        "data": [
            f"{kind}:{n}"
            for n in (10_000, 100_000, 1_000_000)
            for kind in ("equal", "power", "none")
        ],
        "batch_sizes": [32, 64, 256],
    },
    "growth": {
        "data": ["power:100000", "power:1000000"],
        "batch_sizes": [64],
        "strategies": ["spectral"],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--batch-sizes", nargs="+", type=int)
    parser.add_argument("--strategies", nargs="+")
    parser.add_argument("--faiss", action="store_true", help="time the search by FAISS alone, too")
    parser.add_argument("--min-recall", type=float, default=GraphConfig().min_recall)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", help="of the result files (default: the size)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="their folder")
    args = parser.parse_args()
    plan = SIZES[args.size]
    rows: list[dict[str, Any]] = []
    for data in args.data or plan["data"]:
        with tempfile.TemporaryDirectory() as folder:
            found = prepare(data, Path(folder), args.min_recall, args.faiss)
            for batch_size in args.batch_sizes or plan["batch_sizes"]:
                names = (
                    args.strategies
                    or plan.get("strategies")
                    or SCALABLE
                    + DENSE
                    * (found["num_pairs"] <= MOST_DENSE and batch_size <= LARGEST_DENSE_BATCH)
                )
                for name in names:
                    case = run_case(Path(folder), name, batch_size, args.repeats)
                    rows.append(
                        {
                            "data": label(data),
                            "batch_size": batch_size,
                            "strategy": name,
                            **found,
                            **case,
                        }
                    )
                    print(f"{data}  B = {batch_size}  {name}: {summary(rows[-1])}", flush=True)
                report(rows, args.out, args.name or args.size)


def label(data: str) -> str:
    """The data set without the place where it lies."""
    kind, _, value = data.partition(":")
    return data if value.isdigit() else kind


def prepare(data: str, folder: Path, min_recall: float, with_faiss: bool) -> dict[str, Any]:
    """Write embeddings and neighbours to `folder`; say how long they took beside FAISS alone."""
    U, V = embeddings(data)
    num_pairs = len(U) // LARGEST_BATCH * LARGEST_BATCH
    U, V = U[:num_pairs], V[:num_pairs]
    find_neighbors(U[:LARGEST_BATCH], V[:LARGEST_BATCH], GraphConfig(index="ivf"))  # Numba compiles
    start = time.perf_counter()
    neighbors = find_neighbors(U, V, GraphConfig(min_recall=min_recall))
    seconds = time.perf_counter() - start
    for name, rows in (
        ("U", U),
        ("V", V),
        ("v_of_u", neighbors.v_of_u),
        ("u_of_v", neighbors.u_of_v),
    ):
        np.save(folder / f"{name}.npy", rows)
    k, recall = neighbors.v_of_u.shape[1], neighbors.recall
    alone = {"faiss_s": search_with_faiss(U, V, k, recall)} if with_faiss else {}
    return {
        **alone,
        "num_pairs": num_pairs,
        "dim": U.shape[1],
        "index": neighbors.index,
        "recall": neighbors.recall,
        "neighbors_s": seconds,
    }


def run_case(folder: Path, name: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """What `selection_case.py` prints; an error becomes a row that says so."""
    command = [sys.executable, "-m", "benchmarks.selection_case", str(folder), name]
    result = subprocess.run(
        [*command, str(batch_size), str(repeats)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        return {"error": result.stderr.strip().splitlines()[-1]}
    return json.loads(result.stdout.splitlines()[-1])


def summary(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"]
    return (
        f"captured {row['captured']:.4f}, loss {row['loss']:.4f}, "
        f"{statistics.median(row['partition_s']):.2f} s, {row['peak_bytes'] / 2**20:,.0f} MiB"
    )


def report(rows: list[dict[str, Any]], folder: Path, name: str) -> None:
    """Write the rows, a table and a plot."""
    folder.mkdir(exist_ok=True)
    machine = describe_machine()
    path = folder / f"selection-{name}"
    path.with_suffix(".json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    path.with_suffix(".md").write_text(to_markdown(rows, machine))
    plot_strategies(rows, path.with_suffix(".png"))


def describe_machine() -> dict[str, Any]:
    """Processor, memory, versions, and the commit that is measured."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False, cwd=RESULTS)
    return {
        "cpu": found[1] if found else platform.machine(),
        "cores": os.cpu_count(),
        "GiB": round(psutil.virtual_memory().total / 2**30),
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def to_markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """A table per data set and batch size, and how `spectral` compares with the best peer."""
    lines = ["# Strategies side by side", "", ", ".join(f"{k} {v}" for k, v in machine.items())]
    for key in dict.fromkeys((row["data"], row["batch_size"]) for row in rows):
        group = [row for row in rows if (row["data"], row["batch_size"]) == key]
        first = group[0]
        lines += [
            "",
            f"## {key[0]}, B = {key[1]}",
            "",
            describe_neighbors(first),
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---" * len(COLUMNS) + "|",
            *(table_line(row) for row in group),
            "",
            *compare_with_peers(group),
        ]
    lines += describe_growth(rows)
    return "\n".join(lines) + "\n"


def describe_neighbors(row: dict[str, Any]) -> str:
    line = (
        f"{row['num_pairs']:,} pairs, d = {row['dim']}; neighbours by {row['index']} in {row['neighbors_s']:.1f} s, "
        f"recall {row['recall']:.3f}"
    )
    if "faiss_s" in row:
        line += f", {row['neighbors_s'] / row['faiss_s']:.2f} times FAISS alone"
    return line


def table_line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {row['strategy']} | {row['error']} |" + " |" * 9
    return (
        f"| {row['strategy']} | {row['exact_share']:.0%} | {row['used_share']:.1%} | {row['captured']:.4f} "
        f"| {row['loss']:.4f} | {row['loss_p5']:.3f} | {row['loss_p95']:.3f} | {row['stages_s']['affinity_s']:.2f} "
        f"| {statistics.median(row['partition_s']):.2f} | {row['peak_bytes'] / 2**20:,.0f} "
        f"| {row['peak_bytes'] / row['data_bytes']:.2f} |"
    )


def compare_with_peers(group: list[dict[str, Any]]) -> list[str]:
    """One line: captured affinity, loss and seconds of `spectral` relative to METIS and KaMinPar."""
    rows = {row["strategy"]: row for row in group if "error" not in row}
    peers = [row for name, row in rows.items() if name.split(":")[0] in PEERS]
    if not peers or "spectral" not in rows or "metis" not in rows:
        return []
    ours = rows["spectral"]
    seconds = {name: statistics.median(row["partition_s"]) for name, row in rows.items()}
    line = (
        f"spectral against the best peer: captured {ours['captured'] / max(p['captured'] for p in peers):.3f}, "
        f"loss {ours['loss'] / max(p['loss'] for p in peers):.4f}; seconds against METIS k-way "
        f"{seconds['spectral'] / seconds['metis']:.2f}"
    )
    if "kaminpar:largek" in seconds:
        line += f", against KaMinPar largek {seconds['spectral'] / seconds['kaminpar:largek']:.2f}"
    return [line + "."]


if __name__ == "__main__":
    main()
