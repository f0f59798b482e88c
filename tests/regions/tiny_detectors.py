"""Detectors and vision transformers of transformers', tiny, with random weights, as folders that `save_pretrained` writes."""

from pathlib import Path

import torch
import transformers as hf

SIDE = 64
NAMES = {0: "cat", 1: "dog", 2: "red bus"}
LABELS = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
HGNET = {
    "model_type": "hgnet_v2",
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 16, 16],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [16, 16, 16, 16],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "hidden_sizes": [16, 16, 16, 16],
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
DECODER = {"d_model": 16, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "decoder_layers": 2}
ENCODER = {"encoder_attention_heads": 2, "encoder_ffn_dim": 32, "encoder_layers": 1}
REAL_TIME = {**DECODER, **ENCODER, "encoder_hidden_dim": 16, "encoder_in_channels": [16] * 3, "num_queries": 30}
REAL_TIME |= {"decoder_in_channels": [16] * 3, "num_denoising": 0, "anchor_image_size": None, **LABELS}
PLAIN = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {**PLAIN, "image_size": SIDE, "patch_size": 16}


def d_fine():
    return hf.DFineForObjectDetection(hf.DFineConfig(backbone_config=HGNET, head_dim=8, **REAL_TIME))


def rt_detr_v2():
    backbone = {"model_type": "rt_detr_resnet", **RESNET, "out_features": ["stage2", "stage3", "stage4"]}
    return hf.RTDetrV2ForObjectDetection(hf.RTDetrV2Config(backbone_config=backbone, **REAL_TIME))


def detr():
    backbone = {"model_type": "resnet", **RESNET, "out_features": ["stage4"]}
    config = hf.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        num_queries=20,
        **DECODER,
        **ENCODER,
        **LABELS,
    )
    return hf.DetrForObjectDetection(config)


def yolos():
    config = {**PLAIN, "image_size": [SIDE, SIDE], "patch_size": 16, "num_detection_tokens": 20, **LABELS}
    return hf.YolosForObjectDetection(hf.YolosConfig(**config))


SQUARE = {"height": SIDE, "width": SIDE}
FIXED = {
    "d_fine": (d_fine, lambda: hf.RTDetrImageProcessor(size=SQUARE)),
    "rt_detr_v2": (rt_detr_v2, lambda: hf.RTDetrImageProcessor(size=SQUARE)),
    "detr": (detr, lambda: hf.DetrImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 4 * SIDE})),
    "yolos": (yolos, lambda: hf.YolosImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 4 * SIDE})),
}


def grounding_dino():
    backbone = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    backbone |= {"window_size": 4, "image_size": SIDE, "out_features": ["stage2", "stage3", "stage4"]}
    text = {"model_type": "bert", "vocab_size": len(words()), **PLAIN, "max_position_embeddings": 40}
    config = hf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=30,
        max_text_len=32,
        **{**DECODER, **ENCODER, "d_model": 64},  # its normalisation has 32 groups
    )
    return hf.GroundingDinoForObjectDetection(config)


def words():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "cat", "dog", "red", "bus", "##es", "door"]
    return {piece: number for number, piece in enumerate(pieces)}


def owlv2():
    text = {**PLAIN, "vocab_size": len(letters()), "max_position_embeddings": 16}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = hf.Owlv2Config(text_config=text, vision_config=VIT, projection_dim=16)
    return hf.Owlv2ForObjectDetection(config)


def letters():
    plain = [*"abcdefghijklmnopqrstuvwxyz"]
    pieces = ["!", "<|startoftext|>", "<|endoftext|>", *plain, *(f"{letter}</w>" for letter in plain)]
    return {piece: number for number, piece in enumerate(pieces)}


def clip_tokenizer():
    return hf.CLIPTokenizer(vocab=letters(), merges=[], pad_token="!", model_max_length=16)


OPEN = {
    "grounding_dino": (
        grounding_dino,
        lambda: hf.GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 4 * SIDE}),
        lambda: hf.BertTokenizer(vocab=words()),
    ),
    "owlv2": (owlv2, lambda: hf.Owlv2ImageProcessor(size=SQUARE), clip_tokenizer),
}


def dinov2():
    return hf.Dinov2Model(hf.Dinov2Config(**VIT))


def vit():
    return hf.ViTModel(hf.ViTConfig(**VIT))


def siglip():
    text = {**PLAIN, "vocab_size": 20, "max_position_embeddings": 8}
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=VIT))


TRANSFORMERS = {
    "dinov2": (dinov2, lambda: hf.BitImageProcessor()),
    "vit": (vit, lambda: hf.ViTImageProcessor()),
    "siglip": (siglip, lambda: hf.SiglipImageProcessor()),
}


def write(parts, folder: Path, seed: int = 0) -> Path:
    """Build with random weights and save. Random ones hardly differ from box to box: some are made larger."""
    torch.manual_seed(seed)
    model = parts[0]()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "norm" not in name:
                value.add_(torch.randn_like(value) * 0.1)
    for part in (model, *(make() for make in parts[1:])):
        part.save_pretrained(folder)
    return folder
