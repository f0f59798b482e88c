"""UniterConfig: each number of the model and what it means; the published sizes and the two small ones that we ship."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from transformers import PreTrainedConfig

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512},
    "small": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}

PAIR_FORMS = ("paired", "triplet", "paired-attn")


def wrong_value(settings: Mapping[str, Any]) -> str | None:
    """The first setting whose value is of another type than `UniterConfig` says, with both; None if all are right."""
    for name, parameter in signature(UniterConfig).parameters.items():
        wanted = (int, float) if parameter.annotation is float else parameter.annotation
        value = settings.get(name, parameter.default)
        if name != "kwargs" and (isinstance(value, bool) or not isinstance(value, wanted)):
            return f"{name}: should be {getattr(parameter.annotation, '__name__', parameter.annotation)}, got {value!r}"
    return None


class UniterConfig(PreTrainedConfig):
    """The shape of a UNITER model (paper section 3.1); what the published code hard-wires is a setting here.

    Args:
        vocab_size: word pieces; 28996 is cased BERT's.
        hidden_size: width of the encoder.
        num_hidden_layers: encoder layers.
        num_attention_heads: heads a layer; must divide `hidden_size`.
        intermediate_size: width of the feed-forward block.
        hidden_dropout_prob: dropout of embeddings and both residual branches.
        attention_probs_dropout_prob: dropout of attention weights.
        max_position_embeddings: longest text in pieces, CLS and SEP included; regions have no position.
        type_vocab_size: segment types; 0 is text, 1 is regions, more for NLVR2 and VCR.
        initializer_range: standard deviation of the initial weights.
        region_feature_size: length of a region's feature vector; 2048 for bottom-up attention.
        num_region_classes: classes of the detector, background (column 0) included; 1601 for bottom-up attention.
        grounding_layers: 1 or 2 linear layers in the referring-expression head.
        pair_form: how `UniterForPairs` compares two images: "paired" and "paired-attn" see each with the text and then
            compare pooled states or attend to each other; "triplet" sees both at once (paper section 4, NLVR2).
        detector: fingerprint of the detector whose regions the model was trained on; None accepts any.

    Raises:
        ValueError: the heads do not divide the width, or no such `pair_form`.
    """

    model_type = "uniter"

    def __init__(
        self,
        vocab_size: int = 28996,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        region_feature_size: int = 2048,
        num_region_classes: int = 1601,
        grounding_layers: int = 1,
        pair_form: str = "paired",
        detector: str | None = None,
        **kwargs,
    ):
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}"
            )
        if pair_form not in PAIR_FORMS:
            raise ValueError(f"pair_form {pair_form!r} is none of {', '.join(PAIR_FORMS)}")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.region_feature_size = region_feature_size
        self.num_region_classes = num_region_classes
        self.grounding_layers = grounding_layers
        self.pair_form = pair_form
        self.detector = detector
        super().__init__(**kwargs)

    @classmethod
    def of_size(cls, size: str, **settings) -> "UniterConfig":
        """A named size ("tiny", "small", "base", "large"), any setting overridden.

        Raises:
            ValueError: no such size.
        """
        if size not in SIZES:
            raise ValueError(f"unknown model size {size!r}: choose one of {', '.join(SIZES)}")
        return cls(**{**SIZES[size], **settings})
