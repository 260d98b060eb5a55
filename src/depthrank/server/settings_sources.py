"""Settings from a file, the environment and options: the later of these wins, field by field.

``server.yaml`` nests as the structs do. In the environment the same is ``DEPTHRANK_`` and the path in upper case with
``__`` between its parts (``DEPTHRANK_LIMITS__MAX_TOP=100``); a value that is no plain text is YAML (``[a, b]``).
Unknown names are errors that name the nearest known one, wherever they stand.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from depthrank.errors import FieldProblem, did_you_mean
from depthrank.errors.types import ProblemsError
from depthrank.schema.collect import WRONG, convert
from depthrank.schema.strict_yaml import read_yaml
from depthrank.server.settings import ServerSettings

PREFIX = "DEPTHRANK_"
NOT_SETTINGS = re.compile(r"DEPTHRANK_(DEBUG|TOKEN|CACHE|CACHE_BYTES|KILLS|SERVICE_(HOST|PORT)\w*|PORT(_\w+)?)")
"""What other parts of the command and the tests read; and what Kubernetes sets for a service named depthrank."""
Path_ = tuple[str, ...]


class SettingsError(ProblemsError):
    """The settings cannot be used; every wrong one is told with where it stands."""


def load_settings(
    file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ServerSettings:
    """Defaults, then ``file``, then ``environment`` (of the process, usually), then ``options`` by dotted path.

    Options that are None were not given. Raises SettingsError with every wrong setting.
    """
    problems: list[FieldProblem] = []
    plain = {} if file is None else _read(Path(file), problems)
    where: dict[str, str] = {}
    for path, value, source in _from_environment(environment or {}, problems):
        _put(plain, path, value)
        where["$." + ".".join(path)] = source
    for name, value in (options or {}).items():
        if value is not None:
            _put(plain, tuple(name.split(".")), value)
            where[f"$.{name}"] = f"option {name}"
    found: list[FieldProblem] = []
    settings = convert(plain, ServerSettings, "$", found)
    problems += [_told_at_source(problem, where, file) for problem in found]
    if problems or settings is WRONG:
        raise SettingsError("the settings cannot be used:", problems)
    assert isinstance(settings, ServerSettings)
    return settings


def known_settings(kind: type[msgspec.Struct] = ServerSettings, before: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every setting that is no group: its path and type."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from known_settings(hint, (*before, name))
        else:
            yield (*before, name), hint


def variable_of(path: Path_) -> str:
    """The environment variable of a setting."""
    return PREFIX + "__".join(path).upper()


def _read(file: Path, problems: list[FieldProblem]) -> dict[str, Any]:
    try:
        plain, repeated = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"cannot read the settings {file}: {reason}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is not YAML: {error}") from None
    problems.extend(repeated)
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise SettingsError(f"{file} must hold names and values, such as rank_queue: 64")
    return plain


def _from_environment(environment: Mapping[str, str], problems: list[FieldProblem]) -> Iterator[tuple[Path_, Any, str]]:
    """Path, value and variable of every setting in the environment; an unknown name is a problem."""
    known = {variable_of(path): (path, hint) for path, hint in known_settings()}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or NOT_SETTINGS.fullmatch(variable):
            continue
        if variable not in known:
            near = did_you_mean(variable, known)
            expected = f"a setting, such as {variable_of(('limits', 'max_top'))}"
            problems.append(FieldProblem(variable, variable, expected, f"did you mean {near!r}?" if near else None))
            continue
        path, hint = known[variable]
        yield path, _value(environment[variable], hint, variable, problems), variable


def _value(text: str, hint: Any, variable: str, problems: list[FieldProblem]) -> Any:
    if _is_text(hint):
        return text
    try:
        value, repeated = read_yaml(text)
    except yaml.YAMLError:
        problems.append(FieldProblem(variable, "what is not YAML", "a number, true, false, or YAML such as [a, b]"))
        return None
    problems.extend(repeated)
    return value


def _is_text(hint: Any) -> bool:
    """Whether a setting is plain text, so that ``123`` and ``no: 1`` are text too."""
    if typing.get_origin(hint) is typing.Annotated:
        return _is_text(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return all(_is_text(kind) for kind in typing.get_args(hint) if kind is not type(None))
    return hint is str


def _put(plain: dict[str, Any], path: Path_, value: Any) -> None:
    for name in path[:-1]:
        inner = plain.setdefault(name, {})
        if not isinstance(inner, dict):  # a wrong value in the file, which convert will not see any more
            inner = plain[name] = {}
        plain = inner
    plain[path[-1]] = value


def _told_at_source(problem: FieldProblem, where: Mapping[str, str], file: str | Path | None) -> FieldProblem:
    """A problem by the variable or option that it came from, else by the file."""
    for path, source in where.items():
        if problem.path == path or problem.path.startswith((path + "[", path + ".")):
            rest = problem.path.removeprefix(path)
            return FieldProblem(source + rest, problem.found, problem.expected, problem.hint)
    return FieldProblem(f"{file}: {problem.path}", problem.found, problem.expected, problem.hint) if file else problem
