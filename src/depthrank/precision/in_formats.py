"""A model with some of its layers in other formats: a copy that shares every weight it does not replace.

A layer's place is its name in the module tree. What can take a format: linear layers without a bias, and attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

from depthrank.errors import ArtifactError
from depthrank.kernels import attention_kernel
from depthrank.precision.attention_layer import AttentionLayer, RoundedAttention
from depthrank.precision.formats import ATTENTION_FORMATS, LINEAR_FORMATS, Format, LayerChoice
from depthrank.precision.fp8_linear import EmulatedFp8Linear
from depthrank.precision.int8_linear import Int8DynamicLinear, Int8StaticLinear
from depthrank.precision.packed_linear import FormattedLinear, PackedLinear, multiplies_bf16
from depthrank.precision.row_linear import RowLinear

Model = TypeVar("Model", bound=nn.Module)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that may take a format, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AttentionLayer) or (type(module) in (nn.Linear, RowLinear) and module.bias is None)
    }


def formats_of(layer: nn.Module) -> tuple[Format, ...]:
    """What is worth trying for a layer on this machine."""
    if isinstance(layer, AttentionLayer):
        has_kernel = attention_kernel() is not None
        return tuple(f for f in ATTENTION_FORMATS if has_kernel or f is not Format.INT8_DYNAMIC)
    return tuple(f for f in LINEAR_FORMATS if f is not Format.BF16 or multiplies_bf16())


def in_formats(model: Model, choices: Mapping[str, LayerChoice]) -> Model:
    """The model with the named layers in their formats; ``model`` stays as it is, and the copy is for inference only.

    Raises ArtifactError for a layer that the model does not have, and for a format that the layer has not.
    """
    layers = layers_of(model)
    for name, choice in choices.items():
        if name not in layers:
            raise ArtifactError(f"there is no layer {name!r} in this model")
        if choice.format not in _known(layers[name]):
            known = ", ".join(_known(layers[name]))
            raise ArtifactError(f"layer {name} cannot run in {choice.format}; it has {known}")
    made = {n: _formatted(layers[n], c) for n, c in choices.items() if c.format is not Format.FP32}
    copied = replaced(model, made)
    _hand_on_rounded_(copied)
    return copied


def _known(layer: nn.Module) -> tuple[Format, ...]:
    """What a layer may run in: attention in int8 runs in bf16 where its kernel cannot be."""
    return ATTENTION_FORMATS if isinstance(layer, AttentionLayer) else formats_of(layer)


def replaced(model: Model, made: Mapping[str, nn.Module]) -> Model:
    """A copy of the model with other modules in the named places, sharing everything else."""
    copied = _copy_of(model, {})
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        setattr(copied.get_submodule(parent), own, module.eval())
    return copied


def _copy_of(module: Model, copies: dict[int, nn.Module]) -> Model:
    """The module tree anew, everything it holds as it is: tensors, mapped rows, graphs."""
    if id(module) not in copies:
        copied = module.__class__.__new__(module.__class__)
        copied.__dict__.update(module.__dict__)
        copies[id(module)] = copied
        for name in ("_parameters", "_buffers"):
            copied.__dict__[name] = dict(module.__dict__[name])
        copied.__dict__["_modules"] = {
            name: None if child is None else _copy_of(child, copies) for name, child in module._modules.items()
        }
    return copies[id(module)]  # type: ignore[return-value]


def _formatted(layer: nn.Module, choice: LayerChoice) -> nn.Module:
    if isinstance(layer, AttentionLayer):
        attention_kernel()  # compiled and tried before the first request
        return RoundedAttention(choice.format.is_int8).eval()
    assert isinstance(layer, nn.Linear)
    weight = layer.weight
    formatted: FormattedLinear
    if choice.format is Format.INT8_STATIC:
        assert choice.input_scale is not None
        formatted = Int8StaticLinear(weight, choice.input_scale)
    elif choice.format is Format.INT8_DYNAMIC:
        formatted = Int8DynamicLinear(weight)
    elif choice.format is Format.FP8_EMULATED:
        formatted = EmulatedFp8Linear(weight)
    else:
        formatted = PackedLinear(weight, torch.bfloat16 if choice.format is Format.BF16 else torch.float32)
    return formatted.eval()


def _hand_on_rounded_(model: nn.Module) -> None:
    """Inside a SwiGLU nobody but the last product reads the hidden values: where that one rounds them to bf16 or int8,
    they stay bf16 on the way, which halves what the activation moves."""
    for module in model.modules():
        first, last = getattr(module, "gate_and_up", None), getattr(module, "down", None)
        if isinstance(first, FormattedLinear) and _rounds(first) and _rounds(last):
            first.out_dtype = torch.bfloat16


def _rounds(layer: object) -> bool:
    if isinstance(layer, PackedLinear):
        return layer.dtype == torch.bfloat16
    return isinstance(layer, (Int8StaticLinear, Int8DynamicLinear))
