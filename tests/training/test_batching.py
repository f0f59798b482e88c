import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniter import draws
from uniter.training.batching import evaluation_batches, fill, in_order, training_batches


def vqa_like(examples=40_000):
    """Lengths as in VQA: about 10 pieces and 10 to 100 regions; mean 47, longest 114."""
    draw = np.random.default_rng(0)
    text = np.clip(draw.normal(10, 3, examples).round(), 4, 24)
    regions = np.clip(10 + draw.gamma(2.2, 12.5, examples), 10, 100).round()
    return np.minimum(text + regions, 114).astype(np.int64)


def published_literally(order, lengths, tokens, window):
    """The published sampler, step by step, before its last shuffle."""
    batches = []
    for start in range(0, len(order), window):
        bucket = sorted(order[start : start + window], key=lambda i: -lengths[i])
        longest, batch = 0, []
        for at in range(0, len(bucket), 8):
            group = bucket[at : at + 8]
            longest = max(longest, *(lengths[i] for i in group))
            if longest * (len(batch) + 8) > tokens:
                batches.append(batch)
                batch = list(group)
            else:
                batch.extend(group)
    return batches


@pytest.mark.parametrize("tokens", [2048, 3072, 5120, 10240])
def test_vqa_like_lengths_fill_the_budget(tokens):
    lengths = vqa_like()
    assert 45 < lengths.mean() < 49 and lengths.max() == 114
    ours = training_batches(lengths, tokens)
    assert fill(ours, lengths, tokens) >= 0.9
    assert np.mean([lengths[b].sum() / tokens >= 0.9 for b in ours]) > 0.95  # and nearly each of them does
    published = training_batches(lengths, tokens, mode="published")
    assert 0.3 < fill(published, lengths, tokens) < 0.45


def test_published_sizes_are_those_of_the_window_maximum():
    lengths = vqa_like(8192)
    sizes = {len(batch) for batch in training_batches(lengths, 5120, mode="published")}
    assert sizes == {40} and 5120 // (8 * 114) * 8 == 40


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=300),
    st.integers(320, 900),
    st.sampled_from([16, 50, 64, 8192]),
    st.integers(0, 3),
)
def test_published_mode_is_the_published_sampler(lengths, tokens, window, epoch):
    from uniter import draws

    lengths = np.array(lengths)
    order = draws.permutation(0, "order", len(lengths), epoch).tolist()
    expected = published_literally(order, lengths, tokens, window)
    got = training_batches(lengths, tokens, epoch=epoch, window=window, mode="published")
    assert sorted(tuple(b) for b in expected) == sorted(tuple(b.tolist()) for b in got)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), max_size=300),
    st.integers(40, 400),
    st.sampled_from([1, 7, 50, 8192]),
    st.none() | st.integers(1, 9),
)
def test_every_example_comes_once_and_every_batch_fits(lengths, tokens, window, most):
    lengths = np.array(lengths, dtype=np.int64)
    batches = training_batches(lengths, tokens, window=window, max_examples=most)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) and len(batch) * lengths[batch].max() <= tokens for batch in batches)
    assert most is None or all(len(batch) <= most for batch in batches)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=300), st.integers(40, 400), st.none() | st.integers(1, 9))
def test_packed_batches_are_the_order_cut_where_it_reaches_the_budget(lengths, tokens, most):
    from uniter import draws

    lengths = np.array(lengths, dtype=np.int64)
    batches = training_batches(lengths, tokens, mode="packed", shuffled=False, max_examples=most)
    assert [i for batch in batches for i in batch.tolist()] == list(range(len(lengths)))
    assert all(lengths[batch].sum() <= tokens and len(batch) <= (most or 300) for batch in batches)
    for batch, following in pairwise(batches):  # one more did not fit
        assert lengths[batch].sum() + lengths[following[0]] > tokens or len(batch) == most
    order = draws.permutation(3, "order", len(lengths), 2).tolist()
    shuffled = training_batches(lengths, tokens, mode="packed", seed=3, epoch=2)
    assert sorted(i for batch in shuffled for i in batch.tolist()) == list(range(len(lengths)))
    places = [[order.index(i) for i in batch.tolist()] for batch in shuffled]
    assert all(place == list(range(place[0], place[0] + len(place))) for place in places)


@pytest.mark.parametrize(("tokens", "mode"), [(2048, "packed"), (32768, "packed"), (2048, "filled"), (10240, "filled")])
def test_at_least_97_of_100_tokens_of_the_budget_are_real(tokens, mode):
    lengths = vqa_like(100_000)
    assert fill(training_batches(lengths, tokens, mode=mode), lengths, tokens) > 0.97


def test_only_the_last_batch_of_an_epoch_is_small():
    lengths = np.full(1000, 10)
    sizes = sorted(len(batch) for batch in training_batches(lengths, 70, window=64))
    assert sizes == [6] + [7] * 142


def test_epochs_streams_and_seeds_differ_and_repeat():
    lengths = vqa_like(500)

    def flat(**changes):
        return np.concatenate(training_batches(lengths, 1000, **changes)).tolist()

    assert flat() == flat()
    assert len({tuple(flat(**c)) for c in ({}, {"epoch": 1}, {"seed": 1}, {"purpose": "order/b"})}) == 4


def test_batches_are_not_in_order_of_length():
    lengths = vqa_like(5000)
    longest = [lengths[b].max() for b in training_batches(lengths, 2048)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


def test_too_long_an_example_is_named_with_the_mend():
    lengths = np.array([5, 30, 7])
    with pytest.raises(ValueError, match=r"example 1 has 30 tokens .* budget of 20 .*raise train\.tokens to 30"):
        training_batches(lengths, 20)
    with pytest.raises(ValueError, match=r"room for 8 of the longest.*raise train\.tokens to 240"):
        training_batches(lengths, 200, mode="published")
    with pytest.raises(ValueError, match="example 1"):
        evaluation_batches(lengths, 20)


def test_evaluation_covers_everything_longest_first_and_goes_back_in_order():
    lengths = vqa_like(1000)
    batches = evaluation_batches(lengths, 2048)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert all(lengths[a].min() >= lengths[b].max() for a, b in pairwise(batches))
    assert in_order(batches, [lengths[b] for b in batches]) == lengths.tolist()
    assert evaluation_batches(np.array([], dtype=int), 10) == [] and in_order([], []) == []
    assert max(map(len, evaluation_batches(lengths, 2048, max_examples=7))) == 7


def test_speed_of_a_million_examples():
    lengths = np.array(random.Random(0).choices(range(15, 160), k=1_000_000))
    assert len(np.concatenate(training_batches(lengths, 10240))) == 1_000_000


def test_batches_by_count_and_in_the_files_order():
    lengths = np.array([3, 9, 2, 4, 8, 1, 5])
    options = {"mode": "examples", "max_examples": 3}
    plain = training_batches(lengths, 40, shuffled=False, **options)
    assert [batch.tolist() for batch in plain] == [[0, 1, 2], [3, 4, 5], [6]]
    mixed = training_batches(lengths, 40, **options)
    assert sorted(len(batch) for batch in mixed) == [1, 3, 3] and sorted(np.concatenate(mixed)) == list(range(7))
    with pytest.raises(ValueError, match="max_examples, how many"):
        training_batches(lengths, 40, mode="examples")
    with pytest.raises(ValueError, match=r"raise train\.tokens to 27"):
        training_batches(lengths, 20, **options)


# Shards ------------------------------------------------------------------------------------------------

SHARDS = np.repeat(np.arange(20), 10)  # 20 shards of 10 examples
LENGTHS = draws.integers(3, "lengths", 20, np.arange(200)) + 5


def by_shards(epoch=0, lanes=1, window=2, mode="filled", **more):
    more = {"window": 16, **more}
    return training_batches(
        LENGTHS, 120, seed=5, epoch=epoch, mode=mode, shards=SHARDS, shard_window=window, lanes=lanes, **more
    )


@pytest.mark.parametrize("lanes", [1, 3])
def test_shards_every_example_once_and_few_shards_at_a_time(lanes):
    batches = by_shards(lanes=lanes)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(LENGTHS[batch].max() * len(batch) <= 120 for batch in batches)
    whole = 3 * len(batches) // 4  # while no lane has ended
    for lane in range(lanes):
        there = [set(SHARDS[batch].tolist()) for batch in batches[lane:whole:lanes]]
        first = {shard: place for place, held in reversed(list(enumerate(there))) for shard in held}
        last = {shard: place for place, held in enumerate(there) for shard in held}
        wanted = [sum(first[shard] <= place <= last[shard] for shard in first) for place in range(len(there))]
        assert max(wanted) <= 2, "more shards are needed than those of a window"


def test_shards_their_order_is_drawn_anew_and_depends_on_nothing_else():
    one, other = by_shards(0), by_shards(1)
    assert all(np.array_equal(a, b) for a, b in zip(one, by_shards(0), strict=True))
    first = [SHARDS[batch[0]] for batch in one]
    assert first != [SHARDS[batch[0]] for batch in other] and first != sorted(first)


def test_shards_lanes_read_different_shards_at_any_time():
    batches = by_shards(lanes=2)
    whole = 2 * (3 * len(batches) // 8)
    for turn in range(0, whole, 2):
        assert not set(SHARDS[batches[turn]]) & set(SHARDS[batches[turn + 1]])
    nodes = [set(SHARDS[np.concatenate(batches[node:whole:2])]) for node in (0, 1)]
    assert not nodes[0] & nodes[1], "two nodes read disjoint windows"


def test_shards_in_one_window_are_an_ordinary_epoch():
    everything = training_batches(LENGTHS, 120, seed=5, window=16, shards=SHARDS, shard_window=20)
    ordinary = training_batches(LENGTHS, 120, seed=5, window=16)
    assert sorted(map(sorted, everything)) == sorted(map(sorted, ordinary)), "the same batches, in another order"


def test_shards_with_examples_by_count():
    batches = by_shards(mode="examples", max_examples=4)
    assert [len(batch) for batch in batches].count(4) == 50
