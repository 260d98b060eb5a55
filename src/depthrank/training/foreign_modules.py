"""A PyTorch ranker of the user's own becomes a level: found, built, shared, and trained with the others.

The user's Python runs here, in training, and nowhere else: the artifact holds the shared graph. A module that cannot be
shared is refused before any step is taken.

Legend: R requests, N candidates.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthrank.errors import SpecError, did_you_mean
from depthrank.features import EncoderLayout
from depthrank.model import ElasticRanker, ForeignConfig, ForeignInput, example_inputs, foreign_inputs
from depthrank.model.foreign_level import task_scores
from depthrank.schema import Spec
from depthrank.schema.settings import ForeignSettings
from depthrank.sharing import Shared, share

EXAMPLE_PAIRS = 32
Factory = Callable[..., nn.Module]


@dataclass(frozen=True)
class ForeignModule:
    """One foreign level: its place and inputs, and the module with its shared form."""

    config: ForeignConfig
    scorer: TrainedForeign


class TrainedForeign(nn.Module):
    """The module while it trains: over its shared form with live parameters, or pair by pair in its own mode."""

    def __init__(self, module: nn.Module, inputs: tuple[ForeignInput, ...], one_dict: bool, pairs: bool) -> None:
        super().__init__()
        self.module, self.inputs, self.one_dict, self.pairs = module, inputs, one_dict, pairs
        shared = self.shared
        self.report = shared.report
        self.trainable: nn.Module | None = None if pairs else shared.trainable()

    @property
    def shared(self) -> Shared:
        """The shared form with the weights of now, verified against the module."""
        was_training = self.module.training
        self.module.eval()
        try:
            requests = [i.name for i in self.inputs if i.is_request]
            return share(self.module, example_inputs(self.inputs, EXAMPLE_PAIRS), requests)
        finally:
            self.module.train(was_training)

    def encode(self, request_inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Nothing is computed before candidates are known."""
        return request_inputs

    def score(
        self,
        state: Mapping[str, Tensor],
        candidate_inputs: Mapping[str, Tensor],
        request_of_candidate: Tensor | None,
    ) -> Any:
        """The module's outputs for N candidates, differentiable."""
        if self.trainable is not None:
            return self.trainable(state, candidate_inputs, request_of_candidate)
        rows = next(iter(candidate_inputs.values())).shape[0]
        index = torch.zeros(rows, dtype=torch.int64) if request_of_candidate is None else request_of_candidate
        pairs = {**{name: value[index] for name, value in state.items()}, **candidate_inputs}
        pairs = {i.name: pairs[i.name] for i in self.inputs}
        return self.module(pairs) if self.one_dict else self.module(**pairs)


def foreign_modules(
    spec: Spec, layout: EncoderLayout, factories: Mapping[str, Factory] | None = None
) -> list[ForeignModule]:
    """Every foreign level of the spec, built and shared; ``factories`` name modules that no file holds.

    Raises SpecError where a module cannot be found, built, or fed; SharingError where it cannot be shared.
    """
    known = foreign_inputs(layout, len(spec.history_actions), spec.history.length)
    return [_foreign_module(spec, settings, known, factories or {}) for settings in spec.model.foreign]


def attach(model: ElasticRanker, modules: list[ForeignModule]) -> None:
    """Give a model's foreign levels their modules."""
    for level, foreign in zip(model.foreign_levels(), sorted(modules, key=lambda m: m.config.level), strict=True):
        level.scorer = foreign.scorer


def _foreign_module(
    spec: Spec, settings: ForeignSettings, known: Mapping[str, ForeignInput], factories: Mapping[str, Factory]
) -> ForeignModule:
    module = _build(spec, settings, known, factories)
    names, one_dict = _names_read(settings, module, known)
    inputs = tuple(known[name] for name in names)
    if all(i.is_request for i in inputs):
        raise SpecError(f"{settings.module} reads nothing of a candidate: {', '.join(names)}; add an item's input")
    if settings.training == "none":
        module.requires_grad_(False)
    pairs = settings.training == "pairs" or (settings.training == "auto" and _acts_otherwise_in_training(module))
    scorer = TrainedForeign(module, inputs, one_dict, pairs)
    _check_outputs(spec, settings, scorer)
    config = ForeignConfig(
        level=settings.level,
        module=settings.module,
        inputs=inputs,
        tasks=settings.tasks,
        outputs=settings.outputs,
        adds=settings.adds,
        flops_request=float(scorer.report.flops_per_request),
        flops_candidate=float(scorer.report.flops_per_candidate),
    )
    return ForeignModule(config, scorer)


def _build(
    spec: Spec, settings: ForeignSettings, known: Mapping[str, ForeignInput], factories: Mapping[str, Factory]
) -> nn.Module:
    factory = factories.get(settings.module) or _find(settings.module, Path(spec.folder))
    try:
        module = factory(dict(known), **settings.options)
    except TypeError as error:
        options = ", ".join(f"{name}=..." for name in settings.options)
        raise SpecError(
            f"{settings.module} cannot be called as {settings.module.split(':')[-1]}(inputs{', ' if options else ''}"
            f"{options}): {error}; it gets a dict of inputs by name (shape, num_rows) and the options of the spec"
        ) from error
    if not isinstance(module, nn.Module):
        raise SpecError(f"{settings.module} gives a {type(module).__name__}, expected a torch.nn.Module")
    return module.float()


def _find(name: str, folder: Path) -> Factory:
    """``file.py:Name`` beside the spec, or ``package.module:Name``."""
    place, colon, attribute = name.partition(":")
    if not colon or not attribute:
        raise SpecError(f"model.foreign names {name!r}; expected file.py:Name (beside the spec) or package.module:Name")
    if place.endswith(".py"):
        path = folder / place
        found = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
        if found is None or found.loader is None:
            raise SpecError(f"model.foreign names {name!r}, but there is no file {path}")
        source = importlib.util.module_from_spec(found)
        sys.modules.setdefault(path.stem, source)  # dataclasses look their module up
        found.loader.exec_module(source)
    else:
        try:
            source = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise SpecError(f"model.foreign names {name!r}, but Python finds no module {error.name!r}") from error
    if not hasattr(source, attribute):
        near = did_you_mean(attribute, [n for n in vars(source) if not n.startswith("_")])
        hint = f"; did you mean {near!r}?" if near else ""
        raise SpecError(f"model.foreign names {name!r}, but {place} has no {attribute!r}{hint}")
    factory: Factory = getattr(source, attribute)
    return factory


def _names_read(
    settings: ForeignSettings, module: nn.Module, known: Mapping[str, ForeignInput]
) -> tuple[list[str], bool]:
    """The inputs that a module reads, and whether as one dict."""
    kinds = inspect.Parameter
    parameters = [
        p
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    ]
    needed = [p.name for p in parameters if p.default is kinds.empty or p.name in known]
    one_dict = len(needed) == 1 and needed[0] not in known
    names = list(settings.inputs) or (list(known) if one_dict else needed)
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            hint = f"; did you mean {near!r}?" if near else ""
            raise SpecError(f"{settings.module} reads {name!r}, which is no input{hint}; there are {', '.join(known)}")
    return names, one_dict


def _acts_otherwise_in_training(module: nn.Module) -> bool:
    """Whether dropout or batch statistics make training differ from the captured form."""
    for part in module.modules():
        rate = getattr(part, "p", getattr(part, "dropout", 0.0))
        if isinstance(part, nn.modules.batchnorm._NormBase):
            return True
        if isinstance(part, (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)) and rate > 0:
            return True
    return False


def _check_outputs(spec: Spec, settings: ForeignSettings, scorer: TrainedForeign) -> None:
    """One call on made-up pairs: the outputs are one score per task."""
    for task in settings.tasks:
        if task not in spec.tasks:
            near = did_you_mean(task, spec.tasks)
            raise SpecError(f"model.foreign names the task {task!r}" + (f"; did you mean {near!r}?" if near else ""))
    made = example_inputs(scorer.inputs, 2)
    request = {i.name: made[i.name] for i in scorer.inputs if i.is_request}
    candidate = {i.name: made[i.name] for i in scorer.inputs if not i.is_request}
    scorer.eval()
    with torch.no_grad():
        out = scorer.score(request, candidate, torch.arange(2))
    task_scores(out, settings.tasks or tuple(spec.tasks), settings.module)


def foreign_facts(config: ForeignConfig) -> dict[str, Any]:
    """A foreign level in the report: which module, and what sharing leaves of its FLOPs."""
    return {
        "level": config.level,
        "module": config.module,
        "flops_per_request": config.flops_request,
        "flops_per_candidate": config.flops_candidate,
    }
