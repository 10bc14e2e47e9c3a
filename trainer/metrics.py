"""What training reports: one JSON line per log step, and the same numbers for TensorBoard.

Only rank 0 writes. A run that goes on from a checkpoint takes back the lines after it, so that each step is in the
file once. Sums since the last line are not part of a checkpoint, so a line is also written before each one; then a
run that goes on after a crash writes the lines that an uninterrupted run would have written. One that was asked to stop
has a line more, where it stopped, and the next one is the mean of fewer steps.
"""

import json
import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from selection.artifacts import atomic_file
from selection.errors import JobError

FILE = "train.jsonl"


class MetricsLog:
    """Appends metrics to `train.jsonl` and to TensorBoard's files, both in one folder.

    Args:
        folder: of both.
        step: after which the run goes on; what was logged beyond it is taken back.
        check: called before anything is written; raises when the run belongs to somebody else.
    """

    def __init__(self, folder: Path, step: int, check: Callable[[], None] = lambda: None) -> None:
        check()
        self._check = check
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        cut_lines(self._path, step)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log `metrics` after `step` batches; names are `group/name_unit`, others are for the file alone."""
        self._check()
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics, "time": time.time()}) + "\n")
        for name, value in metrics.items():
            if "/" in name:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._writer.close()


def cut_lines(path: Path, step: int) -> None:
    """Remove the lines after `step`, and a torn one, from a metrics file, which need not exist."""
    if not path.is_file():
        return
    text = path.read_text()
    kept = [line for line in _whole_lines(text) if line["step"] <= step]
    kept_text = "".join(json.dumps(line) + "\n" for line in kept)
    if kept_text != text:
        with atomic_file(path, "w") as file:
            file.write(kept_text)


def check_finite(value: float, name: str, last_step: int, num_steps: int = 1) -> None:
    """Stop a run whose loss or gradient is not a number, before a checkpoint holds what comes of it.

    Args:
        value: of the metric.
        name: of the metric.
        last_step: of those that it was taken over.
        num_steps: how many they are.

    Raises:
        JobError: it is not.
    """
    if not math.isfinite(value):
        steps = f"steps {last_step - num_steps + 1} to " if num_steps > 1 else "step "
        raise JobError(
            f"{name} is {value} in {steps}{last_step}, expected a finite number; begin another run_dir with "
            "a lower train.optimizer.lr, more warmup_steps, or a higher train.min_temperature"
        )


def peak_memory_gib(device: torch.device) -> float:
    """Most memory this rank has held: of its GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB


@dataclass
class Window:
    """Sums over the steps since the last log line."""

    loss_sum: torch.Tensor
    norm_sum: torch.Tensor
    """Of the gradients' norms; not finite if one of them was not."""

    start_s: float
    num_steps: int = 0

    @classmethod
    def open(cls, device: torch.device) -> "Window":
        """An empty window."""
        loss_sum, norm_sum = torch.zeros((2,), device=device)
        return cls(loss_sum, norm_sum, time.perf_counter())

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Count a step; without waiting for a GPU."""
        self.loss_sum += loss.detach()
        self.norm_sum += norm.detach()
        self.num_steps += 1

    def elapsed_s(self) -> float:
        """Seconds since the window was opened."""
        return time.perf_counter() - self.start_s


def _whole_lines(text: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
