"""Runs a function in several real processes that form one gloo group.

    results = run_ranks(rank_programs.loss_gradients, 2, tmp_path, dtype="float64")

Each rank is a fresh interpreter with the five variables that Ray Train and torchrun set. Arguments travel as JSON,
results as torch files. A rank that fails, or a group that hangs, fails the test with the end of the rank's output.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def run_ranks(
    program: Callable[..., Any],
    world_size: int,
    folder: Path,
    timeout_s: float = 150,
    **arguments: Any,
) -> list[Any]:
    """Call `program(**arguments)` on every rank and return what each returned."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    port = _free_port()
    ranks = [_start(program, rank, world_size, port, folder) for rank in range(world_size)]
    try:
        _wait(ranks, folder, time.monotonic() + timeout_s)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [torch.load(folder / f"result-{rank}.pt") for rank in range(world_size)]


def _start(
    program: Callable[..., Any], rank: int, world_size: int, port: int, folder: Path
) -> subprocess.Popen:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "tests.distributed.run_ranks",
        program.__module__,
        program.__name__,
        str(folder),
    ]
    with (folder / f"output-{rank}.txt").open("w") as output:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)


def _wait(ranks: list[subprocess.Popen], folder: Path, give_up_s: float) -> None:
    while (codes := [rank.poll() for rank in ranks]) != [0] * len(ranks):
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed or time.monotonic() > give_up_s:
            rank = failed[0] if failed else codes.index(None)
            output = (folder / f"output-{rank}.txt").read_text()[-3000:]
            raise AssertionError(f"rank {rank}: {'failed' if failed else 'hung'}\n{output}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    module, function, folder = sys.argv[1:]
    program = getattr(importlib.import_module(module), function)
    arguments = json.loads((Path(folder) / "arguments.json").read_text())
    result = program(**arguments)
    torch.save(result, Path(folder) / f"result-{os.environ['RANK']}.pt")
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end, where gloo's threads abort the process now and then: programs that crash their
    # own training keep what a rank that crashes in earnest would not live to keep.
    os._exit(0)


if __name__ == "__main__":
    main()
