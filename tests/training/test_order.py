from collections import Counter

import numpy as np
import pytest

from uniter.recipe import Training, parse_recipe, to_yaml, with_order
from uniter.training.order import Stream, choices, plan, stream_of, uses_before

MIXTURE = {"mlm": 2.0, "itm": 2.0, "mrfr": 1.0, "off": 0.0}


def test_streams_are_drawn_in_proportion():
    counts = np.bincount(choices(0, MIXTURE, 1, 20_001), minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.4, 0.4, 0.2, 0.0], atol=0.015)


def test_uses_are_counted_without_replaying():
    drawn = [stream_of(3, MIXTURE, update) for update in range(1, 200)]
    for update in (1, 2, 57, 200):
        counted = Counter(drawn[: update - 1])
        assert uses_before(3, MIXTURE, update) == {name: counted[name] for name in MIXTURE}


@pytest.mark.parametrize("mixture", [{}, {"a": 0.0}, {"a": 1.0, "b": -1.0}, {"a": float("nan")}])
def test_an_empty_mixture_is_refused(mixture):
    with pytest.raises(ValueError, match="mixture"):
        choices(0, mixture, 1, 2)


def test_zero_weights_are_never_drawn_wherever_they_stand():
    assert set(choices(0, {"a": 0.0, "b": 1.0, "c": 0.0}, 1, 1000)) == {1}


def test_a_stream_runs_through_epochs_and_can_start_anywhere():
    lengths = np.random.default_rng(0).integers(3, 20, 101)
    training = Training(tokens=60, window=32)
    stream = Stream("a", lengths, training)
    walked = [stream.batch(position) for position in range(80)]
    epochs = [epoch for epoch, _ in walked]
    assert epochs == sorted(epochs) and epochs[-1] >= 2
    for epoch in range(epochs[-1]):
        seen = np.concatenate([indices for e, indices in walked if e == epoch])
        assert sorted(seen.tolist()) == list(range(101))
    for position in (79, 0, 41, 40):
        epoch, indices = Stream("a", lengths, training).batch(position)
        assert epoch == walked[position][0] and indices.tolist() == walked[position][1].tolist()
        assert stream.batch(position)[1].tolist() == indices.tolist()


def test_the_plan_is_the_same_from_anywhere():
    lengths = np.random.default_rng(0).integers(3, 20, 50)
    training = Training(tokens=60, steps=30, accumulate=3)

    def planned(first):
        streams = {name: Stream(name, lengths, training) for name in MIXTURE}
        return [
            (m.update, m.micro, m.stream, m.epoch, m.indices.tolist()) for m in plan(streams, MIXTURE, training, first)
        ]

    whole = planned(1)
    assert len(whole) == 90
    for first in (2, 17, 30, 31):
        assert planned(first) == [micro for micro in whole if micro[0] >= first]
    for update in range(1, 31):
        assert len({micro[2] for micro in whole if micro[0] == update}) == 1  # one stream an update


def test_a_stream_without_a_batch_is_refused():
    with pytest.raises(ValueError, match="stream a: its 0 examples make no batch"):
        Stream("a", np.array([], dtype=int), Training())
    with pytest.raises(ValueError, match="stream a: its 5 examples make no batch"):
        Stream("a", np.full(5, 10), Training(batching="published"))


def test_the_micro_batches_of_an_update_read_different_shards():
    """With two micro-batches an update, two nodes that take one each read disjoint windows of shards."""
    training = Training(steps=20, tokens=60, accumulate=2, order="shards", shard_window=2, window=16)
    shards = np.repeat(np.arange(24), 10)
    lengths = np.full(len(shards), 10)
    stream = Stream("a", lengths, training, shards)
    read: list[set] = [set(), set()]
    for micro in plan({"a": stream}, {"a": 1.0}, training, 1):
        if micro.epoch == 0:
            read[micro.micro] |= set(shards[micro.indices])
    assert min(map(len, read)) >= 8 and not read[0] & read[1]


def test_order_shards_is_taken_where_regions_are_behind_a_url():
    text = "kind: pretrain\nsources: [{captions: c.json, regions: %s}]\n%s"
    for regions, more, order in (
        ("s3://bucket/store", "", "shards"),
        ("[here, 'memory://there']", "", "shards"),
        ("s3://bucket/store", "train: {order: shuffled}", "shuffled"),
        ("here", "", "shuffled"),
    ):
        assert with_order(parse_recipe(text % (regions, more))).train.order == order
    tuned = "kind: finetune\ntask: vqa\ndata: x\nregions: s3://bucket/store\n"
    assert with_order(parse_recipe(tuned)).train.order == "shards"
    assert parse_recipe(to_yaml(parse_recipe(tuned))).regions == "s3://bucket/store"
