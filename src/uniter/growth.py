"""More rows for a trained model: segment types of NLVR2 and VCR, and words such as VCR's people."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniter import draws
from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import UniterForPreTraining, UniterModel, UniterPreTrainedModel, WordHead

# Which of the two pre-trained segment types (0 text, 1 regions) each row starts as (published): NLVR2's third is for
# the right image; VCR's third and fourth are for answer and rationale.
TYPE_SOURCES = {3: (0, 1, 1), 4: (0, 1, 0, 0)}


@torch.no_grad()
def grow(
    model: UniterPreTrainedModel,
    types: int | None = None,
    words: int | None = None,
    seed: int = 0,
    new_word_head: bool = False,
) -> None:
    """Give a model more segment types or more words, in place; what was there stays as it is.

    New types are copies (`TYPE_SOURCES`), new words are drawn from Normal(0, initializer_range). In a pre-training
    model the word head stays tied to the larger table, and new words have a bias of 0.

    Args:
        model: any head or the trunk.
        types: segment types wanted; None or as many as there are: left alone.
        words: word pieces wanted; likewise.
        seed: of the draws; a new word's row depends on the seed and its number only.
        new_word_head: with more words, throw the trained word head away and draw a new one in PyTorch's way, as the
            published second stage of pre-training on VCR does. By default it is kept.

    Raises:
        ValueError: fewer rows than there are, or a number of types that no published model has.
    """
    trunk: Any = model if isinstance(model, UniterModel) else model.uniter
    config: UniterConfig = trunk.config
    embeddings = trunk.embeddings
    # Both before either, so that a refused model is as it was.
    more_types = _more(types, embeddings.token_type_embeddings, "segment types")
    more_words = _more(words, embeddings.word_embeddings, "word pieces")
    if types is not None and more_types:
        rows = embeddings.token_type_embeddings.weight
        if len(rows) != 2 or types not in TYPE_SOURCES:
            raise ValueError(
                f"the model has {len(rows)} segment types and cannot be given {types}: only from 2 to 3 (NLVR2) and "
                "from 2 to 4 (VCR) is known; start from a pre-trained model of 2"
            )
        _replace(embeddings.token_type_embeddings, rows[list(TYPE_SOURCES[types])])
        model.config.type_vocab_size = config.type_vocab_size = types
    if words is not None and more_words:
        rows, hidden = embeddings.word_embeddings.weight, config.hidden_size
        numbers = range(len(rows), words)
        drawn = [draws.generator(seed, "new-word", number).standard_normal(hidden) for number in numbers]
        new = torch.from_numpy(np.stack(drawn)).to(rows) * config.initializer_range
        _replace(embeddings.word_embeddings, torch.cat([rows, new]))
        model.config.vocab_size = config.vocab_size = words
        if isinstance(model, UniterForPreTraining):
            _grow_word_head(model, config, len(numbers), seed, new_word_head)


def _more(wanted: int | None, table: nn.Embedding, what: str) -> bool:
    have = table.weight.shape[0]
    if wanted is not None and wanted < have:
        raise ValueError(f"the model has {have} {what}, only {wanted} are asked for: start from a model with fewer")
    return wanted is not None and wanted > have


def _replace(table: nn.Embedding, rows: Tensor) -> None:
    # The padding index stays: it is row 0, and new rows are ordinary ones.
    table.weight = nn.Parameter(rows.clone(), requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(rows)


def _grow_word_head(model: UniterForPreTraining, config: UniterConfig, count: int, seed: int, new: bool) -> None:
    old = model.cls.predictions.bias
    if new:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.number(seed, "new-word-head"))
            model.cls = WordHead(config).to(old)
    else:
        model.cls.predictions.bias = nn.Parameter(torch.cat([old, old.new_zeros(count)]), old.requires_grad)
