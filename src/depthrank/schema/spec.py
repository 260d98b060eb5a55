"""``ranking.yaml`` -> one frozen ``Spec``, with every mistake pointed out in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from depthrank.errors import FieldProblem, SpecError
from depthrank.schema.collect import convert_fields, describe
from depthrank.schema.dataset import Dataset, Name, Section
from depthrank.schema.durations import Duration
from depthrank.schema.features import Categorical, Feature
from depthrank.schema.number_ranges import write_out
from depthrank.schema.settings import (
    EvaluationSettings,
    HistorySettings,
    ModelSettings,
    SplitSettings,
    TableSettings,
    TrainingSettings,
)
from depthrank.schema.spec_checks import check_between_fields
from depthrank.schema.strict_yaml import read_yaml
from depthrank.schema.tasks import Task, Value


class Spec(Section, frozen=True, kw_only=True):
    """A whole ``ranking.yaml``. ``folder`` is where its relative paths start."""

    name: Name
    dataset: Dataset
    features: dict[str, Feature]
    tasks: dict[str, Task]
    value: Value
    history: HistorySettings = HistorySettings()
    split: SplitSettings = SplitSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    model: ModelSettings = ModelSettings()
    tables: TableSettings = TableSettings()
    training: TrainingSettings = TrainingSettings()
    folder: str = "."

    @classmethod
    def load(cls, path: str | Path) -> Spec:
        """Read and check a ``ranking.yaml``; raises SpecError that lists every mistake."""
        path = Path(path)
        if not path.is_file():
            raise SpecError(f"there is no spec at {path}: give the path of a ranking.yaml")
        try:
            plain, problems = read_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise SpecError(f"{path} is not YAML: {error}") from None
        if isinstance(plain, dict) and "folder" in plain:
            given = describe(plain.pop("folder"))
            problems.append(FieldProblem("$.folder", given, "nothing (paths start at the folder of this file)"))
        return cls._checked(plain, folder=str(path.parent), name=str(path), problems=problems)

    @classmethod
    def from_plain(cls, plain: object, *, folder: str | None = None, name: str = "the spec") -> Spec:
        """Check plain data (dicts and lists); raises SpecError that lists every mistake.

        ``folder`` is where relative paths start; without it, the one that ``plain`` names (as ``to_plain`` wrote it).
        """
        return cls._checked(plain, folder=folder, name=name, problems=[])

    @classmethod
    def _checked(cls, plain: object, *, folder: str | None, name: str, problems: list[FieldProblem]) -> Spec:
        sections = tuple(f for f in cls.__struct_fields__ if f != "folder")
        if not isinstance(plain, dict):
            wanted = "a mapping with " + ", ".join(sections)
            raise SpecError(f"{name} is not a spec:", [FieldProblem("$", describe(plain), wanted)])
        plain = {n: write_out(part, f"$.{n}", problems) for n, part in plain.items()}
        if folder is not None:
            plain["folder"] = folder
        parts = convert_fields(plain, cls, "$", problems, hidden=("folder",))
        spec = cls(**{**_EMPTY, **parts})
        absent = (f"$.{section}" for section in _EMPTY if section not in parts)
        problems.extend(check_between_fields(spec, broken=(*(p.path for p in problems), *absent)))
        if problems:
            noun = "mistake" if len(problems) == 1 else "mistakes"
            raise SpecError(f"{name} has {len(problems)} {noun}:", problems)
        return spec

    def to_plain(self) -> dict[str, Any]:
        """The spec as plain data, for the manifest; ``from_plain`` reads it back."""
        plain: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        return {**plain, **_durations_as_text(self, plain)}

    def action_of(self, task: str) -> str:
        """The action that the log records for a positive of ``task``."""
        return self.tasks[task].action or task

    @property
    def item_id_feature(self) -> str | None:
        """The categorical feature of the item's own id, if there is one."""
        named = (name for name, f in self.features.items() if isinstance(f, Categorical) and f.source == "item.id")
        return next(named, None)

    @property
    def history_events(self) -> int:
        """Log events read for one history: enough for ``length`` tokens and one more, which tells that the window is
        not the whole history, where several actions fall on one item."""
        return (self.history.length + 1) * len(self.history_actions)

    @property
    def history_actions(self) -> tuple[str, ...]:
        """The actions a history holds."""
        return self.history.actions or tuple(dict.fromkeys(self.action_of(t) for t in self.tasks))


def _durations_as_text(value: Any, plain: Any) -> Any:
    """``plain`` with every Duration of the struct ``value`` written as people write it."""
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


# Stand-ins for required sections that are missing or wrong, so that the other sections are still checked.
_EMPTY: dict[str, Any] = {"name": "", "dataset": Dataset(), "features": {}, "tasks": {}, "value": Value(weights={})}
