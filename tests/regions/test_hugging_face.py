import numpy as np
import pytest
import tiny_detectors
import torch
from PIL import Image

from uniter.regions.detectors import Detector, load_detector
from uniter.regions.frozen_vit import FrozenViT
from uniter.regions.hugging_face import SIGMOID, SOFTMAX, distribution
from uniter.scenes.draw import draw
from uniter.scenes.world import make_scene

SETTINGS = "threshold=0.05,most=15"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hf")
    (root / "words.txt").write_text("cat\nred buses\n\ndoor\n")
    every = {**tiny_detectors.FIXED, **tiny_detectors.OPEN, **tiny_detectors.TRANSFORMERS}
    return {name: tiny_detectors.write(parts, root / name) for name, parts in every.items()} | {
        "words": root / "words.txt"
    }


def named(folders, name, more=""):
    vocabulary = f",vocabulary={folders['words']}" if name in tiny_detectors.OPEN else ""
    return load_detector(f"huggingface:{folders[name]},{SETTINGS}{vocabulary}{more}", "cpu")


SIZES = {"grounding_dino": 64}
EVERY = [*tiny_detectors.FIXED, *tiny_detectors.OPEN]


@pytest.mark.parametrize("name", EVERY)
def test_regions_are_valid_and_alone_as_in_a_batch(folders, name):
    detector = named(folders, name)
    assert isinstance(detector, Detector) and detector.feature_size == SIZES.get(name, 16)
    expected = ["cat", "red buses", "door"] if name in tiny_detectors.OPEN else ["cat", "dog", "red bus"]
    assert detector.class_names == ["background", *expected]
    assert detector.notes["class_probs"] == (SOFTMAX if name in ("detr", "yolos") else SIGMOID)
    images = [draw(make_scene(0, "val", index)) for index in range(2)]
    images += [Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 100, 3), dtype=np.uint8))]
    images += [
        Image.new("L", (90, 30), 80),
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (1, 200)),
        Image.new("P", (300, 2)),
    ]
    together = detector.detect(images)
    for image, regions in zip(images, together):
        assert 1 <= len(regions) <= 15 and (regions.width, regions.height) == image.size
        assert (regions.boxes >= 0).all() and (regions.boxes <= [*image.size] * 2).all()
        assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
        assert (np.diff(regions.scores) <= 0).all() and (regions.scores <= 1).all()
        assert regions.features.shape[1] == detector.feature_size and regions.features.dtype == np.float16
        assert np.allclose(regions.class_probs.sum(1), 1, atol=1e-5) and regions.class_probs.shape[1] == 4
        alone = detector.detect([image])[0]
        assert np.array_equal(alone.features, regions.features) and np.array_equal(alone.boxes, regions.boxes)


@pytest.mark.parametrize("name", EVERY)
def test_pictures_of_one_size_in_one_batch_are_seen_as_alone(folders, name):
    """As on a GPU, where those of one size are looked at together."""
    network = named(folders, name).network
    images = [draw(make_scene(0, "val", index)).resize((80, 64)) for index in range(2)]
    with torch.inference_mode():
        together = network.look(images)
        for image, candidates in zip(images, together):
            alone = network.look([image])[0]
            # queries that are chosen may come in another order
            assert torch.allclose(alone.scores.sort()[0], candidates.scores.sort()[0], atol=1e-4)
            assert torch.allclose(alone.states.sum(1).sort()[0], candidates.states.sum(1).sort()[0], atol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_is_what_transformers_says(folders, name):
    """The network's own boxes and best scores, by transformers' own post-processing."""
    import transformers as hf

    detector, image = named(folders, name), draw(make_scene(0, "val", 0)).resize((100, 60))
    open_words = ["cat", "red buses", "door"]
    with torch.inference_mode():
        (candidates,) = detector.network.look([image])
        if name in tiny_detectors.FIXED:
            processor = hf.AutoImageProcessor.from_pretrained(folders[name])
            out = detector.network.model(**processor(images=image, return_tensors="pt"))
            said = processor.post_process_object_detection(out, threshold=0.0, target_sizes=[(60, 100)])[0]
            boxes, scores = said["boxes"], said["scores"]
        elif name == "owlv2":
            processor = hf.Owlv2ImageProcessor.from_pretrained(folders[name])
            tokens = hf.AutoTokenizer.from_pretrained(folders[name])(
                open_words, padding="max_length", max_length=16, return_tensors="pt"
            )
            pixels = processor(images=image, return_tensors="pt")
            out = detector.network.model(**pixels, **tokens)
            said = processor.post_process_object_detection(out, threshold=0.0, target_sizes=[(60, 100)])[0]
            boxes, scores = said["boxes"], said["scores"]
        else:
            tokenizer = hf.AutoTokenizer.from_pretrained(folders[name])
            processor = hf.GroundingDinoImageProcessor.from_pretrained(folders[name])
            tokens = tokenizer("cat. red buses. door.", return_tensors="pt")
            assert tokenizer.convert_ids_to_tokens(tokens["input_ids"][0]) == [
                "[CLS]",
                "cat",
                ".",
                "red",
                "bus",
                "##es",
                ".",
                "door",
                ".",
                "[SEP]",
            ]
            out = detector.network.model(**processor(images=image, return_tensors="pt"), **tokens)
            p = out.logits[0].sigmoid()
            classes = torch.stack([p[:, 1], (p[:, 3] + p[:, 4] + p[:, 5]) / 3, p[:, 7]], 1)
            centre, sides = out.pred_boxes[0].split(2, 1)
            boxes = torch.cat([centre - sides / 2, centre + sides / 2], 1) * torch.tensor([100, 60, 100, 60])
            scores = classes.amax(1)
    mine = candidates.boxes * torch.tensor([100, 60, 100, 60])
    best = scores.argmax()
    apart = (mine - boxes[best]).abs().amax(1) + 100 * (candidates.scores - scores[best]).abs()
    assert apart.min() < 1e-2
    assert candidates.scores.max() == pytest.approx(float(scores.max()), abs=1e-5)


def test_sigmoids_become_a_distribution():
    logits = torch.tensor([[2.0, 0.0, -30.0], [-30.0, -30.0, -30.0]])
    probs, scores = distribution(logits, exclusive=False)
    p = logits[0].sigmoid()
    none = (1 - p).prod()
    one = torch.stack([p[k] * (1 - p).prod() / (1 - p[k]) for k in range(3)])  # exactly one class is there
    assert torch.allclose(probs[0], torch.cat([none[None], one]) / (none + one.sum()), atol=1e-6)
    assert probs[1, 0] > 0.999 and torch.allclose(scores[0], p[0])
    probs, scores = distribution(torch.tensor([[1.0, 0.0, 3.0]]), exclusive=True)
    assert torch.allclose(probs, torch.tensor([[3.0, 1.0, 0.0]]).softmax(1)) and scores == probs[:, 1]


@pytest.mark.parametrize("name", EVERY)
def test_given_boxes_need_features_of_a_transformer(folders, name):
    image, boxes = draw(make_scene(0, "val", 0)), np.array([[10, 10, 60, 80], [0, 0, 30, 20]], np.float32)
    with pytest.raises(ValueError, match="features=vit:FOLDER"):
        named(folders, name).features(image, boxes)
    detector = named(folders, name, f",features=vit:{folders['dinov2']}")
    given = detector.features(image, boxes)
    assert np.array_equal(given.boxes, boxes) and given.features.shape == (2, 16) and given.class_probs is None
    found = detector.detect([image])[0]
    assert np.allclose(detector.features(image, found.boxes).features, found.features, atol=1e-2)
    assert "dinov2" in detector.notes["features"]


def test_fingerprint_follows_weights_and_settings(folders, tmp_path):
    """Every weight, every setting that changes regions, the words and the transformer; not the place of the folder."""
    prints = {named(folders, name).fingerprint for name in EVERY}
    prints |= {
        named(folders, "d_fine", more).fingerprint for more in (",overlap=0.5", f",features=vit:{folders['vit']}")
    }
    prints.add(named(folders, "d_fine", f",features=vit:{folders['dinov2']}").fingerprint)
    other = tiny_detectors.write(tiny_detectors.FIXED["d_fine"], tmp_path / "other", seed=1)
    prints.add(load_detector(f"huggingface:{other},{SETTINGS}", "cpu").fingerprint)
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    prints.add(
        load_detector(
            f"huggingface:{folders['owlv2']},{SETTINGS},vocabulary={tmp_path / 'words.txt'}", "cpu"
        ).fingerprint
    )
    assert len(prints) == len(EVERY) + 5
    same = tiny_detectors.write(tiny_detectors.FIXED["d_fine"], tmp_path / "same")
    assert load_detector(f"huggingface:{same},{SETTINGS}", "cpu").fingerprint == named(folders, "d_fine").fingerprint


@pytest.mark.parametrize("name", tiny_detectors.TRANSFORMERS)
def test_transformer_describes_what_is_in_the_box(folders, name):
    """A box over the whole picture is the mean of the patches; left and right of a picture of two halves differ."""
    vit = FrozenViT(folders[name])
    image = Image.new("RGB", (128, 128), "black")
    image.paste("white", (64, 0, 128, 128))
    with torch.inference_mode():
        pixels = torch.from_numpy(
            np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), np.float32) / 255
        ).permute(2, 0, 1)
        pixels = (pixels - torch.from_numpy(vit.mean)) / torch.from_numpy(vit.deviation)
        states = vit.model(pixel_values=pixels[None]).last_hidden_state
    patches = states[0, -16:].reshape(4, 4, 16)
    boxes = np.array([[0, 0, 128, 128], [32, 32, 64, 64]], np.float32)
    described = vit.describe(image, boxes)
    assert described.shape == (2, 16) and states.shape[1] - 16 in (0, 1)
    assert torch.allclose(described[0], patches.mean((0, 1)), atol=0.35)
    assert (described[1] - patches[1, 1]).abs().mean() < (described[1] - patches[2, 3]).abs().mean()


def test_nothing_is_downloaded_unless_asked_for(monkeypatch, folders):
    with pytest.raises(ValueError, match=r"hub:ustc/dfine"):
        load_detector("huggingface:ustc/dfine", "cpu")
    asked = {}

    class Kind:
        @staticmethod
        def from_pretrained(name, local_files_only):
            asked[name] = local_files_only

    from uniter.regions.hub import pretrained

    pretrained(Kind, str(folders["vit"]))
    pretrained(Kind, "hub:ustc/dfine")
    assert asked == {str(folders["vit"]): True, "ustc/dfine": False}


def test_what_is_wrong_is_named(folders, tmp_path):
    def refused(name, said):
        with pytest.raises(ValueError, match=said):
            load_detector(name, "cpu")

    refused(folders["d_fine"], "give it as huggingface:")
    refused(f"huggingface:{folders['d_fine']},features=dinov2", "vit:FOLDER")
    refused(f"huggingface:{folders['d_fine']},colour=red", "colour")
    refused(f"huggingface:{folders['d_fine']},vocabulary={folders['words']}", "leave the vocabulary out")
    refused(f"huggingface:{folders['owlv2']}", "vocabulary=FILE")
    refused(f"huggingface:{folders['owlv2']},vocabulary={tmp_path / 'no.txt'}", "cannot be read")
    refused(f"huggingface:{folders['vit']}", "cannot be read by AutoModelForObjectDetection")
    refused(f"huggingface:{folders['d_fine']},features=vit:{folders['d_fine']}", "no vision transformer")
    refused(f"huggingface:{tmp_path}", "config.json")
    words = tmp_path / "words.txt"
    for text, said in (("", "empty"), ("cat\ncat\n", "cat"), ("background\n", "background")):
        words.write_text(text)
        refused(f"huggingface:{folders['owlv2']},vocabulary={words}", said)
    words.write_text("abcdefghijklmnopqrstuvwxyz\n")
    refused(f"huggingface:{folders['owlv2']},vocabulary={words}", "more than the 16 word pieces")
    words.write_text("".join(f"{'cat ' * n}\n" for n in range(1, 12)))
    refused(f"huggingface:{folders['grounding_dino']},vocabulary={words}", "reads 32")
