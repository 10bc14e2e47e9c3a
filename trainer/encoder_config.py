"""Settings of the encoders. Imports no torch or transformers, see `trainer/config.py`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from selection.config import Settings

Share = Annotated[float, Field(ge=0, le=1)]
"""A share or a probability."""

_Positive = Annotated[float, Field(gt=0)]


class TextTransformerConfig(Settings):
    """A small transformer that embeds both texts of a pair, see `trainer/encoders/text_transformer.py`."""

    name: Literal["text_transformer"] = "text_transformer"

    u_part: str = "txt"
    """Extension of the member of each sample that becomes u."""

    v_part: str = "py"
    """Extension of the member of each sample that becomes v."""

    u_max_tokens: int = Field(default=32, ge=1)
    """Tokens of the first text that are read; the rest is cut off."""

    v_max_tokens: int = Field(default=96, ge=1)
    """Tokens of the second text that are read; the rest is cut off."""

    vocab_size: int = Field(default=8192, ge=300)
    """Entries of the BPE vocabulary, trained on the training pairs."""

    split_words: bool = False
    """Split identifiers into words and ignore case and white space, so that `read_file`, `readFile` and "Read file"
    share their tokens; good for code, wrong where case carries meaning."""

    width: int = Field(default=128, ge=8)
    """Features per token."""

    num_layers: int = Field(default=2, ge=1)
    num_heads: int = Field(default=4, ge=1)

    dim: int = Field(default=128, ge=2)
    """d: size of the embeddings."""

    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TextTransformerConfig":
        if self.width % self.num_heads:
            raise ValueError(
                f"num_heads is {self.num_heads}, but must divide width ({self.width}); change either"
            )
        return self


class ImageViewsConfig(Settings):
    """Random views of an image, as SimCLR makes them, see `trainer/views/images.py`."""

    min_area: float = Field(default=0.2, gt=0, le=1)
    """Smallest share of the image that a crop keeps; 1 crops nothing."""

    flip: Share = 0.5
    """Probability of left and right changing places; 0 where a caption tells them apart."""

    jitter: Share = 0.8
    """Probability that brightness, contrast, saturation and hue change."""

    jitter_strength: float = Field(default=0.5, ge=0, le=1)
    """How much they change; 1 is SimCLR's on ImageNet, 0.5 its on CIFAR."""

    grey: Share = 0.2
    """Probability that the colours go."""

    blur: Share = 0.0
    """Probability of a Gaussian blur; SimCLR has 0.5 on ImageNet and none on CIFAR."""


class CodeViewsConfig(Settings):
    """Random views of a piece of code, made from its text alone, see `trainer/views/code.py`."""

    min_span: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the lines that a crop keeps, in one piece; 1 crops nothing."""

    drop_lines: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a line goes."""

    drop_comments: Share = 0.5
    """Probability that all comments and docstrings go."""

    rename: Share = 0.3
    """Probability that an identifier gets another name, the same one wherever it occurs."""


class TowerConfig(Settings):
    """A model of the package transformers, with fresh weights or trained ones."""

    architecture: str
    """Its `model_type` in transformers: resnet, convnext, vit, clip_vision_model; bert, modernbert, clip_text_model."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Of its configuration class in transformers, such as `hidden_size`; what is left out is as there."""

    pretrained: str | None = None
    """Folder, or name on the Hugging Face hub, of trained weights as safetensors; `settings` must then be empty.
    Null starts with random weights."""

    @model_validator(mode="after")
    def _settings_are_not_ignored(self) -> "TowerConfig":
        if self.pretrained and self.settings:
            raise ValueError(
                f"settings has {', '.join(self.settings)}, but those of {self.pretrained} hold; leave settings out"
            )
        return self


class ImageTowerConfig(TowerConfig):
    """What becomes of an image."""

    architecture: str = "resnet"

    size: int = Field(default=224, ge=8)
    """Height and width that images are brought to, in pixels: shorter side scaled, middle cut out."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[_Positive, _Positive, _Positive] = (0.229, 0.224, 0.225)
    """Of red, green and blue in the data, from 0 to 1; the model sees (value - mean) / std. ImageNet's by default."""

    pooling: Literal["model", "mean", "first"] = "model"
    """What stands for the image: the model's own summary, or the mean or the first of its patches."""

    views: ImageViewsConfig | None = None
    """Random views instead of the image itself, anew at every step of training."""


class TextTowerConfig(TowerConfig):
    """What becomes of a text."""

    architecture: str = "bert"

    max_tokens: int = Field(default=64, ge=1)
    """Tokens that are read; the rest is cut off."""

    tokenizer: str | None = None
    """Folder, or name on the hub, of a trained tokenizer. Null takes that of `pretrained`, or trains a byte-level BPE
    vocabulary on the training pairs."""

    vocab_size: int = Field(default=8192, ge=300)
    """Entries of a vocabulary that is trained here."""

    split_words: bool = False
    """Of a vocabulary that is trained here: as in `TextTransformerConfig`."""

    pooling: Literal["model", "mean", "first"] = "mean"
    """What stands for the text: the mean or the first of its tokens, or the model's own summary, for which it needs a
    trained tokenizer."""

    views: CodeViewsConfig | None = None
    """Random views instead of the text itself, anew at every step of training."""

    @model_validator(mode="after")
    def _summary_has_its_tokens(self) -> "TextTowerConfig":
        if self.pooling == "model" and not (self.pretrained or self.tokenizer):
            raise ValueError(
                "pooling is 'model', but a vocabulary that is trained here has no token that marks the start or end "
                "of a text; take 'mean', or name a tokenizer"
            )
        return self


class SideConfig(Settings):
    """Where one side of a pair comes from."""

    tower: Literal["image", "text"]
    """Which tower embeds it; two sides of one kind share the tower, weights included."""

    part: str
    """Extension of the member of each sample that it reads."""


class TowersConfig(Settings):
    """Images and texts, in any combination, see `trainer/encoders/towers.py`.

    Both sides may read the same part. The data is then single-view, and u and v are two random views of it.
    """

    name: Literal["towers"] = "towers"

    u: SideConfig
    v: SideConfig

    image: ImageTowerConfig | None = None
    text: TextTowerConfig | None = None

    dim: int = Field(default=128, ge=2)
    """d: size of the embeddings."""

    projector_width: int | None = Field(default=None, ge=2)
    """Width of the hidden layer between a tower and the embedding, with batch norm as in SimCLR; null projects
    by one matrix."""

    @property
    def u_part(self) -> str:
        """What u reads."""
        return self.u.part

    @property
    def v_part(self) -> str:
        """What v reads."""
        return self.v.part

    @property
    def is_single_view(self) -> bool:
        """Whether u and v are two views of one thing."""
        return self.u == self.v

    @property
    def towers(self) -> dict[str, ImageTowerConfig | TextTowerConfig]:
        """The towers that there are."""
        towers = {"image": self.image, "text": self.text}
        return {kind: tower for kind, tower in towers.items() if tower is not None}

    @model_validator(mode="after")
    def _sides_suit_towers(self) -> "TowersConfig":
        used = {self.u.tower, self.v.tower}
        for kind in sorted(used | self.towers.keys()):
            if kind not in self.towers:
                raise ValueError(f"{kind} is not set, but a side has tower: {kind}; describe it")
            if kind not in used:
                raise ValueError(f"{kind} is set, but no side has tower: {kind}; leave it out")
        if self.is_single_view and self.towers[self.u.tower].views is None:
            raise ValueError(
                f"u and v both read {self.u.part} and would always be equal; set {self.u.tower}.views, "
                "which makes two random views of it, or let v read another part"
            )
        return self


def _name(value: Any) -> str:
    """Which encoder is meant; the text transformer where nothing is said."""
    if isinstance(value, dict):
        return value.get("name", "text_transformer")
    return getattr(value, "name", "unknown")


EncoderConfig = Annotated[
    Annotated[TextTransformerConfig, Tag("text_transformer")]
    | Annotated[TowersConfig, Tag("towers")],
    Discriminator(
        _name,
        custom_error_type="encoder",
        custom_error_message="name must be text_transformer or towers",
    ),
]
"""One class per encoder; `name` tells them apart."""
