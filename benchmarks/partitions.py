"""Partitions of one graph, side by side: affinity captured, true loss of the batches, seconds.

    pip install -c constraints.txt -e '.[cpu,bench]'
    python benchmarks/partitions.py U.npy V.npy --batch-size 64 --num-neighbors 32

METIS and KaMinPar get the affinity as integers, as they want it. Parts that METIS left too large or too small are
mended with the nodes that are over, as B3 does; KaMinPar is given exact limits. N is cut to a multiple of B.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from launcher.select import read_embeddings
from selection.affinity import build_affinity
from selection.config import GraphConfig, SpectralConfig
from selection.exact_swap import exact_swaps
from selection.knn import find_neighbors
from selection.partition import partition
from selection.quality import batch_losses, captured_affinity, random_batches
from selection.refine import swap_refine

WEIGHT_SCALE = 10
KAMINPAR_PRESETS = ("largek", "default", "largek_strong", "strong")


def metis(affinity, batch_size):
    import pymetis

    num_parts = affinity.shape[0] // batch_size
    adjacency = pymetis.CSRAdjacency(affinity.indptr, affinity.indices)
    _, parts = pymetis.part_graph(num_parts, adjacency=adjacency, eweights=integers(affinity))
    return mended(np.asarray(parts), num_parts, batch_size)


def kaminpar(affinity, batch_size, preset):
    import kaminpar as engine

    num_parts = affinity.shape[0] // batch_size
    weights = integers(affinity)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.metis"
        with path.open("w") as file:
            file.write(f"{affinity.shape[0]} {affinity.nnz // 2} 001\n")
            for start, stop in zip(affinity.indptr, affinity.indptr[1:], strict=False):
                row = zip(affinity.indices[start:stop] + 1, weights[start:stop], strict=True)
                file.write(" ".join(f"{i} {w}" for i, w in row) + "\n")
        graph = engine.load_graph(str(path), engine.GraphFileFormat.METIS)
    context = getattr(engine, f"{preset}_context")()
    start = time.perf_counter()
    parts = engine.KaMinPar(2, context).compute_partition(graph, [batch_size] * num_parts)
    return mended(np.asarray(parts), num_parts, batch_size), time.perf_counter() - start


def integers(affinity):
    return np.maximum(1, np.round(affinity.data * WEIGHT_SCALE)).astype(np.int64)


def mended(parts, num_parts, batch_size):
    """Parts of exactly `batch_size`: what is over goes where there is room."""
    order = np.argsort(parts, kind="stable")
    starts = np.searchsorted(parts[order], np.arange(num_parts))
    over = np.arange(len(parts)) - starts[parts[order]] >= batch_size
    parts = parts.copy()
    room = batch_size - np.minimum(np.bincount(parts, minlength=num_parts), batch_size)
    parts[order[over]] = np.repeat(np.arange(num_parts), room)
    return np.argsort(parts, kind="stable").reshape(num_parts, batch_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs=2, type=Path)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-neighbors", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=0.07)
    args = parser.parse_args()
    B, t = args.batch_size, args.temperature
    U, V = (rows[: len(rows) // B * B] for rows in map(read_embeddings, args.files))
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=args.num_neighbors, index="flat"))
    affinity = build_affinity(U, V, neighbors, B, t)

    def show(name, batches, seconds):
        captured, loss = captured_affinity(affinity, batches), batch_losses(U, V, batches, t).mean()
        print(f"| {name} | {captured:.4f} | {loss:.4f} | {seconds:.1f} |", flush=True)

    def timed(name, function, *arguments):
        start = time.perf_counter()
        batches = function(*arguments)
        show(name, batches, time.perf_counter() - start)
        return batches

    config = SpectralConfig()
    warm = partition(affinity[: 32 * B][:, : 32 * B], B, config, (0,))  # numba compiles here
    exact_swaps(affinity, U, V, warm_start(warm, len(U), B), t, config.affinity_share, 1)
    print(
        f"{len(U):,} pairs, {affinity.nnz:,} entries\n\n| method | captured | loss | s |\n|---|---|---|---|"
    )
    show("random", random_batches(len(U), B, len(U) // B, np.random.default_rng(0)), 0)
    timed("METIS k-way, mended", metis, affinity, B)
    for preset in KAMINPAR_PRESETS:
        show(f"KaMinPar {preset}", *kaminpar(affinity, B, preset))
    batches = timed("spectral, exchange", partition, affinity, B, config, (0,))
    batches = timed("then 4 sweeps of swaps", swap_refine, affinity, batches, 4)
    timed("then 2 exact sweeps", exact_swaps, affinity, U, V, batches, t, config.affinity_share, 2)


def warm_start(batches, num_nodes, batch_size):
    rest = np.arange(batches.size, num_nodes).reshape(-1, batch_size)
    return np.concatenate([batches, rest])


if __name__ == "__main__":
    main()
