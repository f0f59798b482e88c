import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uniter.flat_texts import FlatTexts

texts_of = st.lists(st.lists(st.integers(0, 40_000), min_size=2, max_size=12), min_size=1, max_size=9)


@given(texts_of, st.data())
def test_texts_come_back_as_they_were(texts, data):
    flat = FlatTexts.of(texts)
    assert [text.tolist() for text in flat] == texts and len(flat) == len(texts)
    assert flat[0].dtype == np.int64 and flat[-1].tolist() == texts[-1]
    assert flat.lengths().tolist() == [len(text) for text in texts]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5))
    assert [text.tolist() for text in flat.take(rows)] == [texts[row] for row in rows]


@given(texts_of, st.integers(2, 14), st.data())
def test_a_batch_is_padded_and_what_is_too_long_keeps_its_last_piece(texts, most, data):
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=7))
    found, lengths = FlatTexts.of(texts).padded(np.array(rows), 50_000, most)
    cut = [text if len(text) <= most else [*text[: most - 1], text[-1]] for text in (texts[row] for row in rows)]
    longest = max(map(len, cut))
    assert found.tolist() == [text + [50_000] * (longest - len(text)) for text in cut]
    assert lengths.tolist() == [len(text) for text in cut] and found.dtype == np.int64


def test_numbers_are_as_short_as_they_may_be():
    assert FlatTexts.of([[1, 28_995]]).pieces.dtype == np.uint16
    assert FlatTexts.of([[1, 70_000]]).pieces.dtype == np.uint32
    assert len(FlatTexts.of([])) == 0
