"""What one zoo model is: how to build it, how to draw its inputs, what sharing must leave of its work.

Shape letters: R requests, N candidates (flat over requests), B = N pairs, L history length, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from .settle import settled

Columns = Callable[[Generator, int], dict[str, Tensor]]
Style = Literal["dict", "keyword", "positional", "packed"]


@dataclass(frozen=True)
class Sizes:
    """The sizes every model of the zoo is built from; ``FULL`` is the configuration that figures are quoted for."""

    num_user: int = 20
    num_item: int = 10
    width: int = 16
    mlp: tuple[int, int] = (256, 128)
    history: int = 100
    vocab: int = 1000

    @property
    def user_dim(self) -> int:
        return self.num_user * self.width

    @property
    def item_dim(self) -> int:
        return self.num_item * self.width

    @property
    def dim(self) -> int:
        return self.user_dim + self.item_dim


FULL = Sizes()
SMALL = Sizes(num_user=4, num_item=3, width=8, mlp=(16, 8), history=6, vocab=50)


@dataclass(frozen=True)
class Flops:
    """FLOPs of matrix products (2 per multiply-add): ``request`` once per request, ``candidate`` once per candidate."""

    request: int
    candidate: int

    def total(self, num_candidates: int, num_requests: int = 1) -> int:
        return self.request * num_requests + self.candidate * num_candidates


@dataclass(frozen=True)
class WorkForm:
    """Closed form of a model's work: per pair before sharing; after sharing; after binding all item-only inputs."""

    before: int
    after: Flops
    bound: Flops


@dataclass(frozen=True)
class Inputs:
    """Request inputs with R rows, candidate inputs with N rows, and the request of each candidate, int64 [N]."""

    request: dict[str, Tensor]
    candidate: dict[str, Tensor]
    request_of_candidate: Tensor

    @property
    def num_candidates(self) -> int:
        return int(self.request_of_candidate.shape[0])

    def pairs(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The request inputs replicated to N rows, and the candidate inputs: what the original model reads."""
        return {k: v[self.request_of_candidate] for k, v in self.request.items()}, self.candidate

    def double(self) -> Inputs:
        def widen(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.double() if v.is_floating_point() else v for k, v in columns.items()}

        return Inputs(widen(self.request), widen(self.candidate), self.request_of_candidate)


@dataclass(frozen=True)
class ZooModel:
    """One model. ``style`` says how its forward takes tensors; ``packed`` is one matrix, request columns first.

    ``per_request_context`` names candidate inputs that are no function of the item (a position, a bid), so they stay
    outside a bound catalogue. ``refused`` holds a piece of the reason if the compiler may decline the model.
    ``alone_fails`` marks an original that cannot score a batch of one.
    """

    name: str
    sizes: Sizes
    construct: Callable[[], nn.Module]
    draw_request: Columns
    draw_candidate: Columns
    style: Style = "dict"
    user_side_is_encoder: bool = False
    per_request_context: tuple[str, ...] = ()
    work: WorkForm | None = None
    refused: str | None = None
    alone_fails: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """The model in eval mode, fp32, with weights and batch statistics that make its outputs vary."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.construct()
            args, kwargs = self.call_arguments(*self.draw(seed, num_requests=64, num_candidates=64).pairs())
            return settled(model, args, kwargs)

    def draw(self, seed: int, num_requests: int, num_candidates: int) -> Inputs:
        """Random inputs; candidates pick requests in any order, so a request may have none."""
        generator = Generator().manual_seed(seed)
        request_of_candidate = torch.randint(num_requests, (num_candidates,), generator=generator)
        return Inputs(
            self.draw_request(generator, num_requests),
            self.draw_candidate(generator, num_candidates),
            request_of_candidate,
        )

    def call_arguments(
        self, request: Mapping[str, Tensor], candidate: Mapping[str, Tensor]
    ) -> tuple[tuple[object, ...], dict[str, Tensor]]:
        """``(args, kwargs)`` of the original's forward for inputs that all have one row per pair."""
        merged = {**request, **candidate}
        if self.style == "dict":
            return (merged,), {}
        if self.style == "keyword":
            return (), merged
        if self.style == "positional":
            return tuple(merged.values()), {}
        return (torch.cat([*request.values(), *candidate.values()], dim=1),), {}

    def example(self, seed: int = 1, num_pairs: int = 4, *, double: bool = False) -> object:
        """The ``example`` argument of ``share``: a tuple of tensors, or a dict (one dict input, or keywords)."""
        drawn = self.draw(seed, num_pairs, num_pairs)
        args, kwargs = self.call_arguments(*(drawn.double() if double else drawn).pairs())
        return kwargs or (args[0] if self.style == "dict" else args)

    @property
    def request_names(self) -> list[str]:
        return list(self.draw_request(Generator().manual_seed(0), 1))

    @property
    def candidate_names(self) -> list[str]:
        return list(self.draw_candidate(Generator().manual_seed(0), 1))

    @property
    def request_inputs(self) -> list[str] | dict[str, slice]:
        """The ``request_inputs`` argument of ``share``."""
        if self.style != "packed":
            return self.request_names
        width = next(iter(self.draw_request(Generator().manual_seed(0), 1).values())).shape[1]
        return {self.request_names[0]: slice(0, width)}

    @property
    def item_names(self) -> list[str]:
        """Candidate inputs that are functions of the item alone: what ``bind`` takes."""
        return [name for name in self.candidate_names if name not in self.per_request_context]


def merged(*parts: Columns) -> Columns:
    """Several column makers drawn one after another from one generator."""

    def draw(generator: Generator, rows: int) -> dict[str, Tensor]:
        columns: dict[str, Tensor] = {}
        for part in parts:
            columns.update(part(generator, rows))
        return columns

    return draw


def ids(prefix: str, count: int, vocab: int, low: int = 0) -> Columns:
    """``count`` categorical columns ``prefix0..``, int64 [rows]."""

    def draw(generator: Generator, rows: int) -> dict[str, Tensor]:
        return {f"{prefix}{i}": torch.randint(low, vocab, (rows,), generator=generator) for i in range(count)}

    return draw


def column(name: str, vocab: int, *shape: int, low: int = 0) -> Columns:
    """One integer column [rows, *shape]."""
    return lambda generator, rows: {name: torch.randint(low, vocab, (rows, *shape), generator=generator)}


def dense(name: str, *shape: int, scale: float = 1.0) -> Columns:
    """One float column [rows, *shape]."""
    return lambda generator, rows: {name: torch.randn(rows, *shape, generator=generator) * scale}


def history(*names: str, vocab: int, length: int, length_name: str | None = None, left: bool = False) -> Columns:
    """Padded histories [rows, L] with one length per row, 0 where padded; about one row in five is all padding.

    ``left`` pads on the left, as transformers that read the last position do; ``length_name`` adds the lengths [rows].
    """

    def draw(generator: Generator, rows: int) -> dict[str, Tensor]:
        lengths = torch.randint(-length // 4, length + 1, (rows,), generator=generator).clamp(min=0)
        positions = torch.arange(length)
        if left:
            positions = positions.flip(0)
        real = positions[None, :] < lengths[:, None]
        columns = {
            name: torch.where(real, torch.randint(1, vocab, (rows, length), generator=generator), 0) for name in names
        }
        return columns | ({length_name: lengths} if length_name else {})

    return draw
