"""The model: trunk, pre-training heads, answers, ranks. Attributes are named as the published weights are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transport import transport_distance

EPSILON = 1e-12


@dataclass(frozen=True)
class Config:
    """The numbers of the published configuration file, base size."""

    vocab_size: int = 28996
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> "Config":
        """Of a mapping, whose other keys do not matter."""
        return cls(**{field.name: numbers[field.name] for field in fields(cls) if field.name in numbers})


class TextEmbeddings(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, EPSILON)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, position_ids: Tensor, types: Tensor | None) -> Tensor:
        types = torch.zeros_like(input_ids) if types is None else types
        total = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(total + self.token_type_embeddings(types)))


class ImageEmbeddings(nn.Module):
    def __init__(self, config: Config, feature_size: int):
        super().__init__()
        self.img_linear = nn.Linear(feature_size, config.hidden_size)
        self.img_layer_norm = nn.LayerNorm(config.hidden_size, EPSILON)
        self.pos_layer_norm = nn.LayerNorm(config.hidden_size, EPSILON)
        self.pos_linear = nn.Linear(7, config.hidden_size)
        self.mask_embedding = nn.Embedding(2, feature_size, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, EPSILON)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: Tensor, places: Tensor, type_states: Tensor, masks: Tensor | None) -> Tensor:
        if masks is not None:
            self.mask_embedding.weight.data[0].fill_(0)
            features = features + self.mask_embedding(masks.long())
        seen = self.img_layer_norm(self.img_linear(features))
        placed = self.pos_layer_norm(self.pos_linear(places))
        return self.dropout(self.LayerNorm(seen + placed + type_states))


class SelfAttention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def by_head(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.heads, self.head_size).permute(0, 2, 1, 3)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        query = self.by_head(self.query(states))
        key = self.by_head(self.key(states))
        value = self.by_head(self.value(states))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_size) + mask
        read = torch.matmul(self.dropout(scores.softmax(-1)), value)
        return read.permute(0, 2, 1, 3).contiguous().view(states.shape)


class AddAndNormalise(nn.Module):
    def __init__(self, width: int, config: Config):
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, EPSILON)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNormalise(config.hidden_size, config)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.self(states, mask), states)


class Intermediate(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, states: Tensor) -> Tensor:
        return gelu(self.dense(states))


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = AddAndNormalise(config.intermediate_size, config)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        attended = self.attention(states, mask)
        return self.output(self.intermediate(attended), attended)


class Encoder(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, states: Tensor, mask: Tensor) -> list[Tensor]:
        found = []
        for layer in self.layer:
            states = layer(states, mask)
            found.append(states)
        return found


class Pooler(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        return torch.tanh(self.dense(states[:, 0]))


def gelu(states: Tensor) -> Tensor:
    """By the error function, spelt out in elementary operations."""
    return states * 0.5 * (1.0 + torch.erf(states / math.sqrt(2.0)))


class GELU(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return gelu(states)


class Trunk(nn.Module):
    def __init__(self, config: Config, feature_size: int = 2048):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.img_embeddings = ImageEmbeddings(config, feature_size)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)

    def image_states(self, batch: Mapping[str, Tensor]) -> Tensor:
        types = batch.get("img_type_ids")
        if types is None:
            types = torch.ones_like(batch["img_feat"][:, :, 0].long())
        type_states = self.embeddings.token_type_embeddings(types)
        return self.img_embeddings(batch["img_feat"], batch["img_pos_feat"], type_states, batch.get("img_masks"))

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, S, D): text and regions, each row's padding gathered to its end; or either of them alone."""
        if "input_ids" not in batch:
            return self.image_states(batch)
        text = self.embeddings(batch["input_ids"], batch["position_ids"], batch.get("txt_type_ids"))
        if "img_feat" not in batch:
            return text
        both = torch.cat([text, self.image_states(batch)], 1)
        index = batch["gather_index"].unsqueeze(-1).expand(-1, -1, both.shape[-1])
        return torch.gather(both, 1, index)

    def forward(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Every layer's states, (B, S, D) each."""
        states = self.embed(batch)
        mask = batch["attn_masks"][:, None, None].to(states.dtype)
        return self.encoder(states, (1.0 - mask) * -10000.0)


# ---------------------------------------------------------------- heads


class WordHead(nn.Module):
    def __init__(self, config: Config, table: nn.Parameter):
        super().__init__()
        self.predictions = WordPredictions(config, table)

    def forward(self, states: Tensor) -> Tensor:
        return self.predictions(states)


class WordPredictions(nn.Module):
    def __init__(self, config: Config, table: nn.Parameter):
        super().__init__()
        self.transform = WordTransform(config)
        self.decoder = nn.Linear(table.shape[1], table.shape[0], bias=False)
        self.decoder.weight = table
        self.bias = nn.Parameter(torch.zeros(table.shape[0]))

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder(self.transform(states)) + self.bias


class WordTransform(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, EPSILON)

    def forward(self, states: Tensor) -> Tensor:
        return self.LayerNorm(gelu(self.dense(states)))


class FeatureRegression(nn.Module):
    def __init__(self, config: Config, projection: nn.Parameter):
        super().__init__()
        hidden = config.hidden_size
        self.net = nn.Sequential(nn.Linear(hidden, hidden), GELU(), nn.LayerNorm(hidden, EPSILON))
        self.weight = projection
        self.bias = nn.Parameter(torch.zeros(projection.shape[1]))

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(self.net(states), self.weight.t(), self.bias)


class RegionClassifier(nn.Module):
    def __init__(self, config: Config, classes: int):
        super().__init__()
        hidden = config.hidden_size
        self.net = nn.Sequential(
            nn.Linear(hidden, hidden), GELU(), nn.LayerNorm(hidden, EPSILON), nn.Linear(hidden, classes)
        )

    def forward(self, states: Tensor) -> Tensor:
        return self.net(states)


class Published(nn.Module):
    """What the models share: initialisation, and picking states by a mask as large as the states."""

    def __init__(self, config: Config, feature_size: int = 2048):
        super().__init__()
        self.config = config
        self.uniter = Trunk(config, feature_size)

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.data.normal_(0.0, self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.data.zero_()

    @staticmethod
    def chosen(states: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D) states and a (B, S) mask -> (M, D)."""
        return states[mask.unsqueeze(-1).expand_as(states)].contiguous().view(-1, states.shape[-1])


class PreTraining(Published):
    """Trunk and the four heads of pre-training; losses come unreduced, as published."""

    def __init__(self, config: Config, feature_size: int = 2048, classes: int = 1601):
        super().__init__(config, feature_size)
        self.cls = WordHead(config, self.uniter.embeddings.word_embeddings.weight)
        self.feat_regress = FeatureRegression(config, self.uniter.img_embeddings.img_linear.weight)
        self.region_classifier = RegionClassifier(config, classes)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.initialise()

    def words(self, batch: Mapping[str, Tensor]) -> Tensor:
        """MLM: (M, V) scores of the masked words."""
        states = self.uniter(batch)[-1][:, : batch["input_ids"].shape[1]]
        return self.cls(self.chosen(states, batch["txt_labels"] != -1))

    def mlm(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(M,) losses."""
        labels = batch["txt_labels"]
        return F.cross_entropy(self.words(batch), labels[labels != -1], reduction="none")

    def features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """MRFR: (M, F) features of the masked regions."""
        return self.feat_regress(self.chosen(self.uniter(batch)[-1], batch["img_mask_tgt"].bool()))

    def mrfr(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(M, F) losses."""
        return F.mse_loss(self.features(batch), batch["feat_targets"], reduction="none")

    def classes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """MRC and MRC-kl: (M, C) scores of the masked regions."""
        return self.region_classifier(self.chosen(self.uniter(batch)[-1], batch["img_mask_tgt"].bool()))

    def mrc(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(M,) losses; background is never the target."""
        labels = batch["label_targets"][:, 1:].max(-1)[1] + 1
        return F.cross_entropy(self.classes(batch), labels, ignore_index=0, reduction="none")

    def mrckl(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(M, C) losses."""
        return F.kl_div(F.log_softmax(self.classes(batch), -1), batch["label_targets"], reduction="none")

    def itm(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(B,) losses and, where the batch holds `ot_inputs`, the (B,) transport distances."""
        states = self.uniter(batch)[-1]
        scores = self.itm_output(self.uniter.pooler(states))
        loss = F.cross_entropy(scores, batch["targets"], reduction="none")
        if "ot_inputs" not in batch:
            return loss, loss.new_zeros(len(loss))
        return loss, self.transport(states, batch)

    def transport(self, states: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Scatter the states back into padded text and padded regions, then transport, in float32."""
        inputs, words, things = batch["ot_inputs"], batch["input_ids"].shape[1], batch["img_feat"].shape[1]
        index = inputs["ot_scatter"].unsqueeze(-1).expand_as(states)
        spread = torch.zeros(len(states), int(inputs["scatter_max"]) + 1, states.shape[-1], device=states.device)
        spread = spread.to(states.dtype).scatter_(1, index, states)
        text, regions = spread[:, :words].float(), spread[:, words : words + things].float()
        return transport_distance(text, regions, inputs["txt_pad"].bool(), inputs["img_pad"].bool())

    def itm_total(self, batch: Mapping[str, Any], weight: float = 0.1) -> Tensor:
        """Mean matching loss, and the weighted transport distances of matching pairs less those of the others."""
        loss, distance = self.itm(batch)
        matching = batch["targets"] == 1
        pulled = (distance[matching].sum() - distance[~matching].sum()) / len(distance)
        return loss.mean() + weight * pulled


class Answers(Published):
    """VQA and visual entailment."""

    def __init__(self, config: Config, answers: int, feature_size: int = 2048):
        super().__init__(config, feature_size)
        hidden = config.hidden_size
        self.vqa_output = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), GELU(), nn.LayerNorm(2 * hidden, EPSILON), nn.Linear(2 * hidden, answers)
        )
        self.initialise()

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, answers) scores."""
        return self.vqa_output(self.uniter.pooler(self.uniter(batch)[-1]))


class Rank(Published):
    """Retrieval."""

    def __init__(self, config: Config, feature_size: int = 2048):
        super().__init__(config, feature_size)
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.rank_output = nn.Linear(config.hidden_size, 1)
        self.initialise()

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, 1) scores."""
        return self.rank_output(self.uniter.pooler(self.uniter(batch)[-1]))
