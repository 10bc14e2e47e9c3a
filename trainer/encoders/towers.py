"""Towers: a model of the package transformers for images, one for texts, and a projection of each to the sphere.

    u: text, v: image    caption -> text tower -> u,  picture -> image tower -> v            CLIP
    u, v: image          two random views of a picture -> one image tower -> u, v            SimCLR
    u, v: text           two texts, or two random views of one -> one text tower -> u, v     text embedding

transformers has the architectures that the field trains, keeps them well, and loads trained weights into them.
`prepare` looks everything up once, on the network where a name on the hub is given, tries it on the first pairs, and
saves it. Ranks and embedding workers build from that folder alone:

    encoder/image/config.json, encoder/image/model.safetensors     the second only with `pretrained`
    encoder/text/config.json, encoder/text/model.safetensors
    encoder/tokenizer.json
    encoder/manifest.json

Batch norm, in some image models and in the projector, ties the rows of a batch together. Over several GPUs its
statistics are those of the whole batch (SyncBatchNorm), so that the gradient is that of one process. torch has no
such thing for CPUs, so several CPU ranks are refused.

Legend: b pairs, d dims.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PretrainedConfig

from selection.artifacts import atomic_folder, has_manifest, read_manifest, write_manifest
from selection.errors import ArtifactError, ConfigError
from selection.progress import Progress
from trainer.encoder_config import SideConfig, TextTowerConfig, TowersConfig
from trainer.encoders import Encoder, PairReader, Side
from trainer.encoders.inputs import Item, PairInput, SideInput, TextInput
from trainer.encoders.pretrained import open_model, save_model, save_tokenizer
from trainer.encoders.tokenizer import EMPTY_ID, KIND, PAD_ID, TextPart, train_tokenizer
from trainer.encoders.tower import ImageTower, TextTower, make_projector

_TOKENIZER = "tokenizer.json"
_NUM_TRIED = 2
_TRANSFORMERS_ERRORS = (
    AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""Whatever transformers and torch raise where settings do not fit."""


def prepare(config: TowersConfig, index: PairReader, folder: Path, progress: Progress) -> None:
    """See `trainer.encoders.prepare_encoder`.

    Raises:
        ConfigError: transformers knows no such architecture, setting, model or tokenizer, or they do not fit.
    """
    fields = {"index_hash": index.content_hash, **_settings(config)}
    if has_manifest(folder):
        read_manifest(folder, KIND, fields)
        return
    with atomic_folder(folder) as temporary:
        if config.image:
            given = {"image_size": config.image.size, "num_channels": 3}
            save_model(config.image, temporary / "image", "encoder.image", "pixel_values", given)
        if config.text:
            given = _save_vocabulary(config, config.text, index, temporary / _TOKENIZER, progress)
            model = save_model(config.text, temporary / "text", "encoder.text", "input_ids", given)
            _check_sizes(config.text, model, given["vocab_size"])
        files = (path for path in sorted(temporary.rglob("*")) if path.is_file())
        names = [path.relative_to(temporary).as_posix() for path in files]
        _try(config, temporary, index)
        write_manifest(temporary, KIND, names, fields)


def build(config: TowersConfig, folder: Path) -> "Towers":
    """See `trainer.encoders.build_encoder`.

    Raises:
        ConfigError: there is batch norm, and there are several ranks without GPUs.
    """
    read_manifest(folder, KIND, _settings(config))
    towers = Towers(config, folder)
    has_batch_norm = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in towers.modules()
    )
    if has_batch_norm and dist.is_initialized() and dist.get_world_size() > 1:
        if dist.get_backend() != dist.Backend.NCCL:
            raise ConfigError(
                f"train.num_ranks: is {dist.get_world_size()}, but this encoder has batch norm, which torch cannot "
                "take over several CPU ranks; take 1 rank, GPUs, or an architecture without it, such as convnext"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(towers)
    return towers


class Towers(Encoder):
    """See the module docstring."""

    def __init__(self, config: TowersConfig, folder: Path) -> None:
        super().__init__()
        self.dim = config.dim
        self.towers = nn.ModuleDict()
        if config.image:
            model = open_model(folder / "image", config.image.pooling == "model")
            self.towers["image"] = ImageTower(config.image, model, make_projector(model, config))
        if config.text:
            model = open_model(folder / "text", config.text.pooling == "model")
            tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
            tokenizer.no_padding()
            tokenizer.enable_truncation(config.text.max_tokens)
            reads = TextInput(config.text, tokenizer)
            self.towers["text"] = TextTower(reads, model, make_projector(model, config))
        self._tower_of: dict[Side, Any] = {
            "u": self.towers[config.u.tower],
            "v": self.towers[config.v.tower],
        }
        self.collate = PairInput(
            {
                "u": SideInput(config.u.part, self._tower_of["u"].to_tensor),
                "v": SideInput(config.v.part, self._tower_of["v"].to_tensor),
            },
            config.is_single_view,
        )

    def to_inputs(self, side: Side, parts: Sequence[bytes]) -> Tensor:
        """See `Encoder`."""
        items = [Item(f"{number}", part, rng=None) for number, part in enumerate(parts)]
        return self._tower_of[side].to_tensor(items)

    def embed(self, side: Side, inputs: Tensor) -> Float[Tensor, "b d"]:
        """See `Encoder`."""
        return self._tower_of[side](inputs)


def _save_vocabulary(
    config: TowersConfig, text: TextTowerConfig, index: PairReader, path: Path, progress: Progress
) -> dict[str, int]:
    """Save the tokenizer, and return what the model must know of it."""
    if name := text.tokenizer or text.pretrained:
        field = "encoder.text.tokenizer" if text.tokenizer else "encoder.text.pretrained"
        special = save_tokenizer(name, path, field)
    else:
        sides: dict[Side, SideConfig] = {"u": config.u, "v": config.v}
        # By part, so that the text of single-view data counts once.
        by_part: dict[str, Side] = {
            reads.part: side for side, reads in sides.items() if reads.tower == "text"
        }
        parts: dict[Side, TextPart] = {
            side: TextPart(part, text.max_tokens) for part, side in by_part.items()
        }
        train_tokenizer(text, parts, index, progress).save(str(path))
        special = {"pad_token_id": PAD_ID, "bos_token_id": EMPTY_ID, "eos_token_id": EMPTY_ID}
    return {"vocab_size": Tokenizer.from_file(str(path)).get_vocab_size(), **special}


def _check_sizes(text: TextTowerConfig, model: PretrainedConfig, vocab_size: int) -> None:
    """What the first pairs may not show: most texts are short, and most tokens are frequent ones."""
    most = getattr(model, "max_position_embeddings", text.max_tokens)
    if text.max_tokens > most:
        raise ConfigError(
            f"encoder.text.max_tokens: is {text.max_tokens}, but {text.architecture} has only {most} positions; "
            "take fewer tokens, or set max_position_embeddings"
        )
    if vocab_size > model.vocab_size:
        raise ConfigError(
            f"encoder.text.tokenizer: has {vocab_size} tokens, but the model only {model.vocab_size}; take its own"
        )


def _try(config: TowersConfig, folder: Path, index: PairReader) -> None:
    """Learn from a few pairs, so that what does not fit together is known before a cluster starts."""
    samples = index.read(np.arange(min(_NUM_TRIED, len(index))))
    with _naming_what_does_not_fit("the first pairs"):
        encoder = Towers(config, folder)
        u, v = encoder(encoder.collate(samples))
        (u.sum() + v.sum()).backward()
    if config.text:  # the first texts may be short
        with _naming_what_does_not_fit(f"a text of {config.text.max_tokens} tokens"):
            _try_longest(encoder.towers["text"], config.text.max_tokens)
    for name, weight in encoder.named_parameters():
        if weight.grad is None:  # data-parallel training would wait for its gradient, or fail
            kind = name.split(".")[1]
            raise ConfigError(
                f"encoder.{kind}.pooling: with it, {name} of {config.towers[kind].architecture} is not used; "
                "take another one"
            )


@contextmanager
def _naming_what_does_not_fit(what: str) -> Iterator[None]:
    try:
        yield
    except (ConfigError, ArtifactError):
        raise
    except _TRANSFORMERS_ERRORS as error:
        raise ConfigError(
            f"encoder: does not work on {what}: {type(error).__name__}: {' '.join(str(error).split())}; "
            "correct its settings"
        ) from error


@torch.no_grad()
def _try_longest(tower: Any, max_tokens: int) -> None:
    """A text of as many tokens as there may be: some models keep a few of their positions to themselves."""
    last = tower.model.config.vocab_size - 1  # no model takes it for padding, which has no position
    tower(torch.full((1, max_tokens), last))


def _settings(config: TowersConfig) -> dict[str, Any]:
    """What differs from its default, so that a setting that is added later leaves all folders alone."""
    return {"encoder": config.model_dump(mode="json", exclude_defaults=True)}
