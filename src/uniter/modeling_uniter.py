"""The model, parts before whole, heads last (paper section 3.1).

Letters: B pairs, T text tokens, R regions, L = T + R, P real tokens of a batch, Q those of them that read, D hidden,
F region features, C region classes, V word pieces, N heads, H head size, M masked positions of a batch.

A batch comes and goes in padded form, (B, T) and (B, R), and is computed without padding, as one flat row of tokens
(`packing`). Where only some of the last states are asked for, the last layer computes no others.

Attributes of the trunk keep the official parameter names, which are BERT's. LayerNorm's epsilon is 1e-12 everywhere and
GELU is the exact (erf) form, as published.
"""

import copy
import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils import logging as shell_logging

from uniter.configuration_uniter import UniterConfig, wrong_value
from uniter.dropout import Dropout
from uniter.packing import Packing, Reading, attend_packed, weights_of_spans

log = logging.getLogger(__name__)

MASKED_SCORE = -1e4  # what a padded region scores (published)


def layer_norm(size: int) -> nn.LayerNorm:
    """LayerNorm with the published epsilon."""
    return nn.LayerNorm(size, eps=1e-12)


# ---------------------------------------------------------------- embeddings


class TextEmbeddings(nn.Module):
    """Word + position + type, LayerNorm, dropout."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = layer_norm(config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, types: Tensor, positions: Tensor) -> Tensor:
        """Pieces, their types and their places in the text, of one shape (...) -> (..., D)."""
        words = self.word_embeddings(input_ids)
        return self.dropout(
            self.LayerNorm(words + self.position_embeddings(positions) + self.token_type_embeddings(types))
        )


class RegionEmbeddings(nn.Module):
    """Feature and place, each with a LayerNorm of its own, + type, LayerNorm, dropout.

    A masked region's feature is the learned mask vector.
    """

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.img_linear = nn.Linear(config.region_feature_size, config.hidden_size)
        self.img_layer_norm = layer_norm(config.hidden_size)
        self.pos_layer_norm = layer_norm(config.hidden_size)
        self.pos_linear = nn.Linear(7, config.hidden_size)
        self.mask_embedding = nn.Embedding(2, config.region_feature_size, padding_idx=0)  # row 0 is never used
        self.LayerNorm = layer_norm(config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, regions: Tensor, locations: Tensor, type_embeddings: Tensor, masked: Tensor | None) -> Tensor:
        """(..., F) features, (..., 7) fractions, (..., D) embedded types, (...) which are masked -> (..., D)."""
        seen = self.img_linear(regions)
        if masked is not None:
            hidden = self.img_linear(self.mask_embedding.weight[1])
            seen = torch.where(masked[..., None], hidden, seen)
        place = self.pos_layer_norm(self.pos_linear(locations))
        return self.dropout(self.LayerNorm(self.img_layer_norm(seen) + place + type_embeddings))


# ---------------------------------------------------------------- encoder


class SelfAttention(nn.Module):
    """Query, key and value projections and scaled dot-product attention within each sequence."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.attention_probs_dropout_prob)  # only its rate is used

    def forward(self, readers: Tensor, states: Tensor, reading: Reading) -> Tensor:
        """(Q, D) states that read and the (P, D) states of all tokens -> (Q, D)."""
        rate = self.dropout.p if self.training else 0.0
        return attend_packed(self.query(readers), self.key(states), self.value(states), reading, self.heads, rate)

    def weights(self, states: Tensor, everyone: Reading) -> list[Tensor]:
        """What `forward` weights the values with, without dropout: for each span (sequences, N, S, S)."""
        return weights_of_spans(self.query(states), self.key(states), everyone, self.heads)


class Residual(nn.Module):
    """Linear, dropout, add the input back, LayerNorm (post-norm)."""

    def __init__(self, config: UniterConfig, width: int):
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = layer_norm(config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """(Q, width) and (Q, D) -> (Q, D)."""
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)


class Attention(nn.Module):
    """Self-attention and its residual."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Residual(config, config.hidden_size)

    def forward(self, states: Tensor, reading: Reading) -> Tensor:
        """(P, D) -> (Q, D)."""
        readers = states if reading.readers is None else states.index_select(0, reading.readers)
        return self.output(self.self(readers, states, reading), readers)


class Intermediate(nn.Module):
    """The widening half of the feed-forward block."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, states: Tensor) -> Tensor:
        """(Q, D) -> (Q, intermediate)."""
        return F.gelu(self.dense(states))


class Layer(nn.Module):
    """One BERT layer: attention, then feed-forward, each with a residual and post-norm."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Residual(config, config.intermediate_size)

    def forward(self, states: Tensor, reading: Reading) -> Tensor:
        """(P, D) states of all tokens -> (Q, D) new ones of those that read."""
        states = self.attention(states, reading)
        return self.output(self.intermediate(states), states)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, states: Tensor, everyone: Reading, last: Reading, keep: bool = False) -> list[Tensor]:
        """(P, D) -> the last layer's output (Q, D), of the tokens that read there.

        With `keep`, before it the input and every other layer's output, (P, D) each.
        """
        before: list[Tensor] = []
        for number, layer in enumerate(self.layer, 1):
            before += [states] if keep else []
            states = layer(states, last if number == len(self.layer) else everyone)
        return [*before, states]

    def attentions(self, outputs: list[Tensor], everyone: Reading) -> list[list[Tensor]]:
        """What `forward` gave and kept -> each layer's attention weights, computed again from its input."""
        layers: Any = self.layer
        return [layer.attention.self.weights(states, everyone) for layer, states in zip(layers, outputs)]


class Pooler(nn.Module):
    """Linear and tanh over the first position (CLS; the first region when there is no text)."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return torch.tanh(self.dense(first))


# ---------------------------------------------------------------- trunk


@dataclass
class UniterOutput(ModelOutput):
    """What the trunk gives back.

    Args:
        text: (B, T, D) last states of the text, zero at padding and where they were not asked for; None without text.
        regions: (B, R, D) last states of the regions, likewise; None without regions.
        pooled: (B, D) the pooler's output; None where only others were asked for.
        hidden_states: with `output_hidden_states`, for the embeddings and each layer (B, T + R, D), text block first.
        attentions: with `output_attentions`, for each layer (B, N, T + R, T + R): how much each place (a row) reads of
            each other one; real rows sum to 1, padding is not read.
    """

    text: Tensor | None = None
    regions: Tensor | None = None
    pooled: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class HeadOutput(ModelOutput):
    """What a head gives back.

    Args:
        loss: scalar, None without labels; its reduction is the head's.
        logits: shape by head.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


@contextmanager
def _quiet():
    """Keeps the shell's progress bars and tables out of the way; what matters of them is said in one line of ours."""
    verbosity, bars = shell_logging.get_verbosity(), shell_logging.is_progress_bar_enabled()
    shell_logging.set_verbosity_error()
    shell_logging.disable_progress_bar()
    try:
        yield
    finally:
        shell_logging.set_verbosity(verbosity)
        if bars:
            shell_logging.enable_progress_bar()


class UniterPreTrainedModel(PreTrainedModel):
    """Initialisation and loading shared by the trunk and every head."""

    config_class = UniterConfig
    base_model_prefix = "uniter"
    main_input_name = "input_ids"
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal(0, initializer_range) weights, zero biases, LayerNorm 1 and 0, over heads too (published)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Embedding) and isinstance(module.padding_idx, int):
                nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.MultiheadAttention):  # its projection is bare, which the published rule passes over
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
        for name in getattr(module, "bare_biases", ()):
            nn.init.zeros_(getattr(module, name))

    @classmethod
    def from_pretrained(cls, path, *args, **kwargs) -> Self:  # pyrefly: ignore[bad-override]  # it is never called by name
        """Load a checkpoint folder; a head's checkpoint loads into the trunk and the other way.

        What was new, unused or of another shape is logged. With `output_loading_info=True` the report comes back too.

        Raises:
            ValueError: the folder holds no model, a damaged one or a part of the trunk; a tensor has another shape.
        """
        want_report = kwargs.pop("output_loading_info", False)
        _check_folder(Path(path))
        loaded: Any = None if args else _mapped(cls, Path(path), kwargs)
        if loaded is None:
            with _quiet():
                try:
                    loaded = super().from_pretrained(
                        path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
                    )
                except SafetensorError as error:
                    raise ValueError(
                        f"the weights in {path} are damaged ({error}): copy or train them again"
                    ) from error
        model, report = loaded
        if report["mismatched_keys"]:
            name, found, wanted = sorted(report["mismatched_keys"])[0]
            raise ValueError(
                f"{path}: {len(report['mismatched_keys'])} tensors have another shape than the model, the first is "
                f"{name}: {tuple(found)} in the checkpoint, {tuple(wanted)} in the model; load it with its own "
                "configuration"
            )
        trunk = {name for name, _ in model.named_parameters() if cls is UniterModel or name.startswith("uniter.")}
        missing = sorted(set(report["missing_keys"]) & trunk)
        if missing:
            few = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise ValueError(f"{path}: {len(missing)} of {len(trunk)} trunk tensors are not in the checkpoint: {few}")
        new, unused = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
        report["missing_keys"] = set(new) - model.after_loading(set(new))
        log.info("%s: %d tensors loaded; new: %s; unused: %s", path, len(trunk), new or "none", unused or "none")
        model.eval()
        return (model, report) if want_report else model  # pyrefly: ignore[bad-return]  # the shell's way to report

    def save_pretrained(self, folder, **kwargs) -> None:  # pyrefly: ignore[bad-override]  # it is never called by name
        """Write `config.json` and `model.safetensors` into a folder."""
        with _quiet():
            super().save_pretrained(folder, **kwargs)

    def after_loading(self, new: set[str]) -> set[str]:
        """Hook for heads that derive a part from another part of the checkpoint.

        Args:
            new: names of the parameters that were not in the checkpoint.

        Returns:
            Those of them that have been derived.
        """
        return set()


def _check_folder(folder: Path) -> None:
    """Refuse a local folder without a model before the shell looks for it elsewhere."""
    if not folder.exists():
        if folder.is_absolute() or len(folder.parts) > 2:  # "owner/name" may be a name on the hub
            raise ValueError(f"there is no folder {folder}: check the path")
        return
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{folder} holds no saved model (no config.json): give a folder that training wrote")
    try:
        settings = dict(json.loads(config.read_text(encoding="utf-8")))
        if wrong := wrong_value(settings):
            raise ValueError(wrong)
        UniterConfig.from_dict(settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{config} is damaged ({error}): copy or train the model again") from None
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no weights (no model.safetensors): copy or train the model again")


def _mapped(
    kind: type[UniterPreTrainedModel], folder: Path, settings: dict[str, Any]
) -> tuple[UniterPreTrainedModel, dict[str, set[str]]] | None:
    """A model whose weights are a mapped file, read when they are first used, and the shell's report.

    What comes out is what the shell gives, new parts drawn from the same random numbers, in a quarter of its time.
    None where the shell has to look: another layout of the folder, settings that are none of ours, weights that do not
    fit.
    """
    file = folder / "model.safetensors"
    ours = {*signature(UniterConfig).parameters, "config", "num_labels", "id2label", "label2id"}
    if not file.is_file() or (folder / "adapter_config.json").exists() or not ours.issuperset(settings):
        return None
    if "config" in settings and len(settings) > 1:
        return None
    config = (
        copy.deepcopy(settings["config"]) if "config" in settings else UniterConfig.from_pretrained(folder, **settings)
    )
    if not isinstance(config, UniterConfig) or hasattr(config, "quantization_config"):
        return None
    try:
        with safe_open(file, "pt") as stored:
            tensors: dict[str, Tensor] = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
    numbers = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
    said = getattr(torch, config.dtype) if isinstance(config.dtype, str) else config.dtype  # peft's writes a word
    config.name_or_path, config.dtype = str(folder), said or numbers
    with torch.device("meta"):
        model = kind(config)
    wanted, prefix = model.state_dict(), f"{kind.base_model_prefix}."
    # A trunk's names in a head's checkpoint have a prefix, and the other way round.
    known = {
        name: next((one for one in (name, prefix + name, name.removeprefix(prefix)) if one in wanted), None)
        for name in tensors
    }
    found = {ours: tensors[name].to(config.dtype) for name, ours in known.items() if ours is not None}
    missing = set(wanted) - set(found)
    in_trunk = lambda name: kind is UniterModel or name.startswith(prefix)
    if any(map(in_trunk, missing)) or any(wanted[name].shape != tensor.shape for name, tensor in found.items()):
        return None
    model.to(config.dtype)  # pyrefly: ignore[bad-argument-type]  # its wrapper has no self
    _draw(model, model, missing)
    model.load_state_dict(found, strict=False, assign=True)
    return model, {
        "missing_keys": missing,
        "unexpected_keys": {name for name, ours in known.items() if ours is None},
        "mismatched_keys": set(),
        "error_msgs": set(),
    }


def _draw(model: UniterPreTrainedModel, module: nn.Module, missing: set[str], prefix: str = "") -> None:
    """Give each part that has a new parameter the start that `_init_weights` says, inner parts first as the shell."""
    for name, child in module.named_children():
        _draw(model, child, missing, f"{prefix}{name}.")
    if any(f"{prefix}{name}" in missing for name, _ in module.named_parameters(recurse=False)):
        module.to_empty(device="cpu", recurse=False)
        model._init_weights(module)


class UniterModel(UniterPreTrainedModel):
    """The trunk: embeds text and regions, lets them read each other, pools."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.img_embeddings = RegionEmbeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word table."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word table."""
        assert isinstance(value, nn.Embedding)
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        text_mask: Tensor | None = None,
        text_types: Tensor | None = None,
        regions: Tensor | None = None,
        locations: Tensor | None = None,
        region_mask: Tensor | None = None,
        region_types: Tensor | None = None,
        masked_regions: Tensor | None = None,
        asked_text: Tensor | None = None,
        asked_regions: Tensor | None = None,
        pooled_only: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **_,
    ) -> UniterOutput:
        """Joint states of text and regions; either may be left out.

        Everything is given unless `asked_text`, `asked_regions` or `pooled_only` say that less is read, which saves
        most of the last layer; those have no say where hidden states or attentions are given.

        Args:
            input_ids: (B, T) word pieces, CLS first and SEP last, padded with 0.
            text_mask: (B, T) bool, True = real; all real if left out.
            text_types: (B, T) segment types, 0 if left out.
            regions: (B, R, F) region features; or flat, (real regions, F), those of all images behind each other.
            locations: fractions of the image x1 y1 x2 y2 w h w*h, (B, R, 7) or flat, as the features.
            region_mask: (B, R) bool, True = real; all real if left out, which flat regions do not allow.
            region_types: (B, R) segment types, 1 if left out.
            masked_regions: (B, R) bool, True = feature replaced by the learned mask vector (the place stays).
            asked_text: (B, T) bool, only these states are read (and those of `asked_regions`).
            asked_regions: (B, R) bool, only these states are read (and those of `asked_text`).
            pooled_only: only the pooled state is read.
            output_hidden_states: also give the embeddings and every layer's output.
            output_attentions: also give every layer's attention weights, computed beside the fused kernel.

        Raises:
            ValueError: neither text nor regions, a text longer than the position table, features of another size, or
                flat regions of another number than the mask says.
        """
        if input_ids is None and regions is None:
            raise ValueError("give the model a text (input_ids), regions, or both")
        packing = Packing(
            None if input_ids is None else _mask(text_mask, input_ids),
            None if regions is None else _mask(region_mask, regions),
        )
        blocks = []
        if input_ids is not None:
            blocks.append(self._embedded_text(packing, input_ids, text_types))
        if regions is not None:
            assert locations is not None, "regions come with locations"
            blocks.append(self._embedded_regions(packing, regions, locations, region_types, masked_regions))
        states = packing.joined(blocks)
        if torch.is_autocast_enabled(states.device.type):  # or the residual stream would stay in float32
            states = states.to(torch.get_autocast_dtype(states.device.type))

        keep = output_hidden_states or output_attentions
        last = packing.everyone
        if pooled_only and not keep:
            last = packing.first
        elif (asked_text is not None or asked_regions is not None) and not keep:
            last = packing.only(asked_text, asked_regions)
        layers = self.encoder(states, packing.everyone, last, keep)
        weights = self.encoder.attentions(layers, packing.everyone) if output_attentions else ()
        text_length = packing.text_length
        spread = None if last is packing.first else packing.spread(layers[-1], last)
        return UniterOutput(
            text=None if spread is None or input_ids is None else spread[:, :text_length],
            regions=None if spread is None or regions is None else spread[:, text_length:],
            pooled=self.pooler(packing.firsts(layers[-1], last)) if last in (packing.everyone, packing.first) else None,
            hidden_states=tuple(packing.spread(layer, last) for layer in layers) if output_hidden_states else None,
            attentions=tuple(map(packing.spread_pairs, weights)) if output_attentions else None,
        )

    def _embedded_text(self, packing: Packing, input_ids: Tensor, types: Tensor | None) -> Tensor:
        """(B, T) pieces -> (real pieces, D), those of all texts behind each other."""
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"a text of {input_ids.shape[1]} pieces is longer than the {self.config.max_position_embeddings} that "
                "the model has positions for: shorten it, or let the processor truncate"
            )
        ids = packing.words(input_ids)
        positions = packing.words(torch.arange(input_ids.shape[1], device=ids.device).expand_as(input_ids))
        return self.embeddings(ids, torch.zeros_like(ids) if types is None else packing.words(types), positions)

    def _embedded_regions(
        self, packing: Packing, regions: Tensor, locations: Tensor, types: Tensor | None, masked: Tensor | None
    ) -> Tensor:
        """Features and places, padded or flat -> (real regions, D), those of all images behind each other."""
        if regions.shape[-1] != self.config.region_feature_size:
            raise ValueError(
                f"regions have {regions.shape[-1]} features, the model was built for "
                f"{self.config.region_feature_size}: use the detector that the model was trained with"
            )
        table = self.embeddings.token_type_embeddings
        features, places = (packing.flat_regions(side).to(table.weight.dtype) for side in (regions, locations))
        kinds = torch.ones(len(features), dtype=torch.int64, device=features.device)
        kinds = kinds if types is None else packing.regions(types)
        return self.img_embeddings(features, places, table(kinds), None if masked is None else packing.regions(masked))


def _mask(mask: Tensor | None, side: Tensor) -> Tensor:
    """The (B, T) or (B, R) bool mask of pieces or regions; all of them are real if it is left out."""
    if mask is not None:
        return mask.bool()
    if side.is_floating_point() and side.dim() == 2:
        raise ValueError(f"{len(side)} flat regions come with no region_mask: mask as many, True = real")
    return torch.ones(side.shape[:2], dtype=torch.bool, device=side.device)


# ---------------------------------------------------------------- heads


class Transform(nn.Module):
    """Linear, GELU, LayerNorm: the first half of the word head."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = layer_norm(config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """(M, D) -> (M, D)."""
        return self.LayerNorm(F.gelu(self.dense(states)))


class WordPredictions(nn.Module):
    """Word scores of masked positions; the decoder is the word table itself."""

    bare_biases = ("bias",)

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor, word_table: Tensor) -> Tensor:
        """(M, D) states and the (V, D) word table -> (M, V)."""
        return F.linear(self.transform(states), word_table, self.bias)


class WordHead(nn.Module):
    """Holds `predictions`, the level that BERT's parameter names have."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.predictions = WordPredictions(config)


class FeatureRegression(nn.Module):
    """Feature of a masked region; the last matrix is the region projection itself, transposed."""

    bare_biases = ("bias",)

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), layer_norm(config.hidden_size)
        )
        self.bias = nn.Parameter(torch.zeros(config.region_feature_size))

    def forward(self, states: Tensor, projection: Tensor) -> Tensor:
        """(M, D) states and the (D, F) projection weight -> (M, F)."""
        return F.linear(self.net(states), projection.t(), self.bias)


class RegionClassifier(nn.Module):
    """Class scores of a masked region."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.GELU(),
            layer_norm(config.hidden_size),
            nn.Linear(config.hidden_size, config.num_region_classes),
        )

    def forward(self, states: Tensor) -> Tensor:
        """(M, D) -> (M, C)."""
        return self.net(states)


class UniterForPreTraining(UniterPreTrainedModel):
    """The trunk and the four pre-training heads; which one is asked is the objective's choice."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)
        self.cls = WordHead(config)
        self.feat_regress = FeatureRegression(config)
        self.region_classifier = RegionClassifier(config)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, **inputs) -> UniterOutput:
        """The trunk's output; arguments as in `UniterModel.forward`."""
        return self.uniter(**inputs)

    def words(self, states: Tensor) -> Tensor:
        """(M, D) states of masked words -> (M, V) scores."""
        return self.cls.predictions(states, self.uniter.embeddings.word_embeddings.weight)

    def features(self, states: Tensor) -> Tensor:
        """(M, D) states of masked regions -> (M, F) features."""
        return self.feat_regress(states, self.uniter.img_embeddings.img_linear.weight)

    def classes(self, states: Tensor) -> Tensor:
        """(M, D) states of masked regions -> (M, C) scores."""
        return self.region_classifier(states)

    def match(self, pooled: Tensor) -> Tensor:
        """(B, D) pooled -> (B, 2) scores; column 1 is "they belong together"."""
        return self.itm_output(pooled)


def two_layers(config: UniterConfig, width: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    """Linear, activation, LayerNorm, Linear: the published shape of most heads."""
    return nn.Sequential(nn.Linear(config.hidden_size, width), activation, layer_norm(width), nn.Linear(width, outputs))


class UniterForAnswers(UniterPreTrainedModel):
    """Scores of `config.num_labels` answers from the pooled state (VQA, visual entailment)."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)
        assert config.num_labels is not None
        self.vqa_output = two_layers(config, 2 * config.hidden_size, config.num_labels, nn.GELU())
        self.post_init()

    def forward(self, labels: Tensor | None = None, **inputs) -> HeadOutput:
        """Logits (B, num_labels); with soft `labels` of that shape the loss.

        The loss is binary cross-entropy, SUMMED over labels and averaged over examples (published: mean times labels).
        """
        logits = self.vqa_output(self.uniter(**inputs, pooled_only=True).pooled)
        if labels is None:
            return HeadOutput(logits=logits)
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").sum(1).mean()
        return HeadOutput(loss=loss, logits=logits)


class UniterForGrounding(UniterPreTrainedModel):
    """A score for each region (referring expressions)."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)
        if config.grounding_layers == 2:
            self.re_output = two_layers(config, config.hidden_size, 1, nn.GELU())
        else:
            self.re_output = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self, labels: Tensor | None = None, negatives: Tensor | None = None, margin: float = 0.2, **inputs
    ) -> HeadOutput:
        """Logits (B, R), padded regions -1e4; with `labels` the loss.

        Args:
            labels: (B,) the right region's index, -1 = none.
            negatives: (B,) the index of a wrong region to rank below it, -1 = the one that scores highest.
            margin: of the ranking loss, on the sigmoid scale.
            inputs: as in `UniterModel.forward`.

        The loss is cross-entropy over regions; with `negatives` it is the hinge max(0, margin + sigmoid(negative) -
        sigmoid(right)), 0 where a row has no right or no wrong region. Both are SUMMED over the batch (published).
        """
        states = self.uniter(**inputs, asked_regions=inputs.get("region_mask")).regions
        logits = self.re_output(states).squeeze(-1).float()
        if inputs.get("region_mask") is not None:
            logits = logits.masked_fill(~inputs["region_mask"].bool(), MASKED_SCORE)
        if labels is None:
            loss = None
        elif negatives is None:
            loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        else:
            loss = self._ranking_loss(logits, labels, negatives, margin)
        return HeadOutput(loss=loss, logits=logits)

    @staticmethod
    def _ranking_loss(logits_BR: Tensor, labels: Tensor, negatives: Tensor, margin: float) -> Tensor:
        right = labels.clamp(min=0)[:, None]
        hardest = logits_BR.detach().scatter(1, right, -torch.inf).argmax(1)
        wrong = torch.where(negatives < 0, hardest, negatives)[:, None]
        right_score, wrong_score = logits_BR.gather(1, right).squeeze(1), logits_BR.gather(1, wrong).squeeze(1)
        hinge = F.relu(margin + torch.sigmoid(wrong_score) - torch.sigmoid(right_score))
        counts = (labels >= 0) & (wrong != right).squeeze(1) & (wrong_score > MASKED_SCORE)
        return hinge.masked_fill(~counts, 0.0).sum()


class AttentionPool(nn.Module):
    """One vector for a sequence: the mean of its states, weighted by a learned score that is never negative."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(config.hidden_size, 1), nn.ReLU())
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) and a (B, L) mask, True = real -> (B, D)."""
        scores = self.fc(states).squeeze(-1).float().masked_fill(~mask, MASKED_SCORE)
        return (self.dropout(scores.softmax(1)).to(states.dtype)[:, None] @ states).squeeze(1)


class UniterForPairs(UniterPreTrainedModel):
    """Says whether a sentence is true of two images (NLVR2), in the form that `config.pair_form` names.

    "paired" and "paired-attn" take two rows an example: 2k shows the text and the left image, 2k + 1 the text and the
    right one. "triplet" takes one row with the regions of both. Segment types tell left (1) from right (2). Paper
    section 4, NLVR2.
    """

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)
        hidden, dropout = config.hidden_size, config.attention_probs_dropout_prob
        if config.pair_form == "paired-attn":
            heads = config.num_attention_heads
            self.attn1 = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
            self.attn2 = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
            self.fc = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), Dropout(config.hidden_dropout_prob))
            self.attn_pool = AttentionPool(config)
        self.nlvr2_output = nn.Linear(hidden if config.pair_form == "triplet" else 2 * hidden, 2)
        self.post_init()

    def forward(self, labels: Tensor | None = None, **inputs) -> HeadOutput:
        """Logits (B, 2), column 1 = true; with `labels` (B,) of 0 and 1 the loss, MEAN cross-entropy (published).

        Raises:
            ValueError: an odd number of rows where two make an example.
        """
        form = self.config.pair_form
        out = self.uniter(**inputs, pooled_only=form != "paired-attn")
        rows = len(out.pooled)
        if form != "triplet" and rows % 2:
            raise ValueError(f"{rows} rows: with pair_form {form!r} two rows, left and right, make an example")
        if form == "paired-attn":
            states = self._attended(*_joint(out, inputs))
        else:
            states = out.pooled
        logits = self.nlvr2_output(states if form == "triplet" else states.view(rows // 2, -1)).float()
        return HeadOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)

    def _attended(self, states: Tensor, mask: Tensor) -> Tensor:
        """(rows, L, D) states and a (rows, L) mask -> (rows, D), each row having read the other of its example."""
        left, right = states[::2], states[1::2]
        read = lambda attention, own, other, real: attention(own, other, other, ~real, need_weights=False)[0]
        seen = torch.stack([read(self.attn1, left, right, mask[1::2]), read(self.attn2, right, left, mask[::2])], 1)
        return self.attn_pool(self.fc(torch.cat([seen.flatten(0, 1), states], 2)), mask)


def _joint(out: UniterOutput, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(B, T + R, D) states, text block first, and (B, T + R) bool, True where they are no padding."""
    assert out.text is not None and out.regions is not None, "this form reads text and regions"
    masks = []
    for states, name in ((out.text, "text_mask"), (out.regions, "region_mask")):
        given = inputs.get(name)
        masks.append(states.new_ones(states.shape[:2], dtype=torch.bool) if given is None else given.bool())
    return torch.cat([out.text, out.regions], 1), torch.cat(masks, 1)


class UniterForChoice(UniterPreTrainedModel):
    """Says of each row whether its answer or rationale is the right one (VCR); a choice is ranked by column 1."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)
        self.vcr_output = two_layers(config, 2 * config.hidden_size, 2, nn.ReLU())
        self.post_init()

    def forward(self, labels: Tensor | None = None, **inputs) -> HeadOutput:
        """Logits (rows, 2), a row a choice; with `labels` (rows,) of 0 and 1 the loss.

        The loss is cross-entropy, MEAN over rows, which do not compete with each other (published).
        """
        logits = self.vcr_output(self.uniter(**inputs, pooled_only=True).pooled).float()
        return HeadOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


class UniterForMatching(UniterPreTrainedModel):
    """One score for "text and image belong together" (retrieval).

    Loaded from a pre-training checkpoint, the rank head starts as the match row (row 1) of the ITM head, weight and
    bias, as published: that is zero-shot retrieval.
    """

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.rank_output = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def after_loading(self, new: set[str]) -> set[str]:
        """Seed the rank head from the ITM head where the checkpoint has the one and not the other."""
        if "rank_output.weight" in new and "itm_output.weight" not in new:
            with torch.no_grad():
                self.rank_output.weight.copy_(self.itm_output.weight[1:])
                self.rank_output.bias.copy_(self.itm_output.bias[1:])
            return {"rank_output.weight", "rank_output.bias"}
        return set()

    def forward(self, labels: Tensor | None = None, margin: float = 0.2, **inputs) -> HeadOutput:
        """Logits (B,), higher = better match; with `labels` the loss.

        Args:
            labels: (B,) index of the row of the batch that holds each negative row's positive, -1 for positives.
            margin: of the hinge, on the sigmoid scale.
            inputs: as in `UniterModel.forward`.

        The loss is the hinge max(0, margin + sigmoid(negative) - sigmoid(positive)), averaged over all negatives
        (published).
        """
        logits = self.rank_output(self.uniter(**inputs, pooled_only=True).pooled).squeeze(-1).float()
        if labels is None:
            return HeadOutput(logits=logits)
        score = torch.sigmoid(logits)
        negative = labels >= 0
        loss = F.relu(margin + score[negative] - score[labels[negative]]).mean()
        return HeadOutput(loss=loss, logits=logits)


AutoConfig.register("uniter", UniterConfig)
AutoModel.register(UniterConfig, UniterModel)
