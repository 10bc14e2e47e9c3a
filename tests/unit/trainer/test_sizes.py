"""Sizes that are counted by formulas, against the real models on torch's meta device."""

import inspect
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from selection.errors import ConfigError
from trainer.config import TextTransformerConfig, TowersConfig
from trainer.encoder_config import ImageTowerConfig, TextTowerConfig
from trainer.encoders.text_transformer import TextTransformer
from trainer.encoders.tokenizer import PairTokenizer, TextPart
from trainer.encoders.tower import make_projector
from trainer.sizes import encoder_sizes

NUM_READ = 2  # batch norm wants more than one
SMALL_BERT = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
RESNET_18 = {
    "layer_type": "basic",
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
}
SMALL_CONVNEXT = {
    "patch_size": 2,
    "num_stages": 3,
    "hidden_sizes": [24, 48, 96],
    "depths": [1, 2, 1],
    "layer_scale_init_value": 0.0,
}
SPECIAL = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
TOWERS = [
    TextTowerConfig(architecture="bert"),
    TextTowerConfig(architecture="bert", settings=SMALL_BERT, vocab_size=500, max_tokens=24),
    TextTowerConfig(architecture="bert", pooling="model", tokenizer="somewhere"),
    TextTowerConfig(architecture="clip_text_model", max_tokens=77),
    TextTowerConfig(architecture="modernbert"),
    ImageTowerConfig(architecture="vit"),
    ImageTowerConfig(architecture="vit", pooling="mean", size=96, settings={"patch_size": 32}),
    ImageTowerConfig(architecture="clip_vision_model"),
    ImageTowerConfig(architecture="resnet"),
    ImageTowerConfig(architecture="resnet", settings=RESNET_18, size=100),
    ImageTowerConfig(architecture="convnext"),
    ImageTowerConfig(architecture="convnext", settings=SMALL_CONVNEXT, size=32),
]
"""Among them each architecture with all settings left out, so that our defaults are those of transformers."""


def name(tower):
    return f"{tower.architecture}-{'set' if tower.settings else 'default'}-{tower.pooling}"


def towers_config(tower, **settings):
    kind = "text" if isinstance(tower, TextTowerConfig) else "image"
    sides = {"tower": kind, "part": "u.x"}, {"tower": kind, "part": "v.x"}
    return TowersConfig(u=sides[0], v=sides[1], **{kind: tower}, dim=40, **settings)


def build(tower, config):
    """The model and its projector on the meta device, and inputs for it."""
    config_class = CONFIG_MAPPING[tower.architecture]
    if isinstance(tower, TextTowerConfig):
        given = {**SPECIAL, "vocab_size": tower.vocab_size}
        if tower.tokenizer:
            del given["vocab_size"]
        inputs = {"input_ids": torch.zeros(NUM_READ, tower.max_tokens, dtype=torch.long)}
    else:
        given = {"image_size": tower.size}
        inputs = {"pixel_values": torch.zeros(NUM_READ, 3, tower.size, tower.size)}
    known = config_class().to_dict()
    model_config = config_class(
        **tower.settings, **{key: value for key, value in given.items() if key in known}
    )
    model_class = MODEL_MAPPING[config_class]
    can_leave_out = "add_pooling_layer" in inspect.signature(model_class).parameters
    options = {"add_pooling_layer": tower.pooling == "model"} if can_leave_out else {}
    with torch.device("meta"):
        model = model_class(model_config, **options)
        projector = make_projector(model, config)
    return model, projector, {key: value.to("meta") for key, value in inputs.items()}


def kept_numbers(run: Callable, parameters, num_tokens) -> int:
    """Numbers that autograd keeps for the backward pass, without the matrices of attention, [t, t]."""
    of_parameters = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        is_attention = tensor.shape[-2:] == (num_tokens, num_tokens)
        if storage._cdata not in of_parameters and not is_attention:
            kept[storage._cdata] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())


def count_tokens(tower, model):
    if isinstance(tower, TextTowerConfig):
        return tower.max_tokens
    patch = getattr(model.config, "patch_size", None)
    return (tower.size // patch) ** 2 + 1 if patch else None


@pytest.mark.parametrize("tower", TOWERS, ids=name)
def test_towers_are_counted_as_they_are(tower):
    config = towers_config(tower)
    sizes = encoder_sizes(config)
    model, projector, inputs = build(tower, config)
    parameters = [*model.parameters(), *projector.parameters()]
    assert sizes.num_parameters == sum(map(torch.numel, parameters)) + 1  # the temperature

    with FlopCounterMode(display=False) as counter:
        kept = kept_numbers(lambda: model(**inputs), parameters, count_tokens(tower, model))
    of_projector = 2 * projector.in_features * config.dim
    of_side = counter.get_total_flops() / NUM_READ + of_projector
    assert sizes.forward_flops == pytest.approx(2 * of_side, rel=0.01)
    assert sizes.num_activations == pytest.approx(2 * kept / NUM_READ, rel=0.25)


def test_a_projector_with_a_hidden_layer():
    tower = ImageTowerConfig(architecture="resnet", settings=RESNET_18)
    config = towers_config(tower, projector_width=96)
    model, projector, _ = build(tower, config)
    parameters = [*model.parameters(), *projector.parameters()]
    assert encoder_sizes(config).num_parameters == sum(map(torch.numel, parameters)) + 1


def test_two_towers_and_one_that_both_sides_share():
    text, image = TextTowerConfig(max_tokens=16), ImageTowerConfig(architecture="vit")
    both = TowersConfig(
        u={"tower": "text", "part": "txt"},
        v={"tower": "image", "part": "jpg"},
        text=text,
        image=image,
        dim=40,
    )
    alone = [encoder_sizes(towers_config(tower)) for tower in (text, image)]
    sizes = encoder_sizes(both)
    assert sizes.num_parameters == sum(one.num_parameters for one in alone) - 1
    assert 2 * sizes.forward_flops == sum(one.forward_flops for one in alone)
    assert sizes.largest_layer == max(one.largest_layer for one in alone)


def test_the_text_transformer():
    config = TextTransformerConfig(
        vocab_size=300, width=48, num_layers=3, dim=20, u_max_tokens=16, v_max_tokens=40
    )
    vocabulary = Tokenizer(models.WordLevel({f"{i}": i for i in range(300)}))
    parts = {"u": TextPart("txt", 16), "v": TextPart("py", 40)}
    encoder = TextTransformer(config, PairTokenizer(vocabulary, parts))
    sizes = encoder_sizes(config)
    assert sizes.num_parameters == sum(map(torch.numel, encoder.parameters())) + 1
    batch = {side: torch.full((NUM_READ, part.max_tokens), 5) for side, part in parts.items()}
    with FlopCounterMode(display=False) as counter:
        encoder(batch)
    attention = sum(
        4 * t * t * 48 * 3 for t in (16, 40)
    )  # the counter does not know the fused kernel of CPUs
    assert counter.get_total_flops() / NUM_READ + attention == sizes.forward_flops


def test_a_saved_model_is_read(tmp_path):
    CONFIG_MAPPING["bert"](**SMALL_BERT, vocab_size=700).save_pretrained(tmp_path)
    saved = encoder_sizes(towers_config(TextTowerConfig(pretrained=str(tmp_path))))
    fresh = encoder_sizes(towers_config(TextTowerConfig(settings=SMALL_BERT, vocab_size=700)))
    assert saved == fresh


def test_an_architecture_that_nobody_counted():
    with pytest.raises(ConfigError, match=r"encoder\.text\.architecture: is 'gpt2', but only bert"):
        encoder_sizes(towers_config(TextTowerConfig(architecture="gpt2")))
    with pytest.raises(ConfigError, match=r"text\.architecture: is 'vit', but only bert"):
        encoder_sizes(towers_config(TextTowerConfig(architecture="vit")))


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        (
            "vit",
            {"hidden_size": "abc"},
            r"hidden_size: is 'abc', but must be a whole number above 0",
        ),
        ("vit", {"num_hidden_layers": -2}, "num_hidden_layers: is -2, but must be a whole number"),
        ("resnet", {"depths": 2}, "depths: is 2, but must be a list of whole numbers above 0"),
        (
            "resnet",
            {"depths": [2, 2]},
            "hidden_sizes and depths have 4 and 2 entries; give as many",
        ),
        (
            "resnet",
            {"hidden_sizes": [], "depths": []},
            r"hidden_sizes: is \[\], but must be a list",
        ),
        (
            "convnext",
            {"layer_scale_init_value": "1e-6"},
            "init_value: is '1e-6', but must be a number",
        ),
        ("convnext", {"layer_scale_init_value": None}, "init_value: is None, but must be a number"),
    ],
)
def test_settings_that_no_model_can_have(architecture, settings, message):
    tower = ImageTowerConfig(architecture=architecture, settings=settings)
    with pytest.raises(ConfigError, match=rf"encoder\.image\.settings.*{message}"):
        encoder_sizes(towers_config(tower))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_saved_model_whose_settings_cannot_be_read(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    tower = ImageTowerConfig(architecture="vit", pretrained=str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"encoder\.image\.pretrained: .*config\.json .*restore it"
    ):
        encoder_sizes(towers_config(tower))
