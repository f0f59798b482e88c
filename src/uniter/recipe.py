"""Recipes: the settings of a run as checked models, read from strict YAML with `key=value` overrides.

A recipe file holds only what differs from the defaults below. An unknown name is an error that names the nearest one.
"""

import difflib
import importlib.resources
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FilePath = Annotated[Path, Field(strict=False)]
Url = Annotated[str, Field(pattern=r"^[A-Za-z0-9+.:-]+://")]
FilePlace = Url | FilePath
# One place or several; kept as given.
RegionPlaces = FilePlace | Annotated[list[FilePlace], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """What every group of settings keeps to: no unknown names, no silent conversions (1 may stand for 1.0)."""

    model_config = ConfigDict(
        extra="forbid", strict=True, validate_default=True, validate_assignment=True, populate_by_name=True
    )


S = TypeVar("S", bound=Settings)


class Training(Settings):
    """How a model is trained: batches, optimiser, schedule, and when to validate and save."""

    seed: int = Field(0, description="Seed of everything random: order, masks, negatives, dropout.")
    steps: int = Field(1000, ge=1, description="Updates in all.")
    tokens: int = Field(
        5120,
        ge=1,
        description="Budget of a micro-batch: examples times tokens of the longest (text and regions); with batching: "
        "packed the sum of their tokens.",
    )
    max_examples: int | None = Field(
        None, ge=1, description="Most examples in a micro-batch; null: the budget alone decides."
    )
    accumulate: int = Field(1, ge=1, description="Micro-batches per update, over all processes together.")
    accumulation: Literal["mean", "sum"] = Field(
        "mean", description="What the micro-batches' losses come to in an update; sum: as published."
    )
    batching: Literal["filled", "packed", "published", "examples"] = Field(
        "filled",
        description="filled: batches of like length fill the budget; packed: batches of any lengths, as they come, "
        "filled by the sum of their tokens, for no padding is computed; published: the published sampler, which sizes "
        "batches by the longest example of their window and so fills about 40% of it; examples: max_examples a batch, "
        "not sorted.",
    )
    order: Literal["shuffled", "files", "shards"] = Field(
        "shuffled",
        description="shuffled: anew each epoch; files: the files' own, every epoch (published for expressions); "
        "shards: anew, a few shards of the store after the other, so that the others need not be at hand. Left out, it "
        "is shards where regions are behind a URL.",
    )
    shard_window: int = Field(8, ge=1, description="order: shards: shards whose examples are shuffled together.")
    window: int = Field(8192, ge=1, description="Examples sorted by length together before batches are cut.")
    learning_rate: float = Field(5e-5, gt=0, description="Highest learning rate, reached at the end of the warm-up.")
    head_learning_rate_factor: float = Field(
        1.0, gt=0, description="Learning rate of the head over that of the trunk (published for VQA: 10)."
    )
    warmup: int = Field(-1, ge=-1, description="Updates of linear warm-up; -1: a tenth of the steps, as published.")
    schedule: Literal["linear", "constant", "cosine", "noam", "vqa"] = Field(
        "linear",
        description="What follows the warm-up; linear: down to 0 at the last update, as published; noam: falls with "
        "the root of the update; vqa: falls by steps, and warms up in quarters. (The published code has both, unused.)",
    )
    decay_start: int | None = Field(
        None, ge=1, description="Schedule vqa: the update after which the rate falls; null: never."
    )
    decay_every: int = Field(1000, ge=1, description="Schedule vqa: updates of a step down.")
    decay_rate: float = Field(0.2, gt=0, le=1, description="Schedule vqa: what a step down multiplies the rate by.")
    optimizer: Literal["adamw", "adamw-published", "adam", "adamax"] = Field(
        "adamw",
        description="adamw: PyTorch's; adamw-published: eps before the bias correction, decay after the step; adam, "
        "adamax: PyTorch's, weight decay inside the gradient.",
    )
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = Field(
        (0.9, 0.98), description="Decay of the first and of the second moment per update."
    )
    eps: float = Field(1e-6, gt=0, description="Added to the root of the second moment.")
    weight_decay: Weight = Field(0.01, description="Weight decay per update, times the learning rate.")
    decayed: Literal["matrices", "names"] = Field(
        "matrices",
        description="matrices: neither biases nor LayerNorm gains are decayed; names: the published test of names, "
        "which misses some gains.",
    )
    clip: float | None = Field(2.0, gt=0, description="Largest global norm of the gradient; null: not clipped.")
    dropout: Share | None = Field(None, description="Overrides the rate of every dropout layer; null: the model's own.")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="bfloat16: autocast; weights stay float32. auto: bfloat16 where the hardware has matrix units "
        "for it (CUDA, CPUs with AMX), float32 elsewhere.",
    )
    engine: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="How the processes that torchrun started share the work; ddp: each has the whole model; fsdp: each "
        "has a part of it and of the optimiser's state (FSDP2). They compute the same.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Compute each layer again in the backward pass instead of keeping it: less memory, a third slower.",
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay of a running mean of the weights, which is then what is measured and saved; null: none.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one.")
    threads: int | None = Field(None, ge=1, description="Threads of PyTorch on the CPU; null: PyTorch's choice.")
    tensorboard: bool = Field(False, description="Write the log for TensorBoard too, into the run's tensorboard/.")
    validate_every: int = Field(500, ge=1, description="Updates between validations; there is always one at the end.")
    save_every: int = Field(500, ge=1, description="Updates between checkpoints; there is always one at the end.")
    keep: int = Field(2, ge=1, description="Checkpoints kept; the best model has a folder of its own.")
    patience: int | None = Field(
        None, ge=1, description="Stop after so many validations without a better one; null: never."
    )

    @model_validator(mode="before")
    @classmethod
    def _warm_up_a_tenth(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("warmup", -1) == -1 and isinstance(values.get("steps", 1000), int):
            values = {**values, "warmup": values.get("steps", 1000) // 10}
        return values


class ModelSettings(Settings):
    """Which model, and where its weights come from."""

    size: Literal["tiny", "small", "base", "large"] = Field(
        "base", description="Named size; used where `from` is null."
    )
    from_: FilePath | None = Field(
        None, alias="from", description="Folder of a saved model to start from, or `shipped`; null: a fresh model."
    )
    config: dict[str, Any] = Field(default_factory=dict, description="Numbers of UniterConfig to override, by name.")
    lora: int | None = Field(
        None,
        ge=1,
        description="Fine-tuning: train thin matrices of this rank beside each matrix of the encoder, and the head, "
        "instead of all weights (LoRA); null: all weights.",
    )
    new_word_head: bool = Field(
        False,
        description="In pre-training, where words are added (the people of VCR): draw the word head anew (published) "
        "instead of keeping what it has learnt.",
    )


class Exclusion(Settings):
    """A benchmark's file whose pictures are left out of pre-training, and of which of its splits."""

    file: FilePath = Field(description="refs(*).p, Karpathy's dataset_*.json, v2_*_questions.json or snli_ve_*.jsonl.")
    splits: str | None = Field(None, description="Splits joined by +; null: all that the benchmark measures on.")

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, values: Any) -> Any:
        return {"file": values} if isinstance(values, str | Path) else values


class Source(Settings):
    """One set of captioned pictures."""

    kind: Literal["captions", "vcr", "nlvr"] = Field(
        "captions",
        description="vcr: questions of VCR with their true answers and rationales (second stage); nlvr: NLVR's "
        "sentences, whose labels are what matching learns.",
    )
    captions: FilePlace = Field(
        description="The data set's public file (docs/pretraining_data.md), or a published text database, or its URL; "
        "of VCR and NLVR, the folder of its files or databases."
    )
    gt_regions: FilePlace | None = Field(
        None, description="Store of the regions of VCR's annotated boxes; null: they are in `regions` too."
    )
    regions: RegionPlaces = Field(
        description="The pictures' regions: a store, its URL, or a file of docs/formats.md; or a list of these."
    )
    split: str = Field("train", description="Which split of it.")
    lengths: Literal["plain", "published"] = Field(
        "plain",
        description="Of VCR, in training; published: by lists that count the texts of four answers, and with 100 "
        "annotated regions; what is longer than max_text by the lists is left out.",
    )
    splits: FilePath | None = Field(
        None, description="Karpathy's dataset_coco.json, to part a file without splits (COCO's own, Visual Genome) by."
    )
    exclude: list[Exclusion] = Field(
        default_factory=list,
        description="Benchmarks' files whose pictures are left out; each a path, or {file: ..., splits: val+test}.",
    )
    addresses: list[FilePath] = Field(
        default_factory=list,
        description="COCO's files that say where its pictures are at Flickr (captions_*.json), to know them by.",
    )
    pictures: FilePath | None = Field(
        None, description="Lines `address<TAB>name`, or JSON: what each picture is called (Conceptual Captions, SBU)."
    )
    missing: Literal["refuse", "skip"] = Field(
        "refuse", description="What becomes of captions whose picture has no regions; skip: left out, and counted."
    )
    name: str | None = Field(None, description="Name in logs; null: its number.")
    weight: Weight | None = Field(
        None, description="Part of the mixture, as the other sources' weights; null for all: by their captions."
    )


class Objectives(Settings):
    """Pre-training objectives: how often each is drawn, and their constants (paper, section 3.2)."""

    mlm: Weight = Field(2, description="Weight of masked words.")
    itm: Weight = Field(2, description="Weight of image-text matching.")
    mrfr: Weight = Field(1, description="Weight of masked-region feature regression.")
    mrckl: Weight = Field(1, description="Weight of masked-region class distributions (KL).")
    mrc: Weight = Field(0, description="Weight of masked-region classes (hard).")
    masking: Literal["conditional", "joint"] = Field(
        "conditional",
        description="conditional: words or regions are masked, never both; joint: both at once (ablation).",
    )
    mask_probability: Share = Field(0.15, description="Chance of a piece or a region to be masked.")
    itm_negative_probability: Share = Field(0.5, description="Chance of a pair to be made a mismatch.")
    itm_swap: Literal["either", "image"] = Field(
        "either",
        description="What a mismatch replaces; either: image or text at even odds (paper); image: as published.",
    )
    transport_weight: Weight = Field(0.1, description="Weight of word-region alignment in matching; 0: off.")
    transport_include_special: bool = Field(
        True, description="Whether CLS and SEP take part in the alignment (published: yes)."
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> "Objectives":
        if not self.mlm + self.itm + self.mrfr + self.mrckl + self.mrc:
            raise ValueError("every objective has weight 0; give one of mlm, itm, mrfr, mrckl, mrc a weight")
        return self


Parity = Annotated[
    Literal["mended", "official"],
    Field(
        description="official: what the published code does, accidents included, wherever a setting is left out; "
        "docs/differences.md lists it. mended: what it should do."
    ),
]
# What `parity: official` puts for settings that are left out; a task adds its own (`Task.published`).
OFFICIAL: dict[str, dict[str, Any]] = {
    "train": {
        "batching": "published",
        "accumulation": "sum",
        "optimizer": "adamw-published",
        "decayed": "names",
    },
    "objectives": {"itm_swap": "image"},
    "model": {"new_word_head": True},
    "sources": {"lengths": "published"},  # of kind vcr
}


class PretrainRecipe(Settings):
    """Pre-training on captioned pictures."""

    kind: Literal["pretrain"] = "pretrain"
    parity: Parity = "mended"
    model: ModelSettings = Field(default_factory=ModelSettings, description="The model.")
    sources: list[Source] = Field(min_length=1, description="Captioned pictures to train on.")
    validation: list[Source] = Field(default_factory=list, description="Captioned pictures to validate on.")
    objectives: Objectives = Field(default_factory=Objectives, description="What is learnt.")
    max_text: int | None = Field(
        None,
        ge=1,
        description="Longest text in pieces, CLS and SEP not counted; longer ones are cut. null: 60, or 220 for VCR.",
    )
    vocabulary: FilePath | None = Field(None, description="Vocabulary file; null: looked up as the processor does.")
    train: Training = Field(default_factory=Training, description="How it is trained.")

    @model_validator(mode="after")
    def _weights_of_all_or_none(self) -> "PretrainRecipe":
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("some sources have a weight and some have none; give every source one, or none")
        return self


class FinetuneRecipe(Settings):
    """Fine-tuning on one task."""

    kind: Literal["finetune"] = "finetune"
    parity: Parity = "mended"
    task: str = Field(description="Task by name (vqa) or module path (mine.gqa).")
    model: ModelSettings = Field(default_factory=ModelSettings, description="The model.")
    data: FilePath = Field(
        description="Folder of the benchmark's own files or text databases, or one's own file (docs/your_data.md)."
    )
    regions: RegionPlaces = Field(
        description="The pictures' regions: a store, its URL, or a file of docs/formats.md; or a list of these."
    )
    validation_regions: RegionPlaces | None = Field(
        None, description="Regions to validate with; null: the same (published expressions validate on detected boxes)."
    )
    train_split: str = Field("train", description="Split to train on.")
    validation_split: str | None = Field("val", description="Split to validate on; null: no validation.")
    max_text: int | None = Field(
        None,
        ge=1,
        description="Longest text in pieces, CLS and SEP not counted; longer ones are cut. null: 60, or 220 for VCR.",
    )
    vocabulary: FilePath | None = Field(None, description="Vocabulary file; null: the model's, or looked up.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the task, by name.")
    train: Training = Field(default_factory=Training, description="How it is trained.")


Recipe = PretrainRecipe | FinetuneRecipe
KINDS: dict[str, type[PretrainRecipe] | type[FinetuneRecipe]] = {"pretrain": PretrainRecipe, "finetune": FinetuneRecipe}


# Reading ----------------------------------------------------------------------------------------------


def load_recipe(path_or_name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe from a YAML file or by the name of a shipped one.

    Args:
        path_or_name: a file, or a name out of `shipped_recipes()` (without .yaml).
        overrides: settings to change, as `train.steps=10`; values are YAML, `sources.0.split=val` reaches into lists.

    Raises:
        FileNotFoundError: there is neither such a file nor such a recipe; the message names near ones.
        ValueError: the YAML is malformed or a setting is unknown or wrong; one line for each.
    """
    name, text = _find(path_or_name)
    return parse_recipe(text, overrides, name=name)


def parse_recipe(text: str, overrides: Iterable[str] = (), name: str = "recipe") -> Recipe:
    """A recipe from YAML text; `name` stands in messages, the rest is as in `load_recipe`."""
    values = read_yaml(text, name)
    if not isinstance(values, dict):
        raise ValueError(f"{name}: a recipe is a mapping of settings, this is a {type(values).__name__}")
    overridden = {}
    for override in overrides:
        overridden[_override(values, override)] = override
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{name}: kind: {'missing' if kind is None else f'unknown kind {kind!r}'}; one of {', '.join(KINDS)}"
        )
    try:
        return KINDS[kind].model_validate(values)
    except ValidationError as error:
        lines = [_explain(KINDS[kind], detail, name, overridden) for detail in error.errors()]
        raise ValueError("\n".join(lines)) from None


def with_parity(recipe: Recipe, task: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    """The recipe as it is trained: under `parity: official`, with the published behaviour for settings left out.

    Args:
        recipe: as it was read.
        task: what the task adds: section (`train`, `options`) -> setting -> value.
    """
    if recipe.parity != "official":
        return recipe
    task = task or {}
    changed: dict[str, Any] = {"train": _official(recipe.train, {**OFFICIAL["train"], **task.get("train", {})})}
    if isinstance(recipe, FinetuneRecipe):
        changed["options"] = {**task.get("options", {}), **recipe.options}
    else:
        changed["objectives"] = _official(recipe.objectives, OFFICIAL["objectives"])
        changed["model"] = _official(recipe.model, OFFICIAL["model"])
        changed["sources"] = [
            _official(source, OFFICIAL["sources"]) if source.kind == "vcr" else source for source in recipe.sources
        ]
    return recipe.model_copy(update=changed)


def with_order(recipe: Recipe) -> Recipe:
    """The recipe with `order: shards` where regions are behind a URL and nobody said in which order to read them."""
    parts: list[Any] = [recipe] if isinstance(recipe, FinetuneRecipe) else [*recipe.sources]
    places = [part.regions for part in parts]
    remote = any("://" in str(place) for held in places for place in (held if isinstance(held, list) else [held]))
    if not remote or "order" in recipe.train.model_fields_set:
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"order": "shards"})})


def _official(settings: S, published: Mapping[str, Any]) -> S:
    """The settings with the published values of those that are left out."""
    left_out = {key: value for key, value in published.items() if key not in settings.model_fields_set}
    return settings.model_copy(update=left_out)


def shipped_recipes() -> dict[str, str]:
    """Name -> text of the recipes that come with the package."""
    folder = importlib.resources.files("uniter").joinpath("recipes")
    if not folder.is_dir():
        return {}
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): f.read_text(encoding="utf-8") for f in files}


def to_yaml(recipe: Settings) -> str:
    """YAML of a recipe with every setting written out; `parse_recipe` reads it back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def read_yaml(text: str, name: str = "YAML") -> Any:
    """Strict YAML: only plain data, no key twice, 5e-5 is a number (YAML 1.1 takes it for a word).

    Raises:
        ValueError: malformed; the message names `name` and the line.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{name}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from None


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool | None):
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key}: given twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _find(path_or_name: str | Path) -> tuple[str, str]:
    path = Path(path_or_name)
    if path.is_file():
        try:
            return str(path_or_name), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8 text; is this a recipe?") from None
    shipped = shipped_recipes()
    if str(path_or_name) in shipped:
        return f"{path_or_name}.yaml", shipped[str(path_or_name)]
    here = {str(file) for file in path.parent.glob("*.yaml")} if path.parent.is_dir() else set()
    near = difflib.get_close_matches(path.name.removesuffix(".yaml"), shipped, n=3, cutoff=0.5)
    near += difflib.get_close_matches(str(path_or_name), sorted(here), n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped recipes: {', '.join(shipped) or 'none'}"
    raise FileNotFoundError(f"{path_or_name}: neither a file nor a shipped recipe; {hint}")


def _override(values: dict, override: str) -> str:
    """Set one `key=value` in nested settings, and return its dotted key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ValueError(f"override {override!r}: write key=value, as in train.steps=10")
    value = read_yaml(text, f"override {override!r}")
    place: Any = values
    *groups, last = key.split(".")
    try:
        for group in groups:
            if isinstance(place, list):
                place = place[int(group)]
            else:
                if place.get(group) is None:
                    place[group] = {}
                place = place[group]
        if isinstance(place, list):
            place[int(last)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise TypeError
    except (ValueError, IndexError, AttributeError, TypeError):
        raise ValueError(f"override {override!r}: there is no such place in the recipe") from None
    return key


# Errors a person can act on ---------------------------------------------------------------------------


def _explain(recipe: type[Settings], detail: Any, name: str, overridden: dict[str, str]) -> str:
    keys = [str(part) for part in detail["loc"]]
    dotted = ".".join(keys)
    hits = [text for key, text in overridden.items() if key == dotted or key.startswith(dotted + ".")]
    where = f"override {hits[0]!r}" if hits else name
    if detail["type"] == "extra_forbidden":
        return f"{where}: {dotted}: unknown; {_nearest(recipe, keys)}"
    if detail["type"] == "missing":
        return f"{where}: {dotted}: missing; {_description(recipe, keys)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if detail["type"] == "value_error":
        return f"{where}: {dotted}: {message}"
    return f"{where}: {dotted}: should be {message}, got {detail['input']!r}"


def _names(settings: type[Settings]) -> list[str]:
    return [field.alias or key for key, field in settings.model_fields.items()]


def _group(recipe: type[Settings], keys: list[str]) -> type[Settings] | None:
    """The settings class that holds the last of `keys`."""
    group: Any = recipe
    for key in keys[:-1]:
        if key.isdigit():
            continue
        fields = {field.alias or name: field for name, field in group.model_fields.items()}
        if key not in fields:
            return None
        annotation = fields[key].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        group = next((part for part in inner if isinstance(part, type) and issubclass(part, Settings)), None)
        if group is None:
            return None
    return group


def _nearest(recipe: type[Settings], keys: list[str]) -> str:
    group = _group(recipe, keys)
    known = _names(group) if group else []
    near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    for name, field in recipe.model_fields.items():  # right name, wrong place
        part = field.annotation
        if isinstance(part, type) and issubclass(part, Settings):
            elsewhere = difflib.get_close_matches(keys[-1], _names(part), n=1, cutoff=0.85)
            if elsewhere:
                return f"did you mean {name}.{elsewhere[0]}?"
    return f"known here: {', '.join(known)}"


def _description(recipe: type[Settings], keys: list[str]) -> str:
    group = _group(recipe, keys)
    fields = {field.alias or name: field for name, field in group.model_fields.items()} if group else {}
    return (fields[keys[-1]].description if keys[-1] in fields else None) or "it has to be given"
