"""Do the parts of an artifact belong together? Asked before anything of the sizes they claim is allocated.

Checksums find accidents. These checks are for a folder that somebody made: sizes stay within bounds, and no id that the
encoder can give points outside a table.
"""

from __future__ import annotations

import tokenize
from typing import Any

import pyarrow as pa

from depthrank.catalogue import Catalogue
from depthrank.errors import ArtifactError
from depthrank.features import FeatureEncoder
from depthrank.model import ModelConfig, SideConfig
from depthrank.schema import Spec

HOSTILE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, OSError, EOFError),
    *(SyntaxError, tokenize.TokenError, pa.ArrowException),
)
"""What parsers raise at data of another form than they expect."""

MOST_LAYERS = 1_024
MOST_WIDTH = 1 << 16


def plain_spec(spec: Spec) -> dict[str, Any]:
    """The spec as the manifest stores it: without the folder it was read from."""
    return {name: value for name, value in spec.to_plain().items() if name != "folder"}


def check_config(config: ModelConfig, spec: Spec, encoder: FeatureEncoder) -> None:
    """Raise ArtifactError where the model's config does not fit the spec and the encoder, or is out of bounds."""
    layout = encoder.layout
    pairs = {
        "tasks": (config.tasks, tuple(spec.tasks)),
        "number of prior logits": (len(config.prior_logit), len(spec.tasks)),
        "number of history actions": (config.num_actions, len(spec.history_actions)),
        "history length": (config.history_length, spec.history.length),
        "request features": (config.request.columns(), SideConfig.of(layout.request)),
        "item features": (config.item.columns(), SideConfig.of(layout.item)),
        "candidate features": (config.candidate.columns(), SideConfig.of(layout.candidate)),
        "spec of the features": (plain_spec(encoder.spec), plain_spec(spec)),
    }
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise ArtifactError(
                f"the artifact's parts do not belong together: {name} {found!r:.200}, not {expected!r:.200}"
            )
    _check_bounds(config)


def check_columns(encoder: FeatureEncoder, items: Catalogue, users: Catalogue | None) -> None:
    """Raise ArtifactError where a catalogue lacks a column that the encoder reads, or has another kind of one."""
    for problem in encoder.column_problems(items, users):
        raise ArtifactError(f"the artifact's parts do not belong together: {problem!s:.400}")


def _check_bounds(config: ModelConfig) -> None:
    sizes = {
        "width": config.width,
        "table_width": config.table_width,
        "heads": config.heads,
        "ffn_multiple": config.ffn_multiple,
        "request_tokens": config.request_tokens,
        "item_tokens": config.item_tokens,
        "candidate_tokens": config.candidate_tokens,
    }
    layers = {"levels": config.num_levels}
    if config.foreign_at(0) is None:
        layers["router_layers"] = config.router_layers
    if any(not 0 <= f.level <= len(config.levels) for f in config.foreign):
        raise ArtifactError("the manifest's model has a foreign level that is none of its levels")
    if (transitions := config.transitions) is not None:
        slots = {slot.start: slot.num_rows for slot in config.item.slots}
        if type(transitions.column) is not int or slots.get(transitions.column) != transitions.num_items:
            raise ArtifactError("the manifest's model counts transitions by codes that no item column has")
        sizes["neighbours of an item"] = transitions.neighbours
    for number, level in enumerate(config.levels, start=1):
        if config.foreign_at(number) is not None:
            continue
        layers |= {f"reads of level {number}": config.encoder_layers}
        if level.interaction_layers or type(level.interaction_layers) is not int:  # 0: none
            layers |= {f"layers of level {number}": level.interaction_layers}
        sizes |= {
            f"rank of level {number}": level.interaction_rank,
            f"tokens of level {number}": level.interaction_tokens,
            f"width of level {number}": config.level_width(number),
            f"feed-forward experts of level {number}": level.experts,
        }
    for bounds, most in ((sizes, MOST_WIDTH), (layers, MOST_LAYERS)):
        for name, value in bounds.items():
            if type(value) is not int or not 1 <= value <= most:
                raise ArtifactError(f"the manifest's model is out of bounds: {name} is {value!r}, expected 1 to {most}")
    if config.width % (2 * config.heads):
        raise ArtifactError(
            f"the manifest's model has width {config.width}, which {config.heads} rotary heads cannot share"
        )
    if not 0 <= config.dropout < 1 or any(min(level.reads, default=0) < 0 for level in config.levels):
        raise ArtifactError("the manifest's model has a dropout or layers to read that are out of bounds")
