"""The package transformers: models with fresh or trained weights, and trained tokenizers, saved for a run.

Looked up by `save_model` and `save_tokenizer` alone. Weights are read and written as safetensors, which hold numbers
and nothing else; checkpoints that have to be unpickled, and models that bring code of their own, are refused.
"""

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from selection.errors import ConfigError
from trainer.encoder_config import TowerConfig

_WEIGHTS = "model.safetensors"


def save_model(
    config: TowerConfig, folder: Path, field: str, input_name: str, given: Mapping[str, Any]
) -> PretrainedConfig:
    """Save what `open_model` needs.

    Args:
        config: of the tower.
        folder: to make.
        field: the setting that holds `config`, for messages.
        input_name: what the model must read, as transformers call it: `input_ids` or `pixel_values`.
        given: settings of the model that follow from others of ours, such as the size of images; those that its
            architecture does not know are left out.

    Returns:
        The configuration of the model.

    Raises:
        ConfigError: there is no such architecture or setting, the architecture reads something else, or `pretrained`
            cannot be loaded, lacks weights, or is of another architecture.
    """
    config_class = _config_class(config.architecture, f"{field}.architecture", input_name)
    if config.pretrained:
        _check_saved(config.pretrained, config.architecture, field)
        model = _load(_model_class(config_class), config.pretrained, f"{field}.pretrained")
        model.save_pretrained(folder, max_shard_size="1TB")  # one file, whose name we know
        return model.config
    known = config_class().to_dict()
    _check_settings(config, f"{field}.settings", known, given)
    followed = {key: value for key, value in given.items() if key in known}
    try:
        model_config = config_class(**config.settings, **followed)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ConfigError(f"{field}.settings: {' '.join(str(error).split())}; correct it") from None
    model_config.save_pretrained(folder)
    return model_config


def _config_class(architecture: str, field: str, input_name: str) -> type[PretrainedConfig]:
    if architecture not in CONFIG_MAPPING or CONFIG_MAPPING[architecture] not in MODEL_MAPPING:
        raise ConfigError(
            f"{field}: transformers knows no {architecture!r}; see its documentation for others"
        )
    config_class = CONFIG_MAPPING[architecture]
    model_class = _model_class(config_class)
    if not isinstance(model_class, type):  # funnel has one for each use
        raise ConfigError(
            f"{field}: transformers has several models for {architecture}; take another architecture"
        )
    if (found := model_class.main_input_name) != input_name:
        raise ConfigError(
            f"{field}: {architecture} reads {found}, but the tower gives {input_name}; take another architecture"
        )
    return config_class


def _check_saved(name: str, architecture: str, field: str) -> None:
    """Refuse a saved model of another architecture: transformers would make up the weights that it lacks."""
    try:
        saved, _ = PretrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise _cannot_be_loaded(f"{field}.pretrained", name, error) from None
    sections = [saved, *(section for section in saved.values() if isinstance(section, dict))]
    found = [section["model_type"] for section in sections if "model_type" in section]
    if found and architecture not in found:
        raise ConfigError(
            f"{field}.architecture: is {architecture}, but {name} is a {found[0]}; set it to one of {', '.join(found)}"
        )


def _check_settings(
    config: TowerConfig, field: str, known: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Refuse what transformers would keep without a word, and never use."""
    for key in config.settings:
        if key in given:
            raise ConfigError(f"{field}.{key}: follows from other settings; leave it out")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see the documentation of transformers"
            raise ConfigError(f"{field}.{key}: {config.architecture} has no such setting; {hint}")


def open_model(folder: Path, with_summary: bool) -> PreTrainedModel:
    """Build the model that `save_model` saved, in float32.

    Args:
        folder: of `save_model`.
        with_summary: whether the layer that summarises tokens is used; without it, models that can leave it out do.

    Returns:
        The model; weights that were not saved come from torch's random state.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model_class = _model_class(type(config))
    can_leave_out = "add_pooling_layer" in inspect.signature(model_class).parameters
    options = {"add_pooling_layer": with_summary} if can_leave_out else {}
    if (folder / _WEIGHTS).is_file():
        return _load(model_class, str(folder), str(folder), **options)
    return model_class(config, **options)


def _model_class(config_class: type[PretrainedConfig]) -> type[PreTrainedModel]:
    return MODEL_MAPPING[config_class]  # type: ignore[return-value]  # a lazy mapping, typed as what it imports by


def _load(
    model_class: type[PreTrainedModel], name: str, field: str, **options: Any
) -> PreTrainedModel:
    try:
        loaded: Any = model_class.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _cannot_be_loaded(field, name, error) from None
    model, report = loaded
    # a summary that nobody trained is left out of many files
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise ConfigError(
            f"{field}: {name} has no weights for {missing[0]} and {len(missing) - 1} more; give one that is whole"
        )
    return model


def _cannot_be_loaded(field: str, name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{field}: {name} cannot be loaded ({_first_line(error)}); give a folder with config.json and "
        f"{_WEIGHTS}, or a name on the hub that has both"
    )


def save_tokenizer(name: str, path: Path, field: str) -> dict[str, int]:
    """Save a trained tokenizer as one file of the package tokenizers.

    Args:
        name: folder, or name on the hub.
        path: of the file.
        field: the setting that holds `name`, for messages.

    Returns:
        Its special tokens, as configurations of models name them: `pad_token_id` and others.

    Raises:
        ConfigError: it cannot be loaded, or has no such file.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{field}: {name} cannot be loaded ({_first_line(error)}); give a folder with tokenizer.json, or a name "
            "on the hub that has one"
        ) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigError(f"{field}: {name} has no tokenizer.json; take another tokenizer")
    backend.save(str(path))
    ids = {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")
    }
    return {kind: token for kind, token in ids.items() if token is not None}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
