"""Recipe in, run out: builds the model and the job that a recipe describes and hands them to the loop."""

import difflib
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from uniter import draws
from uniter.adapters import add_lora
from uniter.configuration_uniter import UniterConfig, wrong_value
from uniter.growth import grow
from uniter.inspection import Drawing, draw_examples
from uniter.modeling_uniter import UniterForPreTraining, UniterPreTrainedModel
from uniter.pipeline import SHIPPED, check_detector, check_vocabulary
from uniter.pretraining import Pretraining, make_objectives, read_source
from uniter.processing_uniter import UniterProcessor, Vocabulary
from uniter.recipe import (
    FinetuneRecipe,
    ModelSettings,
    PretrainRecipe,
    Recipe,
    parse_recipe,
    read_yaml,
    to_yaml,
    with_order,
    with_parity,
)
from uniter.regions.formats import open_regions
from uniter.regions.source import RegionSource
from uniter.tasks.base import Task, load
from uniter.tasks.finetuning import FineTuning
from uniter.tasks.retrieval import ids_beside
from uniter.tasks.vcr import VCR, vcr_config
from uniter.training.incidents import MODEL, read_report
from uniter.training.loop import Result, train
from uniter.training.replay import Replay
from uniter.training.replay import replay as replay_job

M = TypeVar("M", bound=UniterPreTrainedModel)


def run(
    recipe: Recipe, out: str | Path, progress: bool = True, resume: bool = True, max_memory: int | None = None
) -> Result:
    """Train what a recipe describes, from where its folder stands.

    Args:
        recipe: as `load_recipe` gives it.
        out: folder of the run; a run with the same settings is resumed, anything else is refused.
        progress: show a progress line.
        resume: False refuses a folder that holds a run.
        max_memory: bytes that training may take; see `uniter.training.loop.train`.

    Raises:
        ValueError: a file is missing or foreign, settings do not fit each other, or the folder holds something else.
    """
    recipe = with_order(recipe)
    recipe = with_parity(recipe, load(recipe.task).published if isinstance(recipe, FinetuneRecipe) else None)
    job = pretraining_job(recipe) if isinstance(recipe, PretrainRecipe) else finetuning_job(recipe)
    return train(job, recipe.train, out, to_yaml(recipe), resume, progress, max_memory)


def replay(place: str | Path) -> list[Replay]:
    """Run a step again that went wrong, from what its run kept of it.

    Args:
        place: the folder `incident-...` of the run.

    Raises:
        ValueError: it is none, or the run's settings or data are not there any more.
    """
    place = Path(place)
    read_report(place)
    config = place.parent / "config.yaml"
    if not config.is_file():
        raise ValueError(f"{config}: no such file; leave the incident in its run's folder")
    recipe = parse_recipe(config.read_text(encoding="utf-8"), name=str(config))
    settings = ModelSettings.model_validate({"from": place / MODEL})
    recipe = recipe.model_copy(update={"model": settings})
    job = pretraining_job(recipe) if isinstance(recipe, PretrainRecipe) else finetuning_job(recipe)
    return replay_job(job, recipe.train, place)


def pretraining_job(recipe: PretrainRecipe) -> Pretraining:
    """The job of a pre-training recipe."""
    if recipe.model.lora:
        raise ValueError("model.lora is for fine-tuning: leave it out")
    stories = any(source.kind == "vcr" for source in [*recipe.sources, *recipe.validation])
    processor = make_processor(recipe.model, recipe.vocabulary, recipe.max_text, VCR.max_text if stories else 60)
    if stories:
        processor = processor.with_words(VCR.words)
    config = vcr_config(processor.vocabulary) if stories else {}
    sources = [read_source(source, processor) for source in recipe.sources]
    validation = [read_source(source, processor, training=False) for source in recipe.validation]
    model = make_model(UniterForPreTraining, recipe.model, processor, sources[0].store, recipe.train.seed, **config)
    for source in [*sources, *validation]:
        check_detector(model.config.detector, source.store.detector, "the model", source.store.path)
    objectives = make_objectives(recipe.objectives, processor.vocabulary)
    weights = [source.weight for source in recipe.sources if source.weight is not None]
    names = [source.name or str(number) for number, source in enumerate(recipe.sources)]
    return Pretraining(
        *(model, processor, sources, validation, objectives, recipe.train.seed, weights or None),
        names=names,
        near=recipe.train.order == "shards",
    )


def make_processor(
    model: ModelSettings, vocabulary: Path | None, max_text: int | None, usual: int = 60
) -> UniterProcessor:
    """The processor of a run: the vocabulary named, or that of the weights started from, or one found on this machine.

    `vocabulary: scenes` names the small one that ships with the package; without `max_text` the usual one holds.
    """
    if str(vocabulary) == "scenes":
        vocabulary = SHIPPED.parent / "vocab.txt"
    if vocabulary is not None and not vocabulary.exists():
        raise ValueError(f"vocabulary: there is no {vocabulary}: give a vocab.txt, or leave it out for the model's own")
    return UniterProcessor(Vocabulary.find(vocabulary, weights_folder(model)), max_text or usual)


def weights_folder(model: ModelSettings) -> Path | None:
    """Where a run's weights come from: a folder, or `shipped` for the pre-trained model in the package; None: fresh.

    Raises:
        ValueError: the folder holds no model.
    """
    folder = SHIPPED / "pretrained" if str(model.from_) == "shipped" else model.from_
    if folder is not None and not (folder / "config.json").is_file():
        raise ValueError(
            f"model.from: {folder} holds no saved model (no config.json): give a folder that training wrote, such as "
            "`best` or `last` of a run"
        )
    return folder


def make_model(
    kind: type[M],
    settings: ModelSettings,
    processor: UniterProcessor,
    store: RegionSource,
    seed: int,
    **config,
) -> M:
    """A model that starts from a folder's weights, or a fresh one of a named size; new parts are drawn from the seed.

    Where more segment types or words are asked for than the folder's model has, it grows (`uniter.growth`).

    Raises:
        ValueError: the weights belong to another vocabulary or another detector, or a number of the configuration is
            unknown, or fewer types or words are asked for than there are.
    """
    import torch

    _check_config(settings.config)

    torch.manual_seed(draws.number(seed, "weights"))
    folder = weights_folder(settings)
    if folder is None:
        shape = UniterConfig.of_size(
            settings.size,
            **{
                "vocab_size": len(processor.vocabulary),
                "region_feature_size": store.feature_size,
                "num_region_classes": store.num_classes,
                "detector": store.detector,
                **config,
                **settings.config,
            },
        )
        return kind(shape)
    asked = {**config, **settings.config}
    types, words = asked.pop("type_vocab_size", None), asked.pop("vocab_size", None)
    model = kind.from_pretrained(folder, **asked)
    try:
        grow(model, types, words, seed, settings.new_word_head)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    check_detector(model.config.detector, store.detector, folder, store.path)
    check_vocabulary(model, processor, folder)
    return model


def _check_config(given: dict[str, Any]) -> None:
    """Refuse numbers that UniterConfig would keep and nobody would read."""
    known = [name for name in signature(UniterConfig).parameters if name != "kwargs"]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"model.config.{name}: unknown; {hint}")
    if wrong := wrong_value(given):
        raise ValueError(f"model.config.{wrong}")


def finetuning_job(recipe: FinetuneRecipe) -> FineTuning:
    """The job of a fine-tuning recipe."""
    kind = load(recipe.task)
    processor = make_processor(recipe.model, recipe.vocabulary, recipe.max_text, kind.max_text)
    store = open_regions(recipe.regions)
    options = dict(recipe.options)
    most = options.pop("validation_examples", None)
    if most is not None and (not isinstance(most, int) or most < 1):
        raise ValueError(f"options.validation_examples: should be a number of examples or null, got {most!r}")
    task = kind(recipe.data, store, processor, recipe.train.seed, **options)
    processor = task.processor or processor  # with the words that the task needs
    model = make_model(task.model, recipe.model, processor, store, recipe.train.seed, **task.config())
    adapter = None
    if recipe.model.lora:
        base = weights_folder(recipe.model)
        if base is None:
            raise ValueError("model.lora trains beside weights that stay as they are: say which by model.from")
        adapter = add_lora(model, recipe.model.lora, recipe.train.seed, base)
    measured = None
    if recipe.validation_regions is not None:
        others = open_regions(recipe.validation_regions)
        check_detector(model.config.detector, others.detector, "the model", others.path)
        measured = kind(recipe.data, others, processor, recipe.train.seed, **options)
    return FineTuning(
        task, model, recipe.train_split, recipe.validation_split, most, measured=measured, adapter=adapter
    )


def evaluate(
    task: str,
    data: str | Path,
    regions: str | Path | Sequence[str | Path],
    split: str,
    model: str | Path | None = None,
    options: Sequence[str] = (),
    progress: bool = False,
) -> dict[str, float]:
    """The numbers of a model on a split of a task.

    Raises:
        ValueError: nobody says what is right in this split, among others.
    """
    prepared, examples = _task(task, data, regions, split, options, _processor(task, model))
    prepared.perfect(examples[:1])  # raises where there are no labels: now, not after an hour's work
    return prepared.evaluate(_model(prepared, model), examples, detailed=True, progress=progress)


def score(
    task: str,
    data: str | Path,
    split: str,
    predictions: str | Path,
    options: Sequence[str] = (),
    regions: str | Path | Sequence[str | Path] | None = None,
) -> dict[str, float]:
    """The numbers of a file of predictions, whoever made it, on a split of a task; needs no model.

    Args:
        task: by name or module path.
        data: folder of the benchmark's files.
        split: which split.
        predictions: the benchmark's prediction file.
        options: of the task, as key=value.
        regions: the pictures' regions, where a number needs them (the best that detected boxes allow); None: without.

    Raises:
        ValueError: the file is missing or foreign, or lacks predictions, or nobody says what is right in this split.
    """
    prepared, examples = _task(task, data, regions, split, options)
    prepared.perfect(examples[:1])  # without labels the file is not to blame
    said = prepared.read(predictions, examples)
    try:
        return prepared.score(said, examples) | prepared.breakdown(said, examples)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{predictions} cannot be scored as predictions of {task} on {split} ({error}): give a file as "
            f"`uniter predict {task} --split {split}` writes it"
        ) from error


def predict(
    task: str,
    data: str | Path,
    regions: str | Path | Sequence[str | Path],
    split: str,
    model: str | Path | None,
    options: Sequence[str],
    out: str | Path | None,
    progress: bool = False,
    drawing: Drawing | None = None,
) -> int:
    """Write the benchmark's prediction file, draw examples, or both; returns how many predictions the file holds.

    Without `out` there is no such file, without `drawing` nothing is drawn.

    Raises:
        ValueError: the file exists already, or a folder to draw into holds something, among others.
    """
    for path in () if out is None else (Path(out), ids_beside(out)):  # retrieval writes both
        if path.exists():
            raise ValueError(f"{path} exists already: remove it or write to another name")
    if drawing is not None:
        drawing.check()
    prepared, examples = _task(task, data, regions, split, options, _processor(task, model))
    loaded = None
    if drawing is not None:
        loaded = _model(prepared, model)
        draw_examples(prepared, loaded, split, examples, drawing, progress)
    if out is None:
        return 0
    Path(out).parent.mkdir(parents=True, exist_ok=True)  # now, not after an hour's work
    found = prepared.predict(loaded or _model(prepared, model), examples, progress=progress)
    prepared.write(found, out, examples)
    return len(found)


def _task(
    name: str,
    data: str | Path,
    regions: str | Path | Sequence[str | Path] | None,
    split: str,
    options: Sequence[str],
    processor: UniterProcessor | None = None,
) -> tuple[Task, list]:
    given = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise ValueError(f"option {option!r}: write key=value")
        given[key] = read_yaml(text, f"option {option!r}")
    task = load(name)(data, None if regions is None else open_regions(regions), processor, **given)
    return task, task.examples(split)


def _processor(task: str, model: str | Path | None) -> UniterProcessor:
    return UniterProcessor.from_pretrained(_folder(task, model))


def _folder(task: str, model: str | Path | None) -> Path:
    folder = SHIPPED / task if model is None else Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no saved model (no config.json): give a folder that training wrote")
    return folder


def _model(task: Task, folder: str | Path | None) -> UniterPreTrainedModel:
    import torch

    place = _folder(task.name, folder)
    loaded: Any = task.model.from_pretrained(place, output_loading_info=True)
    model, report = loaded
    if report["missing_keys"]:
        raise ValueError(
            f"{place} has no head for {task.name}: give a model that was fine-tuned on it "
            f"(uniter finetune), this one lacks {min(report['missing_keys'])}"
        )
    assert isinstance(task.regions, RegionSource) and task.processor is not None
    check_vocabulary(model, task.processor, place)
    check_detector(model.config.detector, task.regions.detector, place, task.regions.path)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
