import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fixtures
from uniter import pair_scoring
from uniter.modeling_uniter import UniterForMatching
from uniter.pair_scoring import PairOrder, ScoreFile, made_of, parts, score_all
from uniter.regions import Regions

TESTS = Path(__file__).parent


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=12),
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 90),
    st.data(),
)
def test_every_pair_comes_once_the_longest_first_within_the_budget(lengths, sizes, tokens, data):
    order = PairOrder(np.array(lengths), np.array(sizes))
    first = data.draw(st.integers(0, len(order) - 1))
    seen = [(int(t), int(i)) for t, i in zip(*order.take(0, first), strict=True)]
    for texts, images in order.batches(tokens, first):
        both = [lengths[text] + sizes[image] for text, image in zip(texts, images, strict=True)]
        assert len(both) == 1 or len(both) * max(both) <= tokens
        seen += zip(texts.tolist(), images.tolist(), strict=True)
    assert sorted(seen) == [(text, image) for text in range(len(lengths)) for image in range(len(sizes))]
    both = [lengths[text] + sizes[image] for text, image in seen]
    assert both == sorted(both, reverse=True)
    for pair in (0, first, len(order)):
        assert order.tokens_before(pair) == sum(both[:pair])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 60))
def test_parts_hold_everything_once_and_about_so_many_tokens(lengths, most):
    found = parts(np.array(lengths), most)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert all(len(part) and sum(lengths[i] for i in part) < most + max(lengths) for part in found)


# ---------------------------------------------------------------- scores


def workload():
    """A small model, texts and images of various lengths, and how to read the latter."""
    torch.manual_seed(0)
    config = fixtures.tiny_config(initializer_range=0.3)
    model = UniterForMatching(config).eval()
    rng = np.random.default_rng(0)
    texts = [np.array([2, *rng.integers(5, 30, n), 3]) for n in (3, 1, 4, 3, 9, 1, 3)]
    images = [fixtures.random_regions(seed, count) for seed, count in enumerate((4, 2, 7, 4, 2, 1))]
    return model, texts, np.array([len(image) for image in images]), images.__getitem__


@torch.inference_mode()
def one_by_one(model, texts, sizes, read):
    scores = np.empty((len(texts), len(sizes)), np.float32)
    for t, text in enumerate(texts):
        for i in range(len(sizes)):
            regions = read(i)
            scores[t, i] = model(
                input_ids=torch.from_numpy(text)[None],
                regions=torch.from_numpy(regions.features).float()[None],
                locations=torch.from_numpy(regions.fractions())[None],
            ).logits
    return scores


@pytest.mark.parametrize("tokens", [1, 40, 8192])
@pytest.mark.parametrize("held", [1, 9, 2**18])
def test_scores_are_those_of_the_pairs_one_by_one(monkeypatch, tokens, held):
    monkeypatch.setattr(pair_scoring, "HELD", held)
    monkeypatch.setattr(pair_scoring, "AT_ONCE", 5)
    work = workload()
    with torch.inference_mode():
        scores = score_all(*work, tokens=tokens)
    expected = one_by_one(*work)
    assert expected.std() > 0.01
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_each_image_is_read_once_and_the_progress_line_reaches_its_end(capsys):
    model, texts, sizes, read = workload()
    asked = []
    with torch.inference_mode():
        score_all(model, texts, sizes, lambda image: asked.append(image) or read(image), tokens=40, progress="pairs")
    assert sorted(asked) == list(range(len(sizes)))
    assert "pairs: 100%" in capsys.readouterr().err


def test_what_the_model_cannot_read_is_refused():
    model, texts, sizes, read = workload()
    long = np.full(model.config.max_position_embeddings + 1, 7)
    with pytest.raises(ValueError, match="positions"):
        score_all(model, [long], sizes, read)
    wide = Regions(np.zeros((3, fixtures.FEATURES + 1), np.float32), fixtures.random_regions(0, 3).boxes, 640, 480)
    with pytest.raises(ValueError, match=f"{fixtures.FEATURES + 1} features"):
        score_all(model, texts, np.array([3]), lambda image: wide)


# ---------------------------------------------------------------- file

KILLED = """
import sys, time
import torch
sys.path.insert(0, sys.argv[2])
from test_pair_scoring import file_of, workload
from uniter import pair_scoring

pair_scoring.SAVE_EVERY = 0.0
work = workload()
whole, batches = work[0].uniter.encoder.forward, iter(range(5))
def stuck(*args, **kwargs):
    if next(batches, None) is None:
        print("five batches", flush=True)
        time.sleep(600)
    return whole(*args, **kwargs)
work[0].uniter.encoder.forward = stuck
with torch.inference_mode():
    pair_scoring.score_all(*work, tokens=40, file=file_of(sys.argv[1], work))
"""


def file_of(path, work, precision="float32"):
    _, texts, sizes, _ = work
    return ScoreFile(path, (len(texts), len(sizes)), made_of(*work, precision))


def test_a_killed_run_is_gone_on_with(tmp_path):
    path = tmp_path / "scores.npy"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(TESTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "five batches\n"
        process.kill()
    assert not path.exists()
    work = workload()
    file = file_of(path, work)
    done = file.done
    assert 0 < done < file.scores.size and np.isfinite(file.scores).sum() >= done
    expected = one_by_one(*work)
    file.scores[np.isfinite(file.scores)] += 100  # so that it shows what is computed again
    with torch.inference_mode():
        scores = score_all(*work, tokens=40, file=file)
    kept = scores > expected + 50
    assert kept.sum() == done
    np.testing.assert_allclose(scores - 100 * kept, expected, atol=1e-5)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["scores.npy", "scores.npy.json"]


def test_a_finished_file_is_read_and_nothing_is_scored(tmp_path):
    work = workload()
    with torch.inference_mode():
        scores = score_all(*work, file=file_of(tmp_path / "scores.npy", work))
        np.testing.assert_allclose(scores, one_by_one(*work), atol=1e-5)
        file = file_of(tmp_path / "scores.npy", work)
        work[0].uniter.encoder.forward = None
        np.testing.assert_array_equal(score_all(*work, file=file), scores)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy", allow_pickle=False), scores)


def test_an_error_keeps_what_was_done(tmp_path):
    work = workload()
    whole, batches = work[0].uniter.encoder.forward, iter(range(5))

    def fails(*args):
        if next(batches, None) is None:
            raise RuntimeError("out of memory")
        return whole(*args)

    work[0].uniter.encoder.forward = fails
    with torch.inference_mode(), pytest.raises(RuntimeError, match="out of memory"):
        score_all(*work, tokens=40, file=file_of(tmp_path / "scores.npy", work))
    work[0].uniter.encoder.forward = whole
    assert file_of(tmp_path / "scores.npy", work).done > 0


def test_scores_of_another_model_or_other_data_are_refused(tmp_path):
    path = tmp_path / "scores.npy"
    model, texts, sizes, read = workload()
    with torch.inference_mode():
        score_all(model, texts, sizes, read, file=file_of(path, (model, texts, sizes, read)))
    with pytest.raises(ValueError, match=r"scores.npy holds scores of another precision"):
        file_of(path, (model, texts, sizes, read), "bfloat16")
    other = [*texts[:-1], texts[-1] + 1]
    with pytest.raises(ValueError, match=r"another texts"):
        file_of(path, (model, other, sizes, read))
    changed = lambda image: fixtures.random_regions(99, len(read(image)))
    with pytest.raises(ValueError, match=r"another images"):
        file_of(path, (model, texts, sizes, changed))
    with torch.no_grad():
        model.rank_output.bias += 1
    with pytest.raises(ValueError, match=r"another model.*remove this one and scores.npy.json"):
        file_of(path, (model, texts, sizes, read))


def test_files_that_are_not_ours_or_damaged_are_refused(tmp_path):
    work = workload()
    with pytest.raises(ValueError, match=r"\.npy"):
        file_of(tmp_path / "scores.safetensors", work)
    path = tmp_path / "scores.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(ValueError, match="exists already"):
        file_of(path, work)
    path.unlink()
    file_of(path, work).close()
    unfinished = tmp_path / "scores.npy.unfinished"
    unfinished.write_bytes(unfinished.read_bytes()[:100])
    (tmp_path / "scores.npy.json").write_text(
        (tmp_path / "scores.npy.json").read_text().replace('"done": 0', '"done": 3')
    )
    with pytest.raises(ValueError, match="unfinished is damaged"):
        file_of(path, work)
    unfinished.unlink()
    with pytest.raises(ValueError, match=r"scores.npy.json is damaged or alone"):
        file_of(path, work)
