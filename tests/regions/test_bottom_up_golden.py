"""Every field of the golden set of bottom-up attention, computed and compared within the tolerances of its README."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import golden_frcnn as golden
from uniter.regions.bottom_up_rules import choose_official, confidences, scale

pytestmark = golden.needs_golden
BOX, FEATURE, LOGIT, PROB = 0.02, 5e-4, 1e-3, 1e-4


@pytest.mark.parametrize("kind", golden.kinds())
def test_weights_follow_the_rule(kind):
    made = golden.weights(kind)
    assert made.keys() == golden.probe(kind).keys()
    for name, said in golden.probe(kind).items():
        values = made[name].double().flatten()
        assert list(made[name].shape) == said["shape"], name
        assert values[:3].tolist() == pytest.approx(said["first"], rel=1e-6), name
        assert values.sum().item() == pytest.approx(said["sum"], rel=1e-6, abs=1e-6), name
        assert values.abs().sum().item() == pytest.approx(said["abs_sum"], rel=1e-6), name


@pytest.mark.parametrize("name", golden.cases())
@torch.inference_mode()
def test_every_field(name):
    case = golden.Case(name)
    detector, mode = golden.detector(case.kind), golden.mode(case.kind)
    pictures = [scale(image, mode) for image in case.images]
    sides = [max(picture.size[axis] for picture in pictures) for axis in (0, 1)]
    pixels = torch.stack([F.pad(p.pixels, (0, sides[1] - p.size[1], 0, sides[0] - p.size[0])) for p in pictures])
    case.same("input", pixels, 1e-3)
    case.same("sizes_hw", [picture.size for picture in pictures])
    case.same("raw_sizes_hw", [image.size[::-1] for image in case.images])
    case.same("scales_yx", [picture.back[::-1] for picture in pictures], 1e-6)

    maps = detector.network.maps(pixels)
    logits, deltas = detector.network.propose(maps)
    case.same("res4", maps, FEATURE)
    case.same("rpn_logits", logits, LOGIT)
    case.same("rpn_deltas", deltas, LOGIT)
    given = [torch.from_numpy(case[f"given_boxes_{number}"]) for number in range(len(pictures))]
    for number, said in enumerate(detector.candidates(pixels, pictures, given)):
        case.same(f"given_boxes_{number}", said.boxes)
        case.same(f"given_pooled_{number}", said.features, FEATURE)
        case.same(f"given_cls_logits_{number}", said.classes, LOGIT)
    for number, (candidates, picture) in enumerate(zip(detector.candidates(pixels, pictures), pictures, strict=True)):
        compare_port(case, number, detector, candidates, picture)
        compare_official(case, number, candidates, picture)
    if "pre_cv2_0" in case.fields:
        ours = scale(case.images[0], replace(mode, resize="caffe"))
        case.same("pre_cv2_0", ours.pixels, 0.01)
        case.same("pre_cv2_scale_0", 1 / ours.back[0], 1e-12)
    if "pre_pil_0" in case.fields:
        ours = scale(case.images[0], replace(mode, resize="pillow")).pixels
        case.same("pre_pil_0", ours, 1.0)
        assert np.abs(ours.numpy() - case["pre_pil_0"]).mean() <= 0.01
    assert case.compared == case.fields.keys()


def compare_port(case, number, detector, candidates, picture):
    case.same(f"proposals_{number}", candidates.boxes, BOX)
    case.same(f"objectness_{number}", candidates.objectness, LOGIT)
    case.same(f"pooled_{number}", candidates.features, FEATURE)
    case.same(f"cls_logits_{number}", candidates.classes, LOGIT)
    attributes = detector.network.attributes(candidates.features, candidates.classes)
    case.same(f"attr_logits_{number}", attributes, LOGIT)
    chosen = detector.choose(candidates, picture)
    case.same(f"keep_{number}", chosen.rows)
    case.same(f"nms_used_{number}", chosen.overlap, 1e-7)
    case.same(f"boxes_{number}", chosen.boxes, BOX)
    case.same(f"obj_probs_{number}", chosen.scores, PROB)
    case.same(f"roi_features_{number}", candidates.features[chosen.rows], FEATURE)
    probs = candidates.classes[chosen.rows].softmax(1)
    case.same(f"class_probs_{number}", probs, PROB)
    case.same(f"obj_ids_{number}", probs[:, :-1].argmax(1))
    probs = attributes[chosen.rows, :-1].softmax(1)
    case.same(f"attr_ids_{number}", probs.argmax(1))
    case.same(f"attr_probs_{number}", probs.amax(1), PROB)


def compare_official(case, number, candidates, picture):
    """Ours are ordered by confidence, the set's by proposal; where ties decide, what the set kept is taken."""
    mode = golden.mode(case.kind, "official")
    probs, boxes = candidates.classes.softmax(1), candidates.boxes * torch.tensor(picture.back * 2)
    tie_free = case[f"butd_tie_free_{number}"]
    assert tie_free.shape == (3,)
    case.compared.add(f"butd_tie_free_{number}")
    everywhere = confidences(boxes, probs, mode.overlaps[0])
    chosen = choose_official(candidates.boxes, probs, picture, mode)
    assert (chosen.scores.diff() <= 0).all() and torch.equal(chosen.scores, everywhere[chosen.rows])
    kept = torch.from_numpy(case[f"butd_keep_{number}"])
    if tie_free[0]:
        assert torch.equal(chosen.rows.sort().values, kept.sort().values)
        torch.testing.assert_close(chosen.boxes, boxes[chosen.rows], rtol=0, atol=0)
    assert len(chosen.rows) == len(kept)
    case.same(f"butd_keep_{number}", kept)
    if tie_free[1]:
        case.same(f"butd_conf_{number}", everywhere[kept], PROB)
    if tie_free[2]:
        case.same(f"butd_conf_all_{number}", everywhere, PROB)
    case.compared |= {f"butd_conf_{number}", f"butd_conf_all_{number}"}
    case.same(f"butd_boxes_{number}", boxes[kept], BOX)
    case.same(f"butd_features_{number}", candidates.features[kept], FEATURE)
    case.same(f"butd_soft_labels_{number}", probs[kept].roll(1, dims=1), PROB)
    height, width = case["raw_sizes_hw"][number].tolist()
    fractions = boxes[kept] / torch.tensor([width, height] * 2)
    fractions = torch.cat([fractions, fractions[:, 2:] - fractions[:, :2]], dim=1)
    case.same(f"butd_norm_bb_{number}", fractions, BOX / min(height, width))


@pytest.mark.parametrize(
    "name", [name for name in golden.cases() if len(golden.settings()["cases"][name]["images"]) == 1]
)
def test_detectors_give_the_same(name):
    """What a user gets, in both modes: a picture in, regions out."""
    case = golden.Case(name)
    regions, attributes = golden.detector(case.kind).detect_with_attributes(case.images)[0]
    np.testing.assert_allclose(regions.features, case["roi_features_0"], rtol=0, atol=FEATURE)
    np.testing.assert_allclose(regions.boxes, case["boxes_0"], rtol=0, atol=BOX)
    np.testing.assert_allclose(np.roll(regions.class_probs, -1, axis=1), case["class_probs_0"], rtol=0, atol=PROB)
    np.testing.assert_allclose(regions.scores, case["obj_probs_0"], rtol=0, atol=PROB)
    np.testing.assert_array_equal(attributes["attribute"].argmax(1), case["attr_ids_0"])
    np.testing.assert_array_equal(regions.class_probs[:, 1:].argmax(1), case["obj_ids_0"])
    assert (regions.height, regions.width) == tuple(case["raw_sizes_hw"][0])

    if not case["butd_tie_free_0"][:2].all():
        pytest.skip("which regions are kept depends on how ties are broken")
    regions = golden.detector(case.kind, "official").detect(case.images)[0]
    order = np.argsort(-case["butd_conf_0"], kind="stable")
    np.testing.assert_allclose(regions.scores, case["butd_conf_0"][order], rtol=0, atol=PROB)
    np.testing.assert_allclose(regions.features, case["butd_features_0"][order], rtol=0, atol=FEATURE)
    np.testing.assert_allclose(regions.class_probs, case["butd_soft_labels_0"][order], rtol=0, atol=PROB)
    np.testing.assert_allclose(regions.boxes, case["butd_boxes_0"][order], rtol=0, atol=BOX)
    atol = BOX / min(regions.width, regions.height)
    np.testing.assert_allclose(regions.fractions()[:, :6], case["butd_norm_bb_0"][order], rtol=0, atol=atol)


@pytest.mark.parametrize("name", golden.cases())
def test_given_boxes_of_one_picture(name):
    case = golden.Case(name)
    if len(case.images) > 1:
        pytest.skip("a padded batch; detectors look at pictures one by one")
    boxes = case["given_boxes_0"] * np.tile(case["scales_yx"][0][::-1], 2)
    regions = golden.detector(case.kind).features(case.images[0], boxes)
    np.testing.assert_allclose(regions.features, case["given_pooled_0"], rtol=0, atol=FEATURE)
    probs = torch.from_numpy(case["given_cls_logits_0"]).softmax(1).roll(1, dims=1).numpy()
    np.testing.assert_allclose(regions.class_probs, probs, rtol=0, atol=PROB)
