"""The multilevel graph partitioners that peers use, through their own packages.

Both coarsen the graph, cut the small one and refine the cut on the way back, on one machine. They are given the
affinity as integers and asked for N / B parts of B nodes. Neither promises exact sizes on a weighted graph, so what is
over is moved: first the nodes with the least affinity inside their part, each to where it has most.

METIS (Karypis and Kumar 1998) is what B3 (arXiv 2505.11293) runs, direct k-way on edges without weights. Its recipe is
`metis.recursive=false`, `graph.mutual=true`, `graph.first_rank=30`, `graph.num_neighbors=100` and small clusters that
are packed, `hardness.cluster_size=32`. Where B3 fills short parts with arbitrary nodes, some of them twice, here each
is in one place.
KaMinPar (Gottesbueren et al. 2021, github.com/KaHIP/KaMinPar) is made for many parts.

Both are deterministic: METIS has one thread, and KaMinPar is given one unless the configuration says otherwise. Both
copy the graph with 64-bit numbers, about 16 bytes per entry and as many for the coarser ones; KaMinPar's copy goes
through a temporary file of that size.

Legend: n nodes, e entries of the affinity, c groups, k group size, o nodes that are too many in their part.
"""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int64

from selection.config import KaminparConfig, MetisConfig, Settings
from selection.errors import ConfigError
from selection.mending import mended
from selection.problem import Problem

_FEWEST_FOR_KWAY = 64  # with groups of 32, k-way captured half of what bisection did
_LARGEST_WEIGHT = 1000
_PARHIP_HEADER_BYTES = 24
_PARHIP_NO_NODE_WEIGHTS = 2


def metis(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """METIS on the affinity, mended to exact sizes.

    Raises:
        ConfigError: the package is missing.
    """
    return _cut(problem, metis_parts, problem.config.metis)


def kaminpar(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """KaMinPar on the affinity with exact limits, mended should a part be too small.

    Raises:
        ConfigError: the package is missing.
    """
    return _cut(problem, kaminpar_parts, problem.config.kaminpar)


def _cut(problem: Problem, find_parts: Callable, config: Settings) -> Int64[np.ndarray, "c k"]:
    """Groups of the parts that `find_parts` cuts the affinity into."""
    affinity, group_size = problem.affinity, problem.group_size
    seed = int(problem.rng().integers(1 << 31))
    with problem.timed("partition_s"):
        return mended(affinity, find_parts(affinity, group_size, config, seed), group_size)


def metis_parts(
    affinity: sp.csr_array, group_size: int, config: MetisConfig, seed: int
) -> Int64[np.ndarray, "n"]:
    """The part of each node, as METIS cuts; sizes are near `group_size`.

    Raises:
        ConfigError: the package is missing.
    """
    engine = require("metis", "pymetis")
    bisects = group_size < _FEWEST_FOR_KWAY if config.recursive is None else config.recursive
    _, parts = engine.part_graph(
        affinity.shape[0] // group_size,
        adjacency=engine.CSRAdjacency(affinity.indptr, affinity.indices),
        eweights=integers(affinity),
        recursive=bisects,
        options=engine.Options(seed=seed),
    )
    return np.asarray(parts, np.int64)


def kaminpar_parts(
    affinity: sp.csr_array, group_size: int, config: KaminparConfig, seed: int
) -> Int64[np.ndarray, "n"]:
    """The part of each node, as KaMinPar cuts with at most `group_size` nodes in a part.

    Its Python package reads a graph from a file alone; the binary one needs no line per node.

    Raises:
        ConfigError: the package is missing.
    """
    engine = require("kaminpar", "kaminpar")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.parhip"
        _write_parhip(path, affinity)
        graph = engine.load_graph(str(path), engine.GraphFileFormat.PARHIP)
    engine.reseed(seed)
    context = getattr(engine, f"{config.preset}_context")()
    limits = [group_size] * (affinity.shape[0] // group_size)
    parts = engine.KaMinPar(config.num_threads, context).compute_partition(graph, limits)
    return np.asarray(parts, np.int64)


def _write_parhip(path: Path, affinity: sp.csr_array) -> None:
    """The graph in ParHIP's binary format, 64 bits for everything, as KaMinPar's `parhip_parser.cc` reads it."""
    num_nodes, num_entries = affinity.shape[0], affinity.nnz
    header = np.array([_PARHIP_NO_NODE_WEIGHTS, num_nodes, num_entries], np.uint64)
    first_bytes = _PARHIP_HEADER_BYTES + 8 * (num_nodes + 1) + 8 * affinity.indptr.astype(np.uint64)
    with path.open("wb") as file:
        for array in (header, first_bytes, affinity.indices.astype(np.uint64), integers(affinity)):
            array.tofile(file)


def integers(affinity: sp.csr_array) -> Int64[np.ndarray, "e"]:
    """The weights as whole numbers from 1 to 1000."""
    scale = _LARGEST_WEIGHT / affinity.data.max(initial=1e-30)
    return np.maximum(1, np.rint(affinity.data * scale)).astype(np.int64)


def require(strategy: str, package: str) -> ModuleType:
    """Import the package that a strategy needs.

    Raises:
        ConfigError: it is missing.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"strategy: {strategy} needs the package {package}; pip install {package}, or Coterie's extra [bench]"
        ) from None
