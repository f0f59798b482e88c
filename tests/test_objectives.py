import numpy as np
import pytest
import torch

from uniter.objectives import Draws, MaskedWords, Masking, Matching, RegionClassesKL, RegionFeatures, mask_words
from uniter.processing_uniter import SPECIAL_PIECES, Vocabulary

WORDS = Vocabulary((*SPECIAL_PIECES, *(f"w{i}" for i in range(195))))


def words_batch(rows, width, lengths=None):
    ids = np.random.default_rng(0).integers(5, 200, (rows, width))
    lengths = np.full(rows, width) if lengths is None else np.asarray(lengths)
    ids[:, 0] = WORDS.cls
    ids[np.arange(rows), lengths - 1] = WORDS.sep
    mask = np.arange(width) < lengths[:, None]
    ids[~mask] = 0
    return {"input_ids": torch.from_numpy(ids), "text_mask": torch.from_numpy(mask)}


def regions_batch(rows, width, lengths=None):
    lengths = np.full(rows, width) if lengths is None else np.asarray(lengths)
    return {
        "region_mask": torch.from_numpy(np.arange(width) < lengths[:, None]),
        "regions": torch.randn(rows, width, 4),
    }


def draw(rows, seed=0, epoch=0, start=0):
    return Draws(seed, epoch, np.arange(start, start + rows))


def test_words_are_masked_as_published():
    batch = words_batch(4000, 32)  # 120,000 candidates
    spoiled = mask_words(batch, draw(4000), Masking(WORDS))
    before, after, labels = batch["input_ids"].numpy(), spoiled["input_ids"].numpy(), spoiled["labels"].numpy()
    chosen = labels >= 0
    assert chosen[:, 1:-1].mean() == pytest.approx(0.15, abs=0.005)
    assert not chosen[:, [0, -1]].any()
    assert (labels[chosen] == before[chosen]).all() and (after[~chosen] == before[~chosen]).all()
    masked = after[chosen] == WORDS.mask
    kept = after[chosen] == before[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.015)
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    assert after[chosen][~masked & ~kept].min() >= WORDS.first_ordinary == 5


def test_at_least_one_word_and_one_region():
    labels = mask_words(words_batch(500, 3), draw(500), Masking(WORDS, probability=1e-9))["labels"]
    assert (labels[:, 1] >= 0).all() and (labels[:, [0, 2]] == -1).all()
    spoiled = RegionFeatures(Masking(WORDS, probability=1e-9)).spoil(
        regions_batch(500, 6, [1 + i % 6 for i in range(500)]), draw(500)
    )
    assert (spoiled["masked_regions"].sum(1) == 1).all()
    assert not (spoiled["masked_regions"] & ~spoiled["region_mask"]).any()
    assert spoiled["masked_regions"].any(0).all()  # not always the same one


def test_an_examples_masks_do_not_depend_on_its_batch():
    batch = words_batch(8, 20)
    together = mask_words(batch, draw(8), Masking(WORDS))["labels"]
    alone = mask_words({k: v[5:6, :15] for k, v in batch.items()}, draw(1, start=5), Masking(WORDS))["labels"]
    assert torch.equal(together[5:6, :15], alone)
    assert not torch.equal(together, mask_words(batch, draw(8, epoch=1), Masking(WORDS))["labels"])
    assert not torch.equal(together, mask_words(batch, draw(8, seed=1), Masking(WORDS))["labels"])


def test_masking_is_conditional_unless_joint():
    batch = {**words_batch(50, 12), **regions_batch(50, 9)}
    assert "masked_regions" not in MaskedWords(Masking(WORDS)).spoil(batch, draw(50))
    assert torch.equal(RegionClassesKL(Masking(WORDS)).spoil(batch, draw(50))["input_ids"], batch["input_ids"])
    joint = Masking(WORDS, joint=True)
    assert MaskedWords(joint).spoil(batch, draw(50))["masked_regions"].any()
    spoiled = RegionClassesKL(joint).spoil(batch, draw(50))
    assert (spoiled["input_ids"] == WORDS.mask).any() and "labels" not in spoiled


def test_negatives_are_other_images_about_half_of_the_time():
    own = np.arange(2000) % 40
    images, labels = Matching().choose(draw(2000), own, 40)
    assert labels.mean() == pytest.approx(0.5, abs=0.04)
    assert (images[labels == 1] == own[labels == 1]).all() and (images[labels == 0] != own[labels == 0]).all()
    assert np.bincount(images[labels == 0], minlength=40).min() > 5
    assert (Matching().choose(draw(5), np.zeros(5, dtype=int), 1)[1] == 1).all()
    assert not Matching().swaps_text(draw(100)).any()
    assert 20 < Matching(swap="either").swaps_text(draw(100)).sum() < 80
    with pytest.raises(ValueError, match="either"):
        Matching(swap="both")


def test_cls_and_sep_in_or_out_of_the_transport():
    batch = words_batch(2, 8, lengths=[8, 5])
    assert Matching().words(batch).sum(1).tolist() == [8, 5]
    assert Matching(include_special=False).words(batch).tolist() == [
        [False] + [True] * 6 + [False],
        [False] + [True] * 3 + [False] * 4,
    ]


def test_every_segment_hides_at_least_one_piece():
    batch = words_batch(200, 9)  # CLS 2 pieces SEP 2 pieces SEP 1 piece SEP
    batch["input_ids"][:, [3, 6]] = WORDS.sep
    batch["text_types"] = torch.tensor([0, 0, 0, 2, 2, 2, 3, 3, 3]).expand(200, 9)
    spoiled = mask_words(batch, draw(200), Masking(WORDS, probability=1e-9))
    asked = spoiled["labels"] >= 0
    assert (asked == torch.tensor([False, True, False, False, True, False, False, True, False])).all()
    assert (spoiled["input_ids"][asked] == WORDS.mask).all()
    batch["text_types"] = torch.zeros(200, 9, dtype=torch.int64)  # one segment, whatever SEPs are in it
    assert (mask_words(batch, draw(200), Masking(WORDS, probability=1e-9))["labels"] >= 0).sum() == 200
