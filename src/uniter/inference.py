"""A model made ready for inference: in a precision, and on a CPU with weights laid out for the processor, steps fused.

On a CPU only the encoder is replaced, which is most of the work; embeddings, pooler and head are the model's own, in
float32. On a GPU there is nothing to lay out, and the whole model is converted.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniter.modeling_uniter import Encoder, Layer, UniterPreTrainedModel
from uniter.packing import Reading, attend_packed

Prepared = Literal["auto", "float32", "bfloat16", "int8"]
Model = TypeVar("Model", bound=UniterPreTrainedModel)

# What follows a product in the same step.
Step = Literal["nothing", "gelu", "add"]
Product = Callable[[Tensor, Tensor | None], Tensor]


def prepare(model: Model, precision: Prepared = "auto") -> Model:
    """A model like this one, for inference only; this one stays as it is, and the two share what is not replaced.

    Args:
        model: with any head, in evaluation mode.
        precision: "float32": the same numbers. "bfloat16": rounds to 3 digits; quick on GPUs and on processors that
            multiply tiles of it (AMX), slow on others. "int8": 8 bits, a scale for each output's weights and a range
            for each tensor of states; quick on processors with VNNI. "auto": bfloat16 where it is quick, else float32.

    Raises:
        ValueError: int8 on a GPU or a PyTorch without quantised products; layers that are not the model's own (LoRA:
            merge them first).
    """
    trunk: Any = getattr(model, "uniter", model)
    device = trunk.embeddings.word_embeddings.weight.device
    if precision == "auto":
        quick = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
        precision = "bfloat16" if quick else "float32"
    if device.type != "cpu":
        if precision == "int8":
            raise ValueError("int8 is for CPUs: say bfloat16 on a GPU")
        return copy.deepcopy(model).to(getattr(torch, precision)).eval()
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    if precision == "float32":
        return copy.deepcopy(model, memo).eval()
    if precision == "int8" and "onednn" not in torch.backends.quantized.supported_engines:
        raise ValueError("this PyTorch has no quantised products for this processor: say float32 or bfloat16")
    # In the copy the prepared encoder stands where the model's own one would.
    memo[id(trunk.encoder)] = PreparedEncoder(trunk.encoder, precision)
    return copy.deepcopy(model, memo).eval()


class PreparedEncoder(nn.Module):
    """Does what `Encoder.forward` does; its weights are laid out anew and cannot be trained or saved."""

    def __init__(self, encoder: Encoder, precision: Prepared):
        super().__init__()
        layers: Any = encoder.layer
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.layer = nn.ModuleList(
            PreparedLayer(layer, precision, self.dtype, number == len(layers)) for number, layer in enumerate(layers, 1)
        )

    @torch.no_grad()
    def forward(self, states: Tensor, everyone: Reading, last: Reading, keep: bool = False) -> list[Tensor]:
        """As `Encoder.forward`; float32 comes and goes."""
        states, kept = states.to(self.dtype), []
        for number, layer in enumerate(self.layer, 1):
            kept += [states.float()] if keep else []
            states = layer(states, last if number == len(self.layer) else everyone)
        return [*kept, states.float()]

    def _save_to_state_dict(self, destination: Any, prefix: Any, keep_vars: Any) -> None:
        raise ValueError("a model prepared for inference cannot be saved: save the one it was made of")

    def attentions(self, outputs: list[Tensor], everyone: Reading) -> list[list[Tensor]]:
        """Not kept.

        Raises:
            ValueError: always.
        """
        raise ValueError("a model prepared for inference gives no attention weights: ask the one it was made of")


class PreparedLayer(nn.Module):
    """A layer with query, key and value in one product, and what follows a product fused into it.

    In the last layer some tokens alone may read; there the query has a product of its own, too.
    """

    def __init__(self, layer: Layer, precision: Prepared, dtype: torch.dtype, last: bool):
        super().__init__()
        own = layer.attention.self
        make = _quantised if precision == "int8" else _laid_out
        self.heads = own.heads
        if last:
            self.query = make(_joined(own.query), dtype, "nothing")
            self.key_value = make(_joined(own.key, own.value), dtype, "nothing")
        self.query_key_value = make(_joined(own.query, own.key, own.value), dtype, "nothing")
        self.attended = make(_joined(layer.attention.output.dense), dtype, "add")
        self.widened = make(_joined(layer.intermediate.dense), dtype, "gelu")
        self.narrowed = make(_joined(layer.output.dense), dtype, "add")
        self.norms = [_norm(norm, dtype) for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm)]

    def forward(self, states: Tensor, reading: Reading) -> Tensor:
        """(P, D) states of all tokens -> (Q, D) new ones of those that read."""
        if reading.readers is None:
            readers = states
            query, key, value = self.query_key_value(states, None).chunk(3, 1)
        else:
            readers = states.index_select(0, reading.readers)
            query, (key, value) = self.query(readers, None), self.key_value(states, None).chunk(2, 1)
        read = attend_packed(query, key, value, reading, self.heads, 0.0)
        states = self.norms[0](self.attended(read, readers))
        return self.norms[1](self.narrowed(self.widened(states, None), states))


def _joined(*parts: nn.Module) -> tuple[Tensor, ...]:
    """Weight and bias of linear layers over the same input, as of one."""
    if wrong := [part for part in parts if type(part) is not nn.Linear]:
        raise ValueError(f"a layer of kind {type(wrong[0]).__name__} cannot be prepared: merge or unwrap it first")
    linears: Any = parts
    return tuple(torch.cat([getattr(part, name).detach() for part in linears]) for name in ("weight", "bias"))


def _norm(norm: nn.LayerNorm, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
    return lambda states: F.layer_norm(states, weight.shape, weight, bias, norm.eps)


def _laid_out(linear: tuple[Tensor, ...], dtype: torch.dtype, step: Step) -> Product:
    """A product by oneDNN, its weight in the order that the processor reads it in; elsewhere a plain one."""
    weight, bias = (part.to(dtype) for part in linear)
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return lambda states, other: _after(F.linear(states, weight, bias), other, step)
    ops = torch.ops.mkldnn
    weight = ops._reorder_linear_weight(weight, 1024)  # for about so many rows
    if step == "add":
        return lambda states, other: ops._linear_pointwise.binary(states, other, weight, bias, "add")
    after = ("gelu", [], "none") if step == "gelu" else ("none", [], "none")
    return lambda states, _: ops._linear_pointwise(states, weight, bias, *after)


def _quantised(linear: tuple[Tensor, ...], dtype: torch.dtype, step: Step) -> Product:
    """A product of 8-bit numbers: each output's weights have a scale of their own, each input tensor its range."""
    weight, bias = (part.float() for part in linear)
    scales = weight.abs().amax(1).double().clamp(min=1e-12) / 127
    zeros = torch.zeros_like(scales, dtype=torch.int64)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"  # says which library lays the weight out, and so multiplies later
    try:
        with warnings.catch_warnings():  # newer ways take a fifth longer: the range is found, and numbers made, apart
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
            numbers = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(numbers, bias)
    finally:
        torch.backends.quantized.engine = before
    multiply = torch.ops.quantized.linear_dynamic
    return lambda states, other: _after(multiply(states, packed, False), other, step)  # False: all 8 bits


def _after(states: Tensor, other: Tensor | None, step: Step) -> Tensor:
    if step == "gelu":
        return F.gelu(states)
    return states if other is None else states.add_(other)
