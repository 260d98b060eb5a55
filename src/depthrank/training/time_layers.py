"""How long a request's layers take in each format here: every distinct shape, at the sizes that plans really use.

Layers are timed alone with weights that are not in the cache when they are read, as in a request, where other layers
ran since.

Legend: M rows, K inputs, N outputs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import TypeVar

import torch
from torch import Tensor, nn

from depthrank.model import CandidateLayout, ElasticRanker, UserState
from depthrank.model.flop_count import FlopCount
from depthrank.precision import AttentionLayer, Format, LayerChoice, Peaks, in_formats, layers_of
from depthrank.precision.in_formats import replaced
from depthrank.precision.observed import Seen, observed
from depthrank.precision.peaks import best_seconds
from depthrank.precision.product_mode import products_of
from depthrank.training.replay_requests import FullDepth, OneRequest

Shape = tuple[int, ...]
Model = TypeVar("Model", bound=nn.Module)
COLD_BYTES = 48 << 20  # weights of this many bytes are cycled through, so that none stays in a core's cache
MOST_COPIES = 8
ROWS_RATIO = 1.5
SECONDS_A_SHAPE = 0.02

logger = logging.getLogger("depthrank.training")


@torch.inference_mode()
def run_plan(full: FullDepth, model: ElasticRanker, one: OneRequest, widths: Sequence[int], state: UserState) -> None:
    """One request through a plan, the first candidates standing in for the best ones; ``state`` is deepened."""
    n, config = one.num_candidates, model.config
    with products_of(1, config.width):
        seen = model.begin(one.request, full.items, state=state)
    with products_of(n, config.width):
        logits_NK, candidates = model.route(seen, full.items, one.candidates), None
    for level, asked in enumerate(widths[1:], start=1):
        width = min(asked, logits_NK.shape[0], n)
        if width <= 0:
            continue
        index = torch.arange(width)
        if candidates is None:
            with products_of(width, config.width):
                candidates = model.start(full.items, one.candidates.select(index))
        else:
            candidates = candidates.select(index)
        request_N = torch.zeros(width, dtype=torch.int64)
        layout = CandidateLayout(request_N, 1)
        with products_of(width, config.level_width(level)):
            logits_NK, candidates = model.refine(level, seen, candidates, request_N, logits_NK[:width], layout)
        model.probabilities(level, logits_NK)


@torch.inference_mode()
def fresh_state(full: FullDepth, model: ElasticRanker, one: OneRequest) -> UserState:
    """The user's state from nothing, as deep as the router reads."""
    return model.encode_history(one.request, full.items, model.config.router_layers)


@torch.inference_mode()
def extended_state(full: FullDepth, model: ElasticRanker, one: OneRequest, whole: UserState) -> UserState:
    """The state with its last event encoded again: what a request costs when one event came since the last one."""
    if whole.num_positions < 2:
        return whole.prefix(whole.num_positions)
    request = one.request
    token = full.items.vector_UD[request.history_rows_SL[:, -1:].to(torch.int64)]
    before = whole.prefix(whole.num_positions - 1)
    return model.encoder.extend(before, token, request.actions_SL[:, -1:], request.gaps_SL[:, -1:])


@dataclass
class Uses:
    """What the plans ask of each layer: calls by shape, each worth ``1 / milliseconds of its plan``, so that every plan
    counts alike."""

    weights: dict[str, dict[Shape, float]] = field(default_factory=dict)

    def add(self, found: Mapping[str, Seen], worth: float) -> None:
        """Count one run of a plan."""
        for name, seen in found.items():
            held = self.weights.setdefault(name, {})
            for shape, calls in seen.calls.items():
                held[_rounded(shape)] = held.get(_rounded(shape), 0.0) + calls * worth


def _rounded(shape: Shape) -> Shape:
    """Rows of a linear layer on a geometric grid, as widths near one another cost alike; attention's on one of 32."""
    if len(shape) == 1:
        if shape[0] <= 2:
            return shape
        return (round(ROWS_RATIO ** round(math.log(shape[0], ROWS_RATIO))),)
    heads, queries, keys, width, causal = shape
    return heads, max(1, queries if queries < 32 else round(queries / 32) * 32), keys, width, causal


def uses_of(
    full: FullDepth, requests: Sequence[OneRequest], plans: Sequence[Sequence[int]], clock_s: Callable[[], float]
) -> Uses:
    """Run every plan on every request, with a cold and with a warm user state, and count what layers are asked."""
    uses, model = Uses(), full.model
    for one in requests:
        whole = fresh_state(full, model, one)
        model.encoder.deepen_(whole, model.config.encoder_layers)
        for widths in plans:
            for begin in (partial(fresh_state, full, model, one), partial(extended_state, full, model, one, whole)):
                run_plan(full, model, one, widths, begin())
                started = clock_s()
                run_plan(full, model, one, widths, begin())
                took_ms = max(clock_s() - started, 1e-6) * 1e3
                with observed(model) as found:
                    run_plan(full, model, one, widths, begin())
                uses.add(found, 1.0 / took_ms)
    return uses


class LayerTimes:
    """Milliseconds of a layer's call by shape and format, each measured once."""

    def __init__(self, seconds: float = SECONDS_A_SHAPE, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self._seconds, self._clock_s = seconds, clock_s
        self._known: dict[tuple[object, ...], float] = {}

    def ms(self, layer: nn.Module, shape: Shape, format: Format) -> float:
        """One call of a layer like ``layer`` on inputs of ``shape``."""
        sizes = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else ()
        key = (*sizes, shape, format)
        if key not in self._known:
            self._known[key] = self._measured(layer, shape, format)
        return self._known[key]

    def _measured(self, layer: nn.Module, shape: Shape, format: Format) -> float:
        """Infinite where this machine has no kernel for the format."""
        try:
            is_linear = isinstance(layer, nn.Linear)
            calls = _linear_calls(layer, shape, format) if is_linear else _attention_calls(layer, shape, format)
            turn = cycle(calls)
            width = math.isqrt(layer.in_features * layer.out_features) if isinstance(layer, nn.Linear) else shape[3]
            with products_of(shape[0], width):
                return 1e3 * best_seconds(lambda: next(turn)(), self._seconds, self._clock_s)
        except RuntimeError as error:
            logger.info("%s does not run here: %s", format, error)
            return math.inf

    def weighted_ms(self, layer: nn.Module, weights: Mapping[Shape, float], format: Format) -> float:
        """All calls of a layer, each with its weight."""
        return sum(weight * self.ms(layer, shape, format) for shape, weight in weights.items() if _work(shape))


def _work(shape: Shape) -> bool:
    return all(size > 0 for size in shape[:4])


@torch.inference_mode()
def _linear_calls(layer: nn.Module, shape: Shape, format: Format) -> list[Callable[[], Tensor]]:
    assert isinstance(layer, nn.Linear)
    bytes_each = max(1, layer.weight.numel() * 4)
    copies = min(MOST_COPIES, max(1, COLD_BYTES // bytes_each))
    x = torch.randn(shape[0], layer.in_features)
    choice = LayerChoice(format, 0.03 if format is Format.INT8_STATIC else None)
    made: list[Callable[[], Tensor]] = []
    for _ in range(copies):
        like = nn.Sequential(nn.Linear(layer.in_features, layer.out_features, bias=False)).requires_grad_(False)
        made.append(partial(_call, in_formats(like, {"0": choice}), x))
    return made


@torch.inference_mode()
def _attention_calls(layer: nn.Module, shape: Shape, format: Format) -> list[Callable[[], Tensor]]:
    heads, queries, keys, width, causal = shape
    q, k, v = (torch.randn(1, heads, rows, width) for rows in (queries, keys, keys))
    bias = None if causal else torch.zeros(1, heads, 1, keys)
    like = in_formats(nn.Sequential(layer), {"0": LayerChoice(format)})
    return [partial(_attend, like, q, k, v, bias, bool(causal))]


def _call(layers: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return layers(x)  # type: ignore[no-any-return]


def _attend(layers: nn.Module, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    with torch.inference_mode():
        return layers[0](q, k, v, bias, causal=causal)  # type: ignore[index, no-any-return]


@dataclass(frozen=True)
class Asked:
    """What one run asks of the layers of a model in fp32: calls by shape of each; ``other_flops``: operations of
    products that belong to no layer, which run in fp32."""

    model: nn.Module
    calls: Mapping[str, Mapping[Shape, int]]
    other_flops: float = 0.0

    @classmethod
    def by(cls, model: Model, run: Callable[[Model], object]) -> Asked:
        """Of what ``run`` does with the model."""
        with observed(model) as found:
            run(model)
        with FlopCount() as counter:
            run(_without_layers(model))
        return cls(model, {name: seen.calls for name, seen in found.items()}, float(counter.total))

    def layer_ms(self, times: LayerTimes, name: str, format: Format) -> float:
        """All calls of one layer."""
        layer = layers_of(self.model)[name]
        return times.weighted_ms(layer, {_rounded(s): float(n) for s, n in self.calls[name].items()}, format)

    def layers_ms(self, times: LayerTimes, formats: Mapping[str, Format], below: str = "") -> float:
        """All layers whose names begin so, each alone in its format."""
        names = (name for name in self.calls if name.startswith(below))
        return sum(self.layer_ms(times, name, formats.get(name, Format.FP32)) for name in names)

    def floor_ms(self, name: str, format: Format, peaks: Peaks) -> float:
        """Operations of one layer over the peak of its format, or its weights read once, whichever is longer."""
        layer = layers_of(self.model)[name]
        computed = self._seconds(name, format, peaks)
        num_bytes = {"fp32": 4, "bf16": 2, "int8": 1}[format.peak]
        read = layer.weight.numel() * num_bytes / peaks.copy_bytes if isinstance(layer, nn.Linear) else 0.0
        return 1e3 * max(computed, read)

    def best_ms(self, formats: Mapping[str, Format], peaks: Peaks, below: tuple[str, ...] = ("",)) -> float:
        """All products, of layers those whose names begin so, each over the peak of its format; infinite where a format
        has no kernel here."""
        names = (name for name in self.calls if name.startswith(below))
        of_layers = sum(self._seconds(name, formats.get(name, Format.FP32), peaks) for name in names)
        return 1e3 * (of_layers + (self.other_flops / peaks.fp32 if peaks.fp32 else math.inf))

    def _seconds(self, name: str, format: Format, peaks: Peaks) -> float:
        flops, peak = self._flops(name), peaks.of(format.peak)
        if not flops:
            return 0.0
        if format.is_int8 and isinstance(layers_of(self.model)[name], AttentionLayer):  # values are weighted in bf16
            return flops / 2 / peak + flops / 2 / peaks.bf16 if peak and peaks.bf16 else math.inf
        return flops / peak if peak else math.inf

    def largest(
        self, times: LayerTimes, formats: Mapping[str, Format], peaks: Peaks, most: int = 10
    ) -> list[dict[str, object]]:
        """The layers that take most of the time as they run now, against their floor."""
        rows = []
        for name in self.calls:
            format = formats.get(name, Format.FP32)
            ms = self.layer_ms(times, name, format)
            rows.append({"name": name, "format": str(format), "ms": ms, "floor_ms": self.floor_ms(name, format, peaks)})
        return sorted(rows, key=lambda row: -float(row["ms"]))[:most]  # type: ignore[arg-type]

    def _flops(self, name: str) -> float:
        layer = layers_of(self.model)[name]
        return sum(calls * _flops(layer, shape) for shape, calls in self.calls[name].items())


class _Nothing(nn.Module):
    """In the place of a layer: its output's shape, without its operations."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.out_features = layer.out_features if isinstance(layer, nn.Linear) else None

    def forward(self, x: Tensor, *others: Tensor | None, **options: bool) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.out_features or x.shape[-1])


def _without_layers(model: Model) -> Model:
    return replaced(model, {name: _Nothing(layer) for name, layer in layers_of(model).items()})


def _flops(layer: nn.Module, shape: Shape) -> float:
    if isinstance(layer, AttentionLayer):
        heads, queries, keys, width, causal = shape
        return 4.0 * heads * queries * keys * width * (0.5 if causal and queries > 1 else 1.0)
    assert isinstance(layer, nn.Linear)
    return 2.0 * shape[0] * layer.in_features * layer.out_features


def median(values: Iterable[float]) -> float:
    """The middle one."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
