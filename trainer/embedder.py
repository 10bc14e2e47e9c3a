"""Embeds samples with a checkpoint; what a worker of the embedding pass runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from selection.shards import Sample
from trainer.checkpoint import load_weights
from trainer.config import EncoderConfig
from trainer.encoders import Batch, Side, build_encoder
from trainer.encoders.tokenizer import limit_threads

_PREFIX = "encoder."


class CheckpointEmbedder:
    """The encoder of a checkpoint, loaded once, with weights in float32 and without dropout.

    Attributes:
        encoder: the encoder, for sides that come alone, such as queries.
        temperature: what the model had learned when the checkpoint was saved.
        parts: the members of a sample that it embeds.
    """

    def __init__(
        self,
        encoder_config: EncoderConfig,
        encoder_folder: Path,
        checkpoint_folder: Path,
        device: str = "cpu",
        num_threads: int = 1,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        """Load a checkpoint.

        Args:
            encoder_config: of the run.
            encoder_folder: what `prepare_encoder` made.
            checkpoint_folder: a complete checkpoint; DeepSpeed is not needed to read it.
            device: where to compute, as torch names it.
            num_threads: threads of this process.
            precision: of matrix products; rows come out in float32.

        Raises:
            ArtifactError: the checkpoint or the encoder's folder is incomplete, altered or of other settings.
        """
        limit_threads(num_threads)
        weights, manifest = load_weights(checkpoint_folder)
        self.temperature: float = manifest["temperature"]
        self.parts = encoder_config.u_part, encoder_config.v_part
        self.encoder = build_encoder(encoder_config, encoder_folder)
        encoder_weights = {
            name.removeprefix(_PREFIX): weight.float()
            for name, weight in weights.items()
            if name.startswith(_PREFIX)
        }
        self.encoder.load_state_dict(encoder_weights)
        self.encoder.to(device).eval()
        self._device = device
        self._precision = torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"
        )

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Read texts and pictures, on a CPU; any thread may do it.

        Raises:
            ArtifactError: a sample lacks a part, or a part cannot be read.
        """
        return self.encoder.collate(samples)

    @torch.inference_mode()
    def embed_batch(
        self, batch: Batch
    ) -> tuple[Float32[np.ndarray, "b d"], Float32[np.ndarray, "b d"]]:
        """Rows of u and v on the unit sphere, in the order of the samples."""
        with self._precision:
            u, v = self.encoder({side: inputs.to(self._device) for side, inputs in batch.items()})
        return u.cpu().numpy(), v.cpu().numpy()

    @torch.inference_mode()
    def embed(self, side: Side, parts: Sequence[bytes]) -> Float32[np.ndarray, "b d"]:
        """Embed parts of one side that come alone, such as queries."""
        inputs = self.encoder.to_inputs(side, parts).to(self._device)
        with self._precision:
            return self.encoder.embed(side, inputs).cpu().numpy()
