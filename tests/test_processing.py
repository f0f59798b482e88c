import logging

import numpy as np
import pytest

from uniter.processing_uniter import SPECIAL_PIECES, Pair, Segment, UniterProcessor, Vocabulary
from uniter.regions import Regions, concatenate
from uniter.regions.store import Store, StoreWriter

TEXTS = ["a red circle left of the blue star", "Two small cups!", "the house is not green"]


@pytest.fixture
def processor():
    return UniterProcessor(Vocabulary.train(TEXTS, 90), max_text=12)


def regions(count, features=5, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corners, corners + 10], 1).astype(np.float32)
    return Regions(
        generator.normal(size=(count, features)).astype(np.float16),
        boxes,
        100,
        50,
        np.full((count, classes), 1 / classes),
    )


def test_locations_are_the_seven_numbers():
    one = Regions(np.zeros((1, 2)), np.array([[10, 5, 60, 30]], dtype=np.float32), 100, 50)
    np.testing.assert_allclose(one.fractions(), [[0.1, 0.1, 0.6, 0.6, 0.5, 0.5, 0.25]], rtol=1e-6)


def test_class_probs_of_a_store_are_whole_ones_in_a_batch(processor, tmp_path):
    generator = np.random.default_rng(4)
    with StoreWriter(tmp_path / "s", None) as writer:
        for count in (2, 5):
            bare = regions(count)
            probs = generator.dirichlet(np.full(70, 0.1), count).astype(np.float32)
            writer.add(str(count), Regions(bare.features, bare.boxes, 100, 50, probs))
    stored = Store(tmp_path / "s")
    rows = [processor.encode(Pair("red", stored[name]), with_class_probs=True) for name in ("2", "5")]
    batch = processor.collate(rows)["class_probs"].numpy()
    assert batch.shape == (7, 70) and batch.dtype == np.float32
    assert np.array_equal(batch[:2], stored["2"].class_probs) and np.array_equal(batch[2:], stored["5"].class_probs)
    other = processor.encode(Pair("red", regions(2)), with_class_probs=True)
    with pytest.raises(ValueError, match=r"different detectors in one batch: \[4, 70\] classes"):
        processor.collate([rows[0], other])


def test_locations_are_written_where_they_belong():
    one, out = regions(3), np.zeros((4, 7), np.float32)
    one.fractions(out[1:])
    assert np.array_equal(out[1:], one.fractions()) and not out[0].any()


def test_batch_has_the_documented_keys_shapes_and_types(processor):
    encoded = [
        processor.encode(Pair(text, regions(n)), with_class_probs=True)
        for text, n in zip(TEXTS, (3, 6, 1), strict=True)
    ]
    batch = processor.collate(encoded)
    longest = max(len(row.input_ids) for row in encoded)
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "input_ids": (3, longest), "text_mask": (3, longest), "text_types": (3, longest),
        "regions": (10, 5), "locations": (10, 7), "region_mask": (3, 6), "region_types": (3, 6), "class_probs": (10, 4),
    }  # fmt: skip
    for key, own in (("regions", "features"), ("locations", "locations"), ("class_probs", "class_probs")):
        np.testing.assert_array_equal(batch[key], np.concatenate([getattr(row, own) for row in encoded]))
    assert batch["region_mask"].sum(1).tolist() == [3, 6, 1]
    assert (batch["input_ids"][:, 0] == processor.vocabulary.cls).all()
    last = batch["text_mask"].sum(1) - 1
    assert (batch["input_ids"][np.arange(3), last] == processor.vocabulary.sep).all()
    assert "class_probs" not in processor(TEXTS, [regions(2)] * 3)


def test_case_is_kept(processor):
    assert processor.pieces("Two") != processor.pieces("two")


def test_a_long_text_is_cut_with_sep_kept_and_said_once(processor, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            encoded = processor.encode(Pair("red " * 10_000, regions(2)))
    assert len(encoded.input_ids) == 14 and encoded.input_ids[-1] == processor.vocabulary.sep
    assert len([record for record in caplog.records if "cut to 12" in record.message]) == 1


@pytest.mark.parametrize("text", ["", "   ", "\t\n", None, 3])
def test_a_text_without_words_is_an_error(processor, text):
    with pytest.raises(ValueError, match="at least one word"):
        processor.encode(Pair(text, regions(2)))


def test_unlike_rows_are_an_error(processor):
    with pytest.raises(ValueError, match="feature sizes"):
        processor(TEXTS[:2], [regions(2), regions(2, features=6)])
    with pytest.raises(ValueError, match="2 texts for 1 images"):
        processor(TEXTS[:2], [regions(2)])
    with pytest.raises(ValueError, match="class probabilities"):
        processor.encode(Pair("red", Regions(np.zeros((1, 5)), np.ones((1, 4)), 2, 2)), with_class_probs=True)


def test_regions_refuse_what_cannot_be_right():
    boxes = np.ones((2, 4), dtype=np.float32)
    for features, message in [
        (np.zeros((3, 5)), "boxes"),
        (np.full((2, 5), np.nan), "NaN"),
        (np.zeros((0, 5)), "boxes"),
    ]:
        with pytest.raises(ValueError, match=message):
            Regions(features, boxes, 10, 10)
    with pytest.raises(ValueError, match="at least one region"):
        Regions(np.zeros((0, 5)), np.zeros((0, 4)), 10, 10)


def test_folder_round_trip(processor, tmp_path, monkeypatch):
    processor.save_pretrained(tmp_path / "a")
    again = UniterProcessor.from_pretrained(tmp_path / "a")
    assert again.vocabulary == processor.vocabulary and again.max_text == 12
    assert [again.pieces(text) for text in TEXTS] == [processor.pieces(text) for text in TEXTS]
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("UNITER_VOCAB", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match="UNITER_VOCAB"):
        UniterProcessor.from_pretrained(tmp_path / "empty")
    monkeypatch.setenv("UNITER_VOCAB", str(tmp_path / "a" / "vocab.txt"))
    assert UniterProcessor.from_pretrained(tmp_path / "empty").vocabulary == processor.vocabulary


def test_a_file_that_is_no_vocabulary_is_an_error(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"\[PAD\]"):
        UniterProcessor.from_pretrained(tmp_path)


def test_an_uncased_vocabulary_reads_lower_case_without_accents():
    words = ("cafe", "the", "##s")
    uncased = UniterProcessor(Vocabulary((*SPECIAL_PIECES, *words)))
    cased = UniterProcessor(Vocabulary((*SPECIAL_PIECES, *words, "The")))
    assert uncased.vocabulary.uncased and not cased.vocabulary.uncased
    assert uncased.words(uncased.pieces("The Cafés")) == ["the", "cafe", "##s"]
    assert cased.words(cased.pieces("The Cafés")) == ["The", "[UNK]"]


def test_segments_have_a_sep_each_and_types_of_their_own(processor):
    processor.max_text = 40
    cls, sep, ids = processor.vocabulary.cls, processor.vocabulary.sep, processor.pieces
    text = (Segment("red circle"), Segment(tuple(ids("blue")), 2), Segment("Two cups", 3))
    q, a, r = ids("red circle"), ids("blue"), ids("Two cups")
    encoded = processor.encode(Pair(text, regions(2)))
    assert encoded.input_ids.tolist() == [cls, *q, sep, *a, sep, *r, sep]
    assert encoded.text_types.tolist() == [0] * (1 + len(q)) + [2] * (1 + len(a)) + [3] * (2 + len(r))
    before = processor.encode(Pair(text, regions(2)), sep_type="preceding")
    assert before.input_ids.tolist() == encoded.input_ids.tolist()
    assert before.text_types.tolist() == [0] * (2 + len(q)) + [2] * (1 + len(a)) + [3] * (1 + len(r))
    with pytest.raises(ValueError, match="sep_type"):
        processor.encode(Pair(text, regions(2)), sep_type="after")
    batch = processor.collate([encoded, processor.encode(Pair("red", regions(1)))])
    assert batch["text_types"][0].tolist() == encoded.text_types.tolist() and batch["text_types"][1].eq(0).all()


def test_ready_made_pieces_are_taken_as_they_are(processor):
    ids = tuple(processor.pieces(TEXTS[0]))
    encoded = processor.encode(Pair(ids, regions(2)))
    assert encoded.input_ids.tolist() == processor.encode(Pair(TEXTS[0], regions(2))).input_ids.tolist()
    assert (encoded.text_types == 0).all()
    assert len(processor.encode(Pair(ids * 10, regions(2))).input_ids) == 14  # cut to 12, CLS, SEP
    for wrong in [
        (),
        (3, "red"),
        (len(processor.vocabulary),),
        (-1,),
        [3, 4],
        (Segment("red"), "blue"),
        (Segment(""),),
    ]:
        with pytest.raises(ValueError, match=r"at least one word|vocabulary"):
            processor.encode(Pair(wrong, regions(2)))


@pytest.mark.parametrize(
    "lengths, kept",
    [
        ((5, 4, 3), (5, 4, 3)),
        ((20, 2, 3), (7, 2, 3)),
        ((2, 9, 9), (2, 5, 5)),
        ((9, 9, 1), (6, 5, 1)),
        ((4, 4, 5), (4, 4, 4)),
    ],
)
def test_the_longest_segment_is_cut_first_and_every_sep_stays(processor, lengths, kept):
    text = tuple(Segment((7,) * length, kind) for kind, length in enumerate(lengths))
    encoded = processor.encode(Pair(text, regions(2)))
    is_sep = encoded.input_ids == processor.vocabulary.sep
    assert is_sep.sum() == 3 and is_sep[-1]
    found = [int(((encoded.text_types == kind) & (encoded.input_ids == 7)).sum()) for kind in range(3)]
    assert tuple(found) == kept


def test_a_segment_never_vanishes(processor):
    text = tuple(Segment((7, 8), kind) for kind in range(3))
    short = UniterProcessor(processor.vocabulary, max_text=2)
    assert len(short.encode(Pair(text, regions(1))).input_ids) == 7


def test_regions_have_a_type_each(processor):
    encoded = processor.encode(Pair("red", regions(3), np.array([1, 2, 2])))
    assert encoded.region_types.tolist() == [1, 2, 2] and encoded.region_types.dtype == np.int64
    with pytest.raises(ValueError, match=r"2,.* 3 regions"):
        processor.encode(Pair("red", regions(3), np.array([1, 2])))


def test_regions_of_several_images_become_one():
    left, right = regions(3), regions(2, seed=1)
    one_size = concatenate([left, right])
    assert (one_size.width, one_size.height, len(one_size)) == (100, 50, 5)
    np.testing.assert_array_equal(one_size.boxes[3:], right.boxes)
    small = Regions(right.features, right.boxes, 60, 70)
    both = concatenate([left, small])
    assert both.class_probs is None and one_size.class_probs.shape == (5, 4)
    np.testing.assert_allclose(both.fractions(), np.concatenate([left.fractions(), small.fractions()]), rtol=1e-6)
    np.testing.assert_array_equal(both.features[3:], small.features)
    with pytest.raises(ValueError, match="feature sizes"):
        concatenate([left, regions(2, features=6)])
    with pytest.raises(ValueError, match="at least one"):
        concatenate([])
