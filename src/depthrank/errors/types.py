"""The error types of depthrank; each is a ``ValueError`` that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class DepthrankError(ValueError):
    """Something a user can put right; the message says how."""


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field: where it stands (``$.tasks[0].label``), what was found, what was expected, what to do."""

    path: str
    found: str
    expected: str
    hint: str | None = None

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.path}: found {self.found}, expected {self.expected}{hint}"


class ProblemsError(DepthrankError):
    """An error made of field problems: all mistakes of one input, told at once."""

    def __init__(self, title: str, problems: Sequence[FieldProblem] = ()) -> None:
        self.title = title
        self.problems = tuple(problems)
        super().__init__("\n  - ".join([title, *map(str, self.problems)]))


class SpecError(ProblemsError):
    """``ranking.yaml`` is wrong."""


class DataError(ProblemsError):
    """A data file is missing, misspelt, of the wrong type, or empty."""


class RequestError(ProblemsError):
    """A request, an event or an upsert has a wrong field (HTTP 422)."""


class CatalogueError(DepthrankError):
    """Item or user columns cannot be loaded or upserted."""


class LogError(DepthrankError):
    """The event log cannot be opened, read, written, backed up or restored."""


class StorageFullError(LogError):
    """The disk (or the log's size limit) is full; nothing was acknowledged."""


class ArtifactError(DepthrankError):
    """An artifact is missing, truncated, altered or made by a newer version."""


class SharingError(DepthrankError):
    """A module cannot be shared at all; ``reasons`` name the nodes."""


class CapacityError(DepthrankError):
    """The server has no room for this request now (HTTP 503)."""
