"""One strategy on one graph, in a process of its own so that its memory can be measured; see `selection.py` here.

    python -m benchmarks.selection_case FOLDER STRATEGY BATCH_SIZE REPEATS

FOLDER holds U.npy, V.npy, v_of_u.npy and u_of_v.npy of a number of pairs that the batch size divides. A variant follows
the strategy's name, as in `kaminpar:strong` or `metis:recursive`. Prints one line of JSON.
"""

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from jaxtyping import Int64

from benchmarks.datasets import mixture
from selection.config import SelectionConfig
from selection.knn import MAX_FLAT_PAIRS, Neighbors
from selection.problem import Problem
from selection.quality import batch_losses, captured_affinity
from selection.select import choose
from selection.strategies import STRATEGIES
from selection.threads import num_threads, one_blas_thread, thread_map

TEMPERATURE = 0.07
_MOST_BATCHES_JUDGED = 4096


def main() -> None:
    folder, name, batch_size, repeats = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    config = strategy_config(name)
    warm_up(batch_size, config)
    import_bytes = psutil.Process().memory_info().rss
    U, V, v_of_u, u_of_v = (
        np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("U", "V", "v_of_u", "u_of_v")
    )
    problem = Problem(U, V, batch_size, batch_size, TEMPERATURE, config, (0, 1), thread_map)
    problem.__dict__["neighbors"] = Neighbors(
        v_of_u, u_of_v, 1.0
    )  # they were found once for all strategies
    affinity = problem.affinity
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        batches = STRATEGIES[config.strategy](problem)
        seconds.append(time.perf_counter() - start)
    peak = peak_bytes()
    graph_bytes = affinity.data.nbytes + affinity.indices.nbytes + affinity.indptr.nbytes
    few = batches[np.random.default_rng(0).permutation(len(batches))[:_MOST_BATCHES_JUDGED]]
    with one_blas_thread():
        losses = batch_losses(U, V, few, TEMPERATURE)
    result: dict[str, Any] = {
        "partition_s": seconds,
        "stages_s": problem.seconds,
        "exact_share": share_of_exact(batches, batch_size),
        "used_share": len(np.unique(batches)) / len(U),
        "captured": captured_affinity(affinity, batches),
        "loss": float(losses.mean()),
        "loss_p5": float(np.percentile(losses, 5)),
        "loss_p95": float(np.percentile(losses, 95)),
        "peak_bytes": peak,
        "import_bytes": import_bytes,
        "data_bytes": U.nbytes + V.nbytes + graph_bytes,
        "graph_entries": affinity.nnz,
        "num_threads": num_threads(),
    }
    print(json.dumps(result))


def warm_up(batch_size: int, config: SelectionConfig, num_left_over: int = 0) -> None:
    """Let Numba compile, for rows that are mapped as those to come, or copied, where some are left over."""
    num_pairs = max(40, 1 + MAX_FLAT_PAIRS // batch_size) * batch_size + num_left_over
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in zip("UV", mixture("equal", num_pairs), strict=True):
            np.save(f"{folder}/{name}.npy", rows)
        sides = [np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in "UV"]
        choose((sides[0], sides[1]), batch_size, TEMPERATURE, config)
        # not every strategy looks at the graph, but all measurements do
        _ = Problem(
            sides[0], sides[1], batch_size, batch_size, TEMPERATURE, config, (0, 1)
        ).affinity


def peak_bytes() -> int:
    """Most memory that this process has held; `ru_maxrss` would count what the one that started it held."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def share_of_exact(batches: Int64[np.ndarray, "m b"], batch_size: int) -> float:
    """Share of the batches that hold exactly B different pairs."""
    ids = np.sort(batches, axis=1)
    return float(((ids[:, 1:] != ids[:, :-1]).sum(axis=1) == batch_size - 1).mean())


def strategy_config(name: str) -> SelectionConfig:
    """The configuration of a strategy and its variant; everything else as it is by default."""
    strategy, _, variant = name.partition(":")
    values: dict[str, Any] = {"strategy": strategy}
    if strategy == "kaminpar":
        values["kaminpar"] = {"preset": variant or "largek", "num_threads": num_threads()}
    if strategy == "metis":
        values["metis"] = {"recursive": variant == "recursive"}
    return SelectionConfig.model_validate(values)


if __name__ == "__main__":
    main()
