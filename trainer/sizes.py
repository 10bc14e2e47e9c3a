"""What an encoder weighs and costs, from its settings alone: for `coterie plan`.

No torch and no transformers, whose imports take longer than a plan may; so their architectures are counted here by
formulas, and tests compare them with the real models on torch's meta device: parameters exactly, operations and
activations nearly.

Operations are those of matrix products and convolutions, two for each multiplication with its addition. Activations
are the numbers that the backward pass needs; attention is taken to keep no t x t matrix, as torch's fused kernels do.

Legend: t tokens or patches, w width, f width of the hidden layer, k kernel size.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selection.errors import ConfigError
from trainer.encoder_config import (
    EncoderConfig,
    ImageTowerConfig,
    TextTowerConfig,
    TextTransformerConfig,
    TowersConfig,
)


@dataclass(frozen=True)
class Sizes:
    """Of a module that reads one image, text or pair at full length.

    Attributes:
        num_parameters: weights.
        forward_flops: operations of a forward pass.
        num_activations: numbers that wait for the backward pass.
        largest_layer: most numbers that one layer gives out.
    """

    num_parameters: int
    forward_flops: int
    num_activations: int
    largest_layer: int


def encoder_sizes(config: EncoderConfig) -> Sizes:
    """Weights of an encoder and of the temperature, and what one pair costs.

    Raises:
        ConfigError: the architecture of a tower is none of those that can be counted.
    """
    if isinstance(config, TextTransformerConfig):
        return _text_transformer(config)
    towers = {kind: _tower(config, kind) for kind in config.towers}
    sides = [towers[config.u.tower], towers[config.v.tower]]
    return Sizes(
        sum(tower.num_parameters for tower in towers.values()) + 1,
        sum(side.forward_flops for side in sides),
        sum(side.num_activations for side in sides),
        max(side.largest_layer for side in sides),
    )


def _text_transformer(config: TextTransformerConfig) -> Sizes:
    """As `trainer/encoders/text_transformer.py` builds it: one tower, which reads both texts."""
    w, max_tokens = config.width, max(config.u_max_tokens, config.v_max_tokens)
    sides = [
        _blocks(w, config.num_layers, 4 * w, t) for t in (config.u_max_tokens, config.v_max_tokens)
    ]
    embeddings = (config.vocab_size + max_tokens + 2) * w
    return Sizes(
        sides[0].num_parameters + embeddings + 2 * w + w * config.dim + 1,
        sum(side.forward_flops + 2 * w * config.dim for side in sides),
        sum(side.num_activations for side in sides),
        max(side.largest_layer for side in sides),
    )


def _tower(config: TowersConfig, kind: str) -> Sizes:
    tower = config.towers[kind]
    settings = _settings(tower, f"encoder.{kind}")
    model = _ARCHITECTURES[tower.architecture].count(tower, settings)
    w = settings.get("hidden_size") or settings["hidden_sizes"][-1]
    hidden, dim = config.projector_width, config.dim
    projector = w * dim if hidden is None else w * hidden + hidden * dim
    norm = 0 if hidden is None else 2 * hidden
    return Sizes(
        model.num_parameters + projector + norm,
        model.forward_flops + 2 * projector,
        model.num_activations,
        model.largest_layer,
    )


def _settings(tower: ImageTowerConfig | TextTowerConfig, field: str) -> dict[str, Any]:
    """Those of a tower; what it leaves out is as in transformers."""
    is_text = isinstance(tower, TextTowerConfig)
    known = [name for name in _ARCHITECTURES if (name in _TEXT_ARCHITECTURES) == is_text]
    if tower.architecture not in known:
        raise ConfigError(
            f"{field}.architecture: is {tower.architecture!r}, but only {', '.join(known)} can be planned there; plan "
            "with one of about its size"
        )
    given: Mapping[str, Any] = tower.settings
    saved = Path(tower.pretrained or "") / "config.json"
    if tower.pretrained and saved.is_file():
        given = _of_architecture(_read(saved, f"{field}.pretrained"), tower.architecture)
    settings = {**_ARCHITECTURES[tower.architecture].defaults, **given}
    _check_settings(settings, _ARCHITECTURES[tower.architecture].defaults, f"{field}.settings")
    return settings


def _read(path: Path, field: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{field}: {path} is not valid JSON ({error}); restore it") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{field}: {path} holds no settings; restore it")
    return found


def _of_architecture(saved: Mapping[str, Any], architecture: str) -> Mapping[str, Any]:
    """The settings of one model among those that were saved together, as CLIP's are."""
    sections = (section for section in saved.values() if isinstance(section, dict))
    return next((each for each in sections if each.get("model_type") == architecture), saved)


def _check_settings(settings: Mapping[str, Any], like: Mapping[str, Any], field: str) -> None:
    """Numbers where there are numbers by default, and lists of one length; transformers would say so much later."""
    for name, example in like.items():
        value, is_list = settings[name], isinstance(example, list)
        numbers = value if is_list and isinstance(value, list) else [value]
        is_number = isinstance(example, int | list) and not isinstance(example, bool)
        if is_number and not (
            isinstance(value, list) == is_list
            and numbers
            and all(type(number) is int and number > 0 for number in numbers)
        ):
            wanted = "a list of whole numbers" if is_list else "a whole number"
            raise ConfigError(
                f"{field}.{name}: is {value!r}, but must be {wanted} above 0; change it"
            )
        if isinstance(example, float) and type(value) not in (int, float):
            raise ConfigError(
                f"{field}.{name}: is {value!r}, but must be a number; YAML takes 1.0e-6 for one, and 1e-6 for a text"
            )
    lengths = {name: len(settings[name]) for name in like if isinstance(like[name], list)}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            f"{field}: {' and '.join(lengths)} have {' and '.join(map(str, lengths.values()))} entries; give as many"
        )


def _blocks(w: int, num_layers: int, f: int, t: int, num_mlp_matrices: int = 2) -> Sizes:
    """Transformer blocks with biases and two layer norms each; a gated MLP has three matrices."""
    matrices = 4 * w * w + num_mlp_matrices * w * f
    biases_and_norms = 4 * w + f + w + 4 * w
    return Sizes(
        num_layers * (matrices + biases_and_norms),
        num_layers * (2 * t * matrices + 4 * t * t * w),
        num_layers * t * (8 * w + 5 * f // 2),
        t * max(3 * w, f * (num_mlp_matrices - 1)),
    )


def _plus(blocks: Sizes, num_parameters: int, forward_flops: int = 0) -> Sizes:
    return Sizes(
        blocks.num_parameters + num_parameters,
        blocks.forward_flops + forward_flops,
        blocks.num_activations,
        blocks.largest_layer,
    )


def _blocks_of(settings: Mapping[str, Any], t: int) -> Sizes:
    num_layers, f = settings["num_hidden_layers"], settings["intermediate_size"]
    return _blocks(settings["hidden_size"], num_layers, f, t)


def _vocab_size(tower: TextTowerConfig, settings: Mapping[str, Any]) -> int:
    is_trained_here = not (tower.pretrained or tower.tokenizer)
    return tower.vocab_size if is_trained_here else settings["vocab_size"]


def _bert(tower: TextTowerConfig, settings: Mapping[str, Any]) -> Sizes:
    w = settings["hidden_size"]
    rows = _vocab_size(tower, settings) + settings["max_position_embeddings"]
    pooler = w * w + w if tower.pooling == "model" else 0
    rows += settings["type_vocab_size"]
    return _plus(_blocks_of(settings, tower.max_tokens), rows * w + 2 * w + pooler)


def _clip_text(tower: TextTowerConfig, settings: Mapping[str, Any]) -> Sizes:
    rows = _vocab_size(tower, settings) + settings["max_position_embeddings"]
    w = settings["hidden_size"]
    return _plus(_blocks_of(settings, tower.max_tokens), rows * w + 2 * w)


def _modernbert(tower: TextTowerConfig, settings: Mapping[str, Any]) -> Sizes:
    w, f = settings["hidden_size"], settings["intermediate_size"]
    num_layers = settings["num_hidden_layers"]
    blocks = _blocks(w, num_layers, f, tower.max_tokens, num_mlp_matrices=3)
    # no biases, norms without a shift, none before the first attention; one after the embeddings and one at the end
    without = num_layers * (5 * w + f + 2 * w) + w
    return _plus(blocks, _vocab_size(tower, settings) * w + 2 * w - without)


def _vit(tower: ImageTowerConfig, settings: Mapping[str, Any]) -> Sizes:
    pooler = settings["hidden_size"] ** 2 + settings["hidden_size"]
    return _patches(tower, settings, 1 + 2, pooler if tower.pooling == "model" else 0)


def _clip_vision(tower: ImageTowerConfig, settings: Mapping[str, Any]) -> Sizes:
    return _patches(tower, settings, 2 + 2, 0)


def _patches(
    tower: ImageTowerConfig, settings: Mapping[str, Any], num_vectors: int, num_others: int
) -> Sizes:
    """A transformer on patches and a token that stands for the whole; `num_vectors` biases, scales and shifts."""
    w, patch = settings["hidden_size"], settings["patch_size"]
    num_patches = (tower.size // patch) ** 2
    kernel = 3 * patch * patch * w
    rows = num_patches + 1 + 1 + num_vectors
    blocks = _blocks_of(settings, num_patches + 1)
    return _plus(blocks, kernel + rows * w + num_others, 2 * kernel * num_patches)


def _convolution(k: int, inputs: int, outputs: int, size: int) -> Sizes:
    """Without bias, with batch norm; the input of both waits for the backward pass. `size` is that of the output."""
    weights, numbers = k * k * inputs * outputs, outputs * size * size
    return Sizes(weights + 2 * outputs, 2 * weights * size * size, 2 * numbers, numbers)


def _sum(layers: list[Sizes]) -> Sizes:
    return Sizes(
        sum(layer.num_parameters for layer in layers),
        sum(layer.forward_flops for layer in layers),
        sum(layer.num_activations for layer in layers),
        max(layer.largest_layer for layer in layers),
    )


def _resnet(tower: ImageTowerConfig, settings: Mapping[str, Any]) -> Sizes:
    inputs, size = settings["embedding_size"], -(-tower.size // 2)
    layers = [_convolution(7, 3, inputs, size)]
    size = -(-size // 2)
    is_basic = settings["layer_type"] == "basic"
    for stage, (outputs, depth) in enumerate(
        zip(settings["hidden_sizes"], settings["depths"], strict=True)
    ):
        stride = 2 if stage or settings["downsample_in_first_stage"] else 1
        before, size = size, -(-size // stride)
        for block in range(depth):
            if block == 0 and (inputs != outputs or stride != 1):
                layers.append(_convolution(1, inputs, outputs, size))
            if is_basic:
                layers += [_convolution(3, n, outputs, size) for n in (inputs, outputs)]
            else:
                narrow, first_size = outputs // 4, before if block == 0 else size
                layers += [
                    _convolution(1, inputs, narrow, first_size),
                    _convolution(3, narrow, narrow, size),
                    _convolution(1, narrow, outputs, size),
                ]
            inputs = outputs
    return _sum(layers)


def _convnext(tower: ImageTowerConfig, settings: Mapping[str, Any]) -> Sizes:
    widths, patch = settings["hidden_sizes"], settings["patch_size"]
    has_scale = settings["layer_scale_init_value"] > 0
    size, inputs, layers = tower.size // patch, 3, []
    for stage, (w, depth) in enumerate(zip(widths, settings["depths"], strict=True)):
        k = 2 if stage else patch
        size = size // 2 if stage else size
        area, kernel = size * size, k * k * inputs * w
        norm = 2 * inputs if stage else 2 * w
        layers.append(Sizes(kernel + w + norm, 2 * kernel * area, 2 * w * area, w * area))
        matrices, scale = 8 * w * w, w if has_scale else 0
        block = Sizes(
            49 * w + w + 2 * w + matrices + 5 * w + scale,
            2 * area * (49 * w + matrices),
            area * (12 + has_scale) * w,
            4 * w * area,
        )
        layers += [block] * depth
        inputs = w
    return _plus(_sum(layers), 2 * inputs)


@dataclass(frozen=True)
class _Architecture:
    """How to count one, and what transformers takes for settings that are left out."""

    count: Callable[[Any, Mapping[str, Any]], Sizes]
    defaults: Mapping[str, Any]


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
_TYPES = {"max_position_embeddings": 512, "type_vocab_size": 2, "vocab_size": 30522}
_ARCHITECTURES = {
    "bert": _Architecture(_bert, {**_BASE, **_TYPES}),
    "clip_text_model": _Architecture(
        _clip_text,
        {
            "hidden_size": 512,
            "num_hidden_layers": 12,
            "intermediate_size": 2048,
            "max_position_embeddings": 77,
            "vocab_size": 49408,
        },
    ),
    "modernbert": _Architecture(
        _modernbert,
        {
            "hidden_size": 768,
            "num_hidden_layers": 22,
            "intermediate_size": 1152,
            "vocab_size": 50368,
        },
    ),
    "vit": _Architecture(_vit, {**_BASE, "patch_size": 16}),
    "clip_vision_model": _Architecture(_clip_vision, {**_BASE, "patch_size": 32}),
    "resnet": _Architecture(
        _resnet,
        {
            "embedding_size": 64,
            "hidden_sizes": [256, 512, 1024, 2048],
            "depths": [3, 4, 6, 3],
            "layer_type": "bottleneck",
            "downsample_in_first_stage": False,
        },
    ),
    "convnext": _Architecture(
        _convnext,
        {
            "hidden_sizes": [96, 192, 384, 768],
            "depths": [3, 3, 9, 3],
            "patch_size": 4,
            "layer_scale_init_value": 1e-6,
        },
    ),
}
"""Those that `TowerConfig.architecture` names."""

_TEXT_ARCHITECTURES = ("bert", "clip_text_model", "modernbert")
