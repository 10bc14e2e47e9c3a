"""Notes the embeddings that training computes, so that selection need not compute them again.

An epoch shows every pair of the schedule once; pairs that were left over are embedded at its end. It is the last epoch
of a round, or the first where the next schedule is selected while the others are trained. What a rank has noted goes to
a file before each checkpoint is complete, so that a run which goes on from one has the rest. See
`selection/collected.py` for what becomes of it. Memory per rank: N / W rows of u and v at most, on the CPU.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from selection.collected import write_collected
from trainer.data import RankSampler, RankStep
from trainer.encoders import Collate, PairReader, to_device
from trainer.engine import Engine

_AT_ONCE = 256


class Collector:
    """What one rank has noted since the last checkpoint.

    Args:
        folder: of the round.
        steps: what this rank reads at each step, from where training is.
        noted: which of them are noted, counted from there.
    """

    def __init__(self, folder: Path, steps: RankSampler, noted: range) -> None:
        self._folder = folder
        self._steps: Iterator[tuple[int, RankStep]] = enumerate(steps)
        self._noted = noted
        self._ids: list[np.ndarray] = []
        self._rows: list[Float[Tensor, "2 b d"]] = []

    def note(self, u: Float[Tensor, "b d"], v: Float[Tensor, "b d"]) -> None:
        """Note the embeddings of a step; called once at every step."""
        number, step = next(self._steps)
        if number not in self._noted:
            return
        self._ids.append(np.asarray(step.ids))
        if self._rows:  # one step behind, so that a GPU holds no more than the rows of two
            self._rows[-1] = self._rows[-1].cpu()
        self._rows.append(torch.stack([u.detach(), v.detach()]))

    def embed(
        self, engine: Engine, pairs: PairReader, collate: Collate, ids: Int64[np.ndarray, "n"]
    ) -> None:
        """Embed and note pairs that training did not show; all ranks call this with the same ids.

        Args:
            engine: the model as it is now.
            pairs: the data set.
            collate: of the encoder.
            ids: of the pairs; every rank takes its share.
        """
        if not len(ids):
            return
        rank, world_size = dist.get_rank(), dist.get_world_size()
        # At ZeRO stage 3 the ranks compute together, so each needs as many batches; some pairs are embedded twice.
        own = np.resize(ids, -(-len(ids) // world_size) * world_size)[rank::world_size]
        engine.module.eval()
        with torch.no_grad():
            for start in range(0, len(own), _AT_ONCE):
                block = own[start : start + _AT_ONCE]
                u, v, _ = engine(to_device(collate(pairs.read(block)), engine.device))
                self._ids.append(block)
                self._rows.append(torch.stack([u, v]).cpu())
        engine.module.train()

    def write(self, step: int) -> None:
        """Write what was noted until `step` of the run, and forget it."""
        if not self._ids:
            return
        U, V = torch.cat([rows.cpu() for rows in self._rows], dim=1).float().numpy()
        name = f"step-{step:08d}-rank-{dist.get_rank():05d}"
        write_collected(self._folder, name, np.concatenate(self._ids), U, V)
        self._ids, self._rows = [], []
