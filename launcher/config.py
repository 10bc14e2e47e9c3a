"""The configuration of a run: one YAML file, dotted overrides, validated before anything starts.

Settings live beside their owner (`trainer/config.py`, `selection/config.py`); here they are put together. Importing
this module is cheap: no torch, ray, faiss or deepspeed.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from launcher.plan.config import PlanConfig
from launcher.slurm_config import SlurmConfig
from selection.artifacts import atomic_file, hash_json
from selection.config import SelectionConfig, Settings
from selection.errors import ConfigError
from trainer.config import EncoderConfig, TextTransformerConfig, TrainConfig

LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]

SettingsT = TypeVar("SettingsT", bound=Settings)


class DataConfig(Settings):
    """WebDataset tar shards: a glob, or brace ranges as in `train-{000000..000012}.tar`."""

    train: str
    """Shards that are trained on."""

    heldout: str
    """Shards on which retrieval is judged."""

    validation: str | None = None
    """Shards on which retrieval is judged as well, to choose settings by; null judges on `heldout` alone."""

    distractors: str | None = None
    """Shards whose pairs are candidates in every retrieval that is judged, and are not looked for; null adds none. A
    search among many shows more of what hard batches teach than one among few."""

    corrupted: str | None = None
    """Shards of corrupted images, all corruptions of an image one after the other, as `coterie dataset cifar100-c`
    writes them. Each view looks for the other view of its corruption among those of its image; null judges nothing of
    the kind."""

    def splits(self) -> list[tuple[str, str]]:
        """Name and shards of every split that is given."""
        named = [(split, getattr(self, split)) for split in type(self).model_fields]
        return [(split, pattern) for split, pattern in named if pattern is not None]


class RayConfig(Settings):
    """Where Ray runs."""

    address: str | None = None
    """Address of a running cluster; null takes RAY_ADDRESS, or starts Ray on this machine."""

    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs of a Ray that is started here; null takes all cores that it may use."""

    object_store_bytes: int = Field(default=200_000_000, ge=80_000_000)
    """Shared memory of a Ray that is started here; embeddings travel by file, so little is needed."""

    num_nodes: int | None = Field(default=None, ge=1)
    """Nodes that must have joined before the run begins; `coterie submit` sets it. Null takes the cluster as it is."""

    join_timeout_s: float = Field(default=300, gt=0)
    """How long the run waits for `num_nodes`, and ranks that were lost for a place; container images may have to be
    fetched."""

    max_restarts: int = Field(default=2, ge=0)
    """How often ranks are started again, from the newest checkpoint, when some fail or are lost, until they are ended:
    at the end of a round, or of the run where they are kept (`selection.refresh.keep_ranks`) or overlap."""

    train_labels: dict[LabelName, LabelValue] = Field(default_factory=dict)
    """Labels of the nodes on which ranks run, as `ray start --labels` or a `ray up` or KubeRay file gives them; empty:
    any node, and as few as will do. With `selection_labels` it keeps training and selection apart on a cluster; on one
    machine leave both empty, and they take turns or share."""

    selection_labels: dict[LabelName, LabelValue] = Field(default_factory=dict)
    """Labels of the nodes on which pairs are embedded and batches selected; empty: any node."""


class RunConfig(Settings):
    """Everything that a run depends on."""

    run_dir: Path
    """Folder of the run; it is made, and gone on with when it is there."""

    seed: int = Field(default=0, ge=0)
    """Same seed, same machine: same batches, same losses."""

    rounds: int = Field(default=3, ge=1)
    """Rounds of training; before each but the first, a new schedule is selected."""

    data: DataConfig
    encoder: EncoderConfig = TextTransformerConfig()
    train: TrainConfig = TrainConfig()
    selection: SelectionConfig = SelectionConfig()
    ray: RayConfig = RayConfig()
    slurm: SlurmConfig = SlurmConfig()
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="after")
    def _batches_suit_selection(self) -> "RunConfig":
        try:
            hardness = self.selection.hardness
            hardness.check_batch_size(self.train.batch_size, "train.batch_size")
            hardness.check_strategy(self.selection.strategy)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result; where it is written and where it runs do not."""
        return self.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT)

    @property
    def gpu_settings(self) -> list[str]:
        """The settings by which something computes on GPUs; none where nothing does."""
        return [*(["train.use_gpu"] if self.train.use_gpu else []), *self.gpus_beside_ranks]

    @property
    def gpus_beside_ranks(self) -> dict[str, float]:
        """GPUs that one process of selection wants, by the setting that says so; none where nothing does."""
        asks = {
            "selection.embed.gpus_per_worker": self.selection.embed.gpus_per_worker,
            "selection.spectral.device": self.selection.gpus_to_select,
        }
        return {field: number for field, number in asks.items() if number}

    @property
    def hash(self) -> str:
        """Hash of what `identity()` has beside defaults, so that a setting which is added later changes no run."""
        told = _without_defaults(self)
        return hash_json({key: told[key] for key in told.keys() - _NOT_OF_THE_RESULT})


_NOT_OF_THE_RESULT = {"run_dir", "ray", "slurm", "plan"}


def _without_defaults(settings: BaseModel) -> dict[str, Any]:
    """Values that are not their defaults, and the names by which settings of several kinds are told apart."""
    told, dumped = {}, settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        is_kind = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
        if isinstance(value, BaseModel):
            if inner := _without_defaults(value):
                told[name] = inner
        elif is_kind or value != field.get_default(call_default_factory=True):
            told[name] = dumped[name]
    return told


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file and apply overrides.

    Args:
        path: a YAML file.
        overrides: `a.b=value`, the value in YAML.

    Raises:
        ConfigError: the file is absent or no YAML, a key is unknown, a value is wrong.
    """
    values = read_values(path)
    apply_overrides(values, overrides)
    return validate(RunConfig, values, source=str(path))


class _SafeLoader(yaml.SafeLoader):
    """YAML takes the last of two equal keys without a word, and a name such as 2026-01-31 for a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class; a key that is there twice is an error."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            problem = f"key {twice[0]!r} is there twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def read_values(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file.

    Raises:
        ConfigError: the file is absent or no YAML, or does not hold keys.
    """
    try:
        values = yaml.load(path.read_text(), _SafeLoader)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; `ls configs` shows those that are shipped"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, expected keys with values")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set each `a.b=value` in nested `values`; errors as for `parse_overrides`."""
    for dotted, value in parse_overrides(overrides):
        _apply_override(values, dotted, value)


def _apply_override(values: dict[str, Any], dotted: str, value: Any) -> None:
    keys = dotted.split(".")
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override of {dotted}: {key} is {inner!r} and has no keys inside")
        values = inner
    values[keys[-1]] = value


def parse_overrides(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """The dotted key and the value of each `a.b=value`; of two of one name, the last counts.

    Raises:
        ConfigError: one is not of that form, or shards are given twice in a row, as when a shell expands their braces.
    """
    parsed = [parse_override(override) for override in overrides]
    for (name, _), (following, _) in pairwise(parsed):
        if name == following and name.startswith("data."):
            raise ConfigError(
                f"{name}: is given twice in a row, as a shell expands braces; put it in quotes"
            )
    return parsed


def parse_override(override: str) -> tuple[str, Any]:
    """The dotted key and the value of `a.b=value`.

    Raises:
        ConfigError: it is not of that form.
    """
    dotted, separator, text = override.partition("=")
    if not separator or not all(dotted.split(".")):
        raise ConfigError(f"override {override!r}: expected key.subkey=value")
    try:
        return dotted, yaml.load(text, _SafeLoader)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"override {override!r}: the value is not valid YAML; quote it") from None


def validate(model: type[SettingsT], values: Mapping[str, Any], source: str) -> SettingsT:
    """Build settings; `source` begins the message when that fails.

    Raises:
        ConfigError: a key is unknown or a value is wrong; the message names the first of them.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{source}: {_explain(model, first)}{more}") from None


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads."""
    with atomic_file(path, "w") as file:
        yaml.safe_dump(config.model_dump(mode="json"), file, sort_keys=False)


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """`field: old -> new` for every field that decides the result and differs."""
    before, after = (flatten(config.identity()) for config in (old, new))
    return [
        f"{field}: {json.dumps(before.get(field))} -> {json.dumps(after.get(field))}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested `values` with dotted keys, as overrides write them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _explain(model: type[BaseModel], error: Any) -> str:
    """One line for one of pydantic's errors."""
    keys, owner = _locate(model, error["loc"])
    field = ".".join(map(str, keys))
    if error["type"] == "extra_forbidden":
        known = list(owner.model_fields)
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return f"{field}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{field}: required, but not set; add it"
    if error["type"] == "value_error":
        # a section's own error begins with the field that it is about
        is_section = bool(keys) and bool(_classes_of(owner, keys[-1]))
        joint = "" if not field else "." if is_section else ": "
        return field + joint + str(error["ctx"]["error"])
    if error["type"] in ("model_type", "tuple_type", "dict_type"):
        wanted = "a list" if error["type"] == "tuple_type" else "keys with values"
        return f"{field}: is {error['input']!r}, but must be {wanted}; change it"
    rule = error["msg"][0].lower() + error["msg"][1:]
    return f"{field}: got {error['input']!r}: {rule}; change it"


def _locate(model: type[BaseModel], location: Sequence[Any]) -> tuple[list[Any], type[BaseModel]]:
    """The keys that lead to a place in the file, and the settings class that has the last of them."""
    keys, candidates, owner = [], [model], model
    for key in location:
        if len(candidates) > 1:
            # After a field that may hold several classes, pydantic names the one it took.
            candidates = [c for c in candidates if c.model_fields["name"].default == key]
            continue
        keys.append(key)
        if candidates:
            (owner,) = candidates
        candidates = _classes_of(owner, key)
    return keys, owner


def _classes_of(owner: type[BaseModel], key: Any) -> list[type[BaseModel]]:
    """The settings classes that a field may hold; none where it holds a plain value or does not exist."""
    found, pending = [], [owner.model_fields[key].annotation if key in owner.model_fields else None]
    for annotation in pending:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        pending += get_args(annotation)
    return found
