import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from selection.artifacts import read_manifest
from selection.errors import ArtifactError, ConfigError
from selection.progress import silent
from selection.schedule import write_schedule
from trainer.data import RankSampler, round_loader
from trainer.encoder_config import TowersConfig
from trainer.encoders import build_encoder, prepare_encoder
from trainer.encoders import towers as towers_module
from trainer.encoders.inputs import NO_TOKEN, read_image
from trainer.sizes import encoder_sizes

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}
CLIP_HALF = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TEXT = {"architecture": "bert", "vocab_size": 300, "max_tokens": 12, "settings": BERT}
CONV = {"patch_size": 4, "num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1]}
IMAGE = {"architecture": "convnext", "size": 16, "settings": CONV}
CAPTIONS = {"tower": "text", "part": "txt"}
CODE = {"tower": "text", "part": "py"}
PICTURES = {"tower": "image", "part": "png"}

RESNET_18 = {
    "architecture": "resnet",
    "size": 64,
    "settings": {
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    },
}

KINDS = {
    "image-text": {"u": CAPTIONS, "v": PICTURES, "text": TEXT, "image": IMAGE},
    "image views": {"u": PICTURES, "v": PICTURES, "image": {**IMAGE, "views": {}}},
    "code views": {"u": CODE, "v": CODE, "text": {**TEXT, "views": {}}},
    "two texts": {"u": CAPTIONS, "v": CODE, "text": TEXT},
    "resnet": {
        "u": PICTURES,
        "v": PICTURES,
        "image": {**RESNET_18, "views": {}},
        "projector_width": 64,
    },
}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Pairs:
    content_hash = "of-the-pairs"

    def __init__(self):
        rng = np.random.default_rng(0)
        self.samples = [
            {
                "__key__": f"{number:03d}",
                "txt": b" ".join(rng.choice([b"red", b"blue", b"disc", b"ring"], 4)),
                "py": b"\n".join(b"x%d = y + %d  # no" % (n, number) for n in range(5)),
                "png": png(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)),
            }
            for number in range(24)
        ]

    def __len__(self):
        return len(self.samples)

    def read(self, ids):
        return [dict(self.samples[number]) for number in ids]


@pytest.fixture(scope="module")
def pairs():
    return Pairs()


@pytest.fixture(scope="module")
def make(pairs, tmp_path_factory):
    """Prepare and build an encoder of some settings, with the weights of seed 0."""

    def make(seed=0, **settings):
        config = TowersConfig(**{"dim": 8, **settings})
        folder = tmp_path_factory.mktemp("towers") / "encoder"
        prepare_encoder(config, pairs, folder, silent)
        torch.manual_seed(seed)
        return build_encoder(config, folder)

    return make


@pytest.fixture(params=KINDS)
def encoder(request, make):
    return make(**KINDS[request.param])


def test_both_sides_lie_on_the_unit_sphere(encoder, pairs):
    batch = encoder.collate(pairs.samples[:6])
    for model in (encoder, encoder.bfloat16()):
        for side in model(batch):
            assert side.dtype == torch.float32
            assert side.shape == (6, 8)
            torch.testing.assert_close(side.norm(dim=1), torch.ones(6), rtol=0, atol=1e-6)


def test_every_weight_learns(encoder, pairs):
    # A weight without a gradient hangs or fails in data-parallel training.
    u, v = encoder(encoder.collate(pairs.samples[:6], (0, 0, 0)))
    (u @ v.T * torch.arange(36).view(6, 6)).sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


def test_collate_is_picklable_and_stays_what_it_was(encoder, pairs):
    copy = pickle.loads(pickle.dumps(encoder.collate))
    for draw in (None, (0, 1, 2)):
        batch, again = (c(pairs.samples[:5], draw) for c in (encoder.collate, copy))
        assert all(torch.equal(batch[side], again[side]) for side in ("u", "v"))


@pytest.mark.parametrize("kind", ["image views", "code views"])
def test_views_depend_on_step_and_sample_and_not_on_their_company(make, pairs, kind):
    collate = make(**KINDS[kind]).collate
    whole = collate(pairs.samples[:8], (7, 1, 5))
    parts = [collate(pairs.samples[start : start + 4], (7, 1, 5)) for start in (0, 4)]
    for side in ("u", "v"):
        for row in range(8):
            part = parts[row // 4][side][row % 4]
            width = min(len(part), len(whole[side][row]))  # texts are filled up to the longest
            assert torch.equal(whole[side][row][:width], part[:width])
    assert not torch.equal(whole["u"], whole["v"])
    for other in ((8, 1, 5), (7, 2, 5), (7, 1, 6)):
        assert not torch.equal(collate(pairs.samples[:8], other)["u"], whole["u"])


@pytest.mark.parametrize("kind", ["image views", "code views"])
def test_selection_sees_two_views_that_never_change(make, pairs, kind):
    encoder = make(**KINDS[kind])
    first, again = encoder.collate(pairs.samples), encoder.collate(pairs.samples)
    assert torch.equal(first["u"], again["u"])
    assert not torch.equal(first["u"], first["v"])


def test_pairs_of_two_parts_have_views_in_training_only(make, pairs):
    settings = {**KINDS["image-text"], "image": {**IMAGE, "views": {}}}
    collate, plain = make(**settings).collate, make(**KINDS["image-text"]).collate
    assert torch.equal(collate(pairs.samples)["v"], plain(pairs.samples)["v"])
    assert not torch.equal(collate(pairs.samples, (0, 0, 0))["v"], plain(pairs.samples)["v"])
    assert torch.equal(collate(pairs.samples, (0, 0, 0))["u"], plain(pairs.samples)["u"])


def test_a_resumed_round_sees_the_same_views_on_any_number_of_ranks(make, pairs, tmp_path):
    batches = np.random.default_rng(0).permutation(24).reshape(3, 8)
    fields = {"seed": 5, "round": 2, "strategy": "random"}
    schedule = write_schedule(tmp_path / "s", batches, np.empty(0, np.int64), fields)
    collate = make(**KINDS["image views"]).collate

    def load(first, rank, world_size, reader_processes=0):
        sampler = RankSampler(schedule, first, 6, rank, world_size)
        return [batch["u"] for batch in round_loader(pairs, collate, sampler, reader_processes)]

    everything = load(0, 0, 1)
    ranks = load(4, 0, 2), load(4, 1, 2, reader_processes=1)
    resumed = [torch.cat(slices) for slices in zip(*ranks, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(everything[4:], resumed, strict=True))
    # The second epoch has the same pairs, in new views.
    assert not torch.equal(torch.cat(everything[:3]).sum(0), torch.cat(everything[3:]).sum(0))


def test_images_are_scaled_and_cut_to_their_middle(make, pairs):
    encoder = make(**KINDS["image-text"])
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    pixels = encoder.to_inputs("v", [png(wide), png(np.full((5, 5, 3), 7, np.uint8))])
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[0], torch.full((3, 16, 16), 200, dtype=torch.uint8))
    assert torch.equal(pixels[1], torch.full((3, 16, 16), 7, dtype=torch.uint8))


def test_a_text_does_not_depend_on_its_neighbours(make):
    encoder = make(**KINDS["two texts"]).eval()
    texts = [b"red", b"blue disc red ring blue disc red ring", b""]
    together = encoder.embed("u", encoder.to_inputs("u", texts))
    alone = torch.cat([encoder.embed("u", encoder.to_inputs("u", [text])) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert torch.isfinite(together).all()


def test_two_sides_of_one_kind_share_their_tower(make):
    encoder = make(**KINDS["two texts"])
    inputs = encoder.to_inputs("u", [b"red"])
    assert torch.equal(encoder.embed("u", inputs), encoder.embed("v", inputs))


def test_weights_depend_on_the_seed_alone(make):
    def weights(seed):
        return torch.cat([p.flatten() for p in make(seed, **KINDS["image-text"]).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_resnet_18_and_projector_are_those_of_the_paper(make):
    encoder = make(**{**KINDS["resnet"], "projector_width": 2048, "dim": 128})
    tower = encoder.towers["image"]
    # torchvision publishes 11,689,512 for ResNet-18, of which 513,000 are in the classifier that is not here.
    assert sum(p.numel() for p in tower.model.parameters()) == 11_689_512 - 513_000
    shapes = [tuple(p.shape) for p in tower.projector.parameters()]
    assert shapes == [(2048, 512), (2048,), (2048,), (128, 2048)]


@pytest.mark.parametrize(
    ("architecture", "pooling"), [("clip_vision_model", "model"), ("vit", "mean"), ("vit", "first")]
)
def test_other_architectures_serve_as_well(make, pairs, architecture, pooling):
    settings = {
        key: BERT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    }
    image = {
        "architecture": architecture,
        "size": 16,
        "pooling": pooling,
        "settings": {**settings, "intermediate_size": 64, "patch_size": 8},
    }
    text = {
        **TEXT,
        "architecture": "clip_text_model",
        "settings": {**settings, "intermediate_size": 64},
    }
    encoder = make(u=CAPTIONS, v=PICTURES, text=text, image=image)
    u, v = encoder(encoder.collate(pairs.samples[:6], (0, 0, 0)))
    (u @ v.T * torch.arange(36).view(6, 6)).sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", ["image_text", "code_views"])
def test_the_encoders_of_shipped_configurations_can_be_built(pairs, tmp_path, name):
    values = yaml.safe_load(Path(f"configs/{name}.yaml").read_text())
    prepare_encoder(TowersConfig(**values["encoder"]), pairs, tmp_path / "encoder", silent)


# Trained models


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A BERT and its tokenizer, as `save_pretrained` leaves them."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "disc", "ring"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    ).save_pretrained(folder)
    torch.manual_seed(5)
    settings = {**BERT, "max_position_embeddings": 32}
    BertModel(BertConfig(vocab_size=len(words), **settings)).save_pretrained(folder)
    return folder


def test_trained_weights_and_their_tokenizer_are_taken(make, trained, pairs):
    text = {"architecture": "bert", "pretrained": str(trained), "max_tokens": 5, "pooling": "model"}
    encoder = make(u=CAPTIONS, v=PICTURES, text=text, image=IMAGE)
    ids = encoder.to_inputs("u", [b"red ring", b"blue disc red ring blue"])
    assert ids.tolist() == [[2, 4, 7, 3, NO_TOKEN], [2, 5, 6, 4, 3]]  # the cut leaves [SEP]
    weights = load_file(trained / "model.safetensors")
    model = encoder.towers["text"].model.state_dict()
    assert all(torch.equal(model[name], weight) for name, weight in weights.items())
    u, _ = encoder(encoder.collate(pairs.samples[:3]))
    assert torch.isfinite(u).all()


def test_a_run_does_not_need_the_trained_model_again(trained, pairs, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in trained.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    text = {"architecture": "bert", "pretrained": str(source), "max_tokens": 5}
    config = TowersConfig(u=CAPTIONS, v=CODE, text=text, dim=8)
    prepare_encoder(config, pairs, tmp_path / "encoder", silent)
    for file in source.iterdir():
        file.unlink()
    build_encoder(config, tmp_path / "encoder")


def test_weights_that_must_be_unpickled_are_refused(trained, pairs, tmp_path):
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    torch.save(load_file(trained / "model.safetensors"), tmp_path / "pytorch_model.bin")
    text = {"architecture": "bert", "pretrained": str(tmp_path), "max_tokens": 5}
    config = TowersConfig(u=CAPTIONS, v=CODE, text=text, dim=8)
    with pytest.raises(ConfigError, match=r"encoder\.text\.pretrained: .* cannot be loaded"):
        prepare_encoder(config, pairs, tmp_path / "encoder", silent)
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("roberta", r"encoder\.text\.architecture: is bert, but .* is a roberta; set it to"),
        ("distilbert", r"encoder\.text\.architecture: is bert, but .* is a distilbert"),
        ("smaller", r"encoder\.text\.pretrained: .* cannot be loaded"),
        ("cut off", r"encoder\.text\.pretrained: .* cannot be loaded"),
        ("incomplete", r"has no weights for encoder\.layer\.0\.\S+ and \d+ more"),
    ],
)
def test_a_model_that_would_be_made_up_is_refused(trained, pairs, tmp_path, damage, message):
    source = shutil.copytree(trained, tmp_path / "source")
    settings, weights = source / "config.json", source / "model.safetensors"
    values, tensors = json.loads(settings.read_text()), load_file(weights)
    if damage == "smaller":
        settings.write_text(json.dumps({**values, "hidden_size": 16}))
    elif damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "incomplete":
        kept = {name: each for name, each in tensors.items() if "layer.0" not in name}
        save_file(kept, weights, {"format": "pt"})
    else:  # whose keys without a prefix are BERT's, or are not
        settings.write_text(json.dumps({**values, "model_type": damage}))
    text = {"architecture": "bert", "pretrained": str(source), "max_tokens": 5}
    config = TowersConfig(u=CAPTIONS, v=CODE, text=text, dim=8)
    with pytest.raises(ConfigError, match=message):
        prepare_encoder(config, pairs, tmp_path / "encoder", silent)
    assert not (tmp_path / "encoder").exists()


def test_a_tower_takes_its_half_of_a_saved_clip(make, trained, tmp_path):
    clip = CLIPModel(
        CLIPConfig(
            text_config={**CLIP_HALF, "vocab_size": 8, "max_position_embeddings": 16},
            vision_config={**CLIP_HALF, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
    )
    clip.save_pretrained(tmp_path)
    text = {
        "architecture": "clip_text_model", "pretrained": str(tmp_path), "tokenizer": str(trained), "max_tokens": 5,
    }  # fmt: skip
    encoder = make(u=CAPTIONS, v=CODE, text=text)
    taken = encoder.towers["text"].model.state_dict()
    saved = clip.text_model.state_dict()
    assert all(torch.equal(taken[key], weight) for key, weight in saved.items())
    sizes = encoder_sizes(TowersConfig(u=CAPTIONS, v=CODE, text=text, dim=8))
    assert sizes.num_parameters == sum(map(torch.numel, encoder.parameters())) + 1


def test_a_trained_tokenizer_serves_fresh_weights(make, trained):
    text = {**TEXT, "tokenizer": str(trained), "pooling": "first"}
    encoder = make(u=CAPTIONS, v=CODE, text=text)
    assert encoder.towers["text"].model.config.vocab_size == 8
    assert encoder.to_inputs("u", [b"red"]).tolist() == [[2, 4, 3, *[NO_TOKEN] * 5]]


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"architecture": "brt"}, r"encoder\.text\.architecture: transformers knows no 'brt'"),
        ({"architecture": "vit", "settings": {}}, r"text\.architecture: vit reads pixel_values"),
        ({"settings": {"hidden_sise": 3}}, r"settings\.hidden_sise: bert has no .*'hidden_size'"),
        ({"settings": {"vocab_size": 3}}, r"settings\.vocab_size: follows from other settings"),
        ({"settings": {"hidden_size": "x"}}, r"encoder\.text\.settings: .*expected int, got str"),
        ({"settings": {**BERT, "hidden_size": 33}}, "does not work on the first pairs: .*multiple"),
        (
            {"architecture": "distilbert", "settings": {}, "pooling": "mean", "max_tokens": 600},
            "600",
        ),
        ({"settings": {**BERT, "hidden_act": "geluu"}}, "does not work .*KeyError: 'geluu'"),
        ({"architecture": "funnel", "settings": {}}, r"text\.architecture: .*several models"),
        # some of its positions are its own
        (
            {
                "architecture": "roberta",
                "settings": {**BERT, "max_position_embeddings": 200},
                "max_tokens": 200,
            },
            "does not work on a text of 200 tokens: ",
        ),
        ({"max_tokens": 1000}, r"encoder\.text\.max_tokens: is 1000, .* only 512 positions"),
        ({"tokenizer": "/no/such"}, r"encoder\.text\.tokenizer: /no/such cannot be loaded"),
    ],
)
def test_mistakes_are_found_before_training(pairs, tmp_path, text, message):
    config = TowersConfig(u=CAPTIONS, v=CODE, text={**TEXT, **text}, dim=8)
    with pytest.raises(ConfigError, match=message) as caught:
        prepare_encoder(config, pairs, tmp_path / "encoder", silent)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_would_not_learn_are_refused(pairs, tmp_path):
    image = {**IMAGE, "pooling": "mean"}  # the last norm of ConvNeXt is part of its summary
    config = TowersConfig(u=CAPTIONS, v=PICTURES, text=TEXT, image=image)
    with pytest.raises(
        ConfigError, match=r"encoder\.image\.pooling: .*layernorm\.weight of convnext"
    ):
        prepare_encoder(config, pairs, tmp_path / "encoder", silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": PICTURES}, "image is not set, but a side has tower: image"),
        ({"image": IMAGE}, "image is set, but no side has tower: image"),
        ({"v": CAPTIONS}, r"would always be equal; set text\.views"),
        ({"text": {**TEXT, "pooling": "model"}}, "pooling is 'model'"),
        ({"text": {**TEXT, "pretrained": "x"}}, "settings has hidden_size"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TowersConfig(**{"u": CAPTIONS, "v": CODE, "text": TEXT, **change})


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_grey_of_16_bits_keeps_its_levels(kind):
    ramp, file = np.arange(256, dtype=np.uint16).reshape(16, 16), io.BytesIO()
    Image.fromarray(256 * ramp + 7).save(file, kind)
    found = np.asarray(read_image(file.getvalue(), "key"))
    assert np.array_equal(found, np.stack([ramp] * 3, axis=-1))


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n", "cut"])
def test_what_is_no_image_is_named(make, pairs, content):
    sample = dict(pairs.samples[3])
    sample["png"] = sample["png"][:200] if content == "cut" else content
    with pytest.raises(ArtifactError, match=r"sample '003': found no image"):
        make(**KINDS["image-text"]).collate([sample])


def test_a_folder_of_other_settings_is_refused(pairs, tmp_path):
    prepare_encoder(TowersConfig(**KINDS["two texts"], dim=8), pairs, tmp_path / "e", silent)
    with pytest.raises(ArtifactError, match="encoder is"):
        build_encoder(TowersConfig(**KINDS["two texts"], dim=9), tmp_path / "e")
    assert json.loads((tmp_path / "e" / "text" / "config.json").read_text())["hidden_size"] == 32


@pytest.mark.parametrize(("world_size", "backend"), [(1, "gloo"), (2, "gloo"), (2, "nccl")])
def test_batch_norm_spans_the_ranks_or_is_refused(make, monkeypatch, world_size, backend):
    monkeypatch.setattr(towers_module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(towers_module.dist, "get_world_size", lambda: world_size)
    monkeypatch.setattr(towers_module.dist, "get_backend", lambda: backend)
    if (world_size, backend) == (2, "gloo"):
        with pytest.raises(ConfigError, match=r"train\.num_ranks: is 2, .*batch norm"):
            make(**KINDS["resnet"])
        return
    kinds = {type(module).__name__ for module in make(**KINDS["resnet"]).modules()}
    assert ("SyncBatchNorm" in kinds) == (world_size == 2)
    assert ("BatchNorm2d" in kinds) == (world_size == 1)
    make(**KINDS["image-text"])


def test_a_folder_says_nothing_of_settings_at_their_defaults(pairs, tmp_path):
    """One that is added later closes no folder; one that differs does."""
    config = TowersConfig(u=CAPTIONS, v=CODE, text=TEXT, dim=8)
    prepare_encoder(config, pairs, tmp_path / "encoder", silent)
    told = read_manifest(tmp_path / "encoder", "encoder")["encoder"]
    assert "projector_width" not in told
    assert "views" not in told["text"]
    with pytest.raises(ArtifactError, match="dim"):
        build_encoder(config.model_copy(update={"dim": 16}), tmp_path / "encoder")
