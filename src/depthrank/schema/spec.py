"""``ranking.yaml`` -> one frozen ``Spec``, with every mistake pointed out in one run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from depthrank.errors import FieldProblem, SpecError, did_you_mean
from depthrank.schema import features as kinds
from depthrank.schema.collect import WRONG, convert, describe
from depthrank.schema.dataset import Dataset, EventsFile, ImpressionsFile, RequestsFile, Section
from depthrank.schema.features import SIDES, Feature
from depthrank.schema.settings import (
    EvaluationSettings,
    HistorySettings,
    ModelSettings,
    SplitSettings,
    TrainingSettings,
)
from depthrank.schema.tasks import Task, Value


class Spec(Section, frozen=True, kw_only=True):
    """A whole ``ranking.yaml``. ``folder`` is where its relative paths start."""

    name: str
    dataset: Dataset
    features: dict[str, Feature]
    tasks: dict[str, Task]
    value: Value
    history: HistorySettings = HistorySettings()
    split: SplitSettings = SplitSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    folder: str = "."

    @classmethod
    def load(cls, path: str | Path) -> Spec:
        """Read and check a ``ranking.yaml``; raises SpecError that lists every mistake."""
        path = Path(path)
        if not path.is_file():
            raise SpecError(f"there is no spec at {path}: give the path of a ranking.yaml")
        try:
            plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SpecError(f"{path} is not YAML: {error}") from None
        return cls.from_plain(plain, folder=str(path.parent), name=str(path))

    @classmethod
    def from_plain(cls, plain: object, *, folder: str = ".", name: str = "the spec") -> Spec:
        """Check plain data (dicts and lists); raises SpecError that lists every mistake."""
        problems: list[FieldProblem] = []
        if isinstance(plain, dict):
            plain = {**plain, "folder": folder}
        spec = convert(plain, cls, "$", problems)
        if spec is not WRONG:
            problems.extend(_check(spec, broken={p.path for p in problems}))
        if problems:
            noun = "mistake" if len(problems) == 1 else "mistakes"
            raise SpecError(f"{name} has {len(problems)} {noun}:", problems)
        assert isinstance(spec, cls)
        return spec

    def to_plain(self) -> dict[str, Any]:
        """The spec as plain data, for the manifest; ``from_plain`` reads it back."""
        plain: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        return {**plain, **_durations_as_text(self, plain)}

    def action_of(self, task: str) -> str:
        """The action that the log records for a positive of ``task``."""
        return self.tasks[task].action or task

    @property
    def history_actions(self) -> tuple[str, ...]:
        """The actions a history holds."""
        return self.history.actions or tuple(dict.fromkeys(self.action_of(t) for t in self.tasks))


def _durations_as_text(value: Any, plain: Any) -> Any:
    """``plain`` with every Duration of the struct ``value`` written as people write it."""
    from depthrank.schema.durations import Duration

    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return {
            **{k: v for k, v in plain.items() if k == value.__struct_config__.tag_field},
            **{f: _durations_as_text(getattr(value, f), plain[f]) for f in value.__struct_fields__},
        }
    if isinstance(value, dict):
        return {k: _durations_as_text(v, plain[k]) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_durations_as_text(v, p) for v, p in zip(value, plain, strict=True)]
    return plain


def _check(spec: Spec, broken: set[str]) -> Iterator[FieldProblem]:
    """Mistakes that only show between fields; parts already known to be ``broken`` are not reported as missing."""
    if not any(path.startswith("$.dataset") for path in broken):
        yield from _check_dataset(spec)
    yield from _check_tasks(spec)
    for name, feature in spec.features.items():
        yield from _check_feature(spec, name, feature)
    yield from _check_numbers(spec)


def _check_dataset(spec: Spec) -> Iterator[FieldProblem]:
    forms = [f for f in ("requests", "impressions", "events") if getattr(spec.dataset, f) is not None]
    if len(forms) != 1:
        found = " and ".join(forms) if forms else "none of them"
        yield FieldProblem("$.dataset", found, "exactly one of requests, impressions, events")


def _check_tasks(spec: Spec) -> Iterator[FieldProblem]:
    if not spec.tasks:
        yield FieldProblem("$.tasks", "no task", "at least one task, such as click: {column: is_click}")
    for name, task in spec.tasks.items():
        given = [f for f in ("column", "ids") if getattr(task, f) is not None]
        if len(given) > 1:
            yield FieldProblem(f"$.tasks.{name}", "both column and ids", "one of column, ids, action")
        form = _main_form(spec)
        if task.ids is not None and isinstance(form, (ImpressionsFile, EventsFile)):
            yield FieldProblem(f"$.tasks.{name}.ids", describe(task.ids), "column or action (ids needs requests)")
        if isinstance(form, (ImpressionsFile, RequestsFile)) and not given:
            yield FieldProblem(f"$.tasks.{name}", "no label", "column: the column that holds the label (or ids)")
    for name in spec.value.weights:
        if name not in spec.tasks:
            yield _unknown(f"$.value.weights.{name}", name, spec.tasks)
    if any(w < 0 for w in spec.value.weights.values()) or not any(spec.value.weights.values()):
        yield FieldProblem("$.value.weights", describe(spec.value.weights), "weights >= 0, one of them above 0")
    known = _candidate_columns(spec)
    if spec.value.times is not None and spec.value.times not in known:
        yield _unknown("$.value.times", spec.value.times, known, "a candidate column")


def _main_form(spec: Spec) -> RequestsFile | ImpressionsFile | EventsFile | None:
    return spec.dataset.requests or spec.dataset.impressions or spec.dataset.events


def _candidate_columns(spec: Spec) -> tuple[str, ...]:
    form = _main_form(spec)
    return tuple(getattr(form, "candidate", ()))


def _context_columns(spec: Spec) -> tuple[str, ...]:
    form = _main_form(spec)
    return tuple(getattr(form, "context", ()))


def _check_feature(spec: Spec, name: str, feature: Feature) -> Iterator[FieldProblem]:
    path = f"$.features.{name}"
    if isinstance(feature, kinds.Counter):
        yield from _check_counter(path, feature)
        return
    if isinstance(feature, kinds.Position):
        return
    side, _, column = feature.source.partition(".")
    if side not in SIDES or not column:
        near = did_you_mean(side, SIDES)
        hint = f"did you mean {near}.{column or 'column'}?" if near else None
        yield FieldProblem(
            f"{path}.source", describe(feature.source), "<side>.<column>, side one of " + ", ".join(SIDES), hint
        )
        return
    for wanted, known in (("context", _context_columns(spec)), ("candidate", _candidate_columns(spec))):
        if side == wanted and column not in known:
            yield _unknown(f"{path}.source", column, known, f"a {wanted} column of the dataset")
    for wanted in ("items", "users"):
        if side == wanted[:-1] and column != "id" and getattr(spec.dataset, wanted) is None:
            yield FieldProblem(f"{path}.source", describe(feature.source), f"a {wanted} file in the dataset")
    if isinstance(feature, kinds.Numeric) and feature.within and side != "candidate":
        yield FieldProblem(f"{path}.within", feature.within, "within only for a candidate column")


def _check_counter(path: str, feature: kinds.Counter) -> Iterator[FieldProblem]:
    for i, window in enumerate(feature.windows):
        if window % feature.bucket:
            yield FieldProblem(f"{path}.windows[{i}]", str(window), f"a multiple of the bucket ({feature.bucket})")
    for part in feature.of.split("*"):
        if part.partition(".")[0] not in ("user", "item"):
            yield FieldProblem(
                f"{path}.of", describe(feature.of), "user, item, user.<column>, item.<column> or a pair joined by *"
            )


def _check_numbers(spec: Spec) -> Iterator[FieldProblem]:
    checks: list[tuple[str, float, float, float]] = [
        ("history.length", spec.history.length, 0, 65_536),
        ("split.validation", spec.split.validation, 0.0, 0.9),
        ("split.test", spec.split.test, 0.0, 0.9),
        ("training.epochs", spec.training.epochs, 0, 1_000_000),
        ("training.batch_requests", spec.training.batch_requests, 1, 1_000_000),
        ("training.batch_candidates", spec.training.batch_candidates, 1, 10_000_000),
        ("training.learning_rate", spec.training.learning_rate, 1e-9, 10.0),
    ]
    for path, value, low, high in checks:
        if not low <= value <= high:
            yield FieldProblem(f"$.{path}", describe(value), f"a number from {low:g} to {high:g}")


def _unknown(path: str, name: str, known: Any, what: str = "") -> FieldProblem:
    near = did_you_mean(name, known)
    listed = ", ".join(known) or "(there is none)"
    return FieldProblem(
        path,
        describe(name),
        f"{what + ': ' if what else ''}one of {listed}",
        f"did you mean {near!r}?" if near else None,
    )
