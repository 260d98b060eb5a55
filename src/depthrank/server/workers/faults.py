"""Errors across a process border: those that a client or an operator can act on arrive as what they were."""

from __future__ import annotations

import traceback

from depthrank.errors import (
    ArtifactError,
    CapacityError,
    CatalogueError,
    FieldProblem,
    LogError,
    RequestError,
    StorageFullError,
)
from depthrank.errors.types import DepthrankError, ProblemsError
from depthrank.schema.wire import TooLargeError
from depthrank.server.workers.messages import Fault

_WITH_PROBLEMS: dict[str, type[ProblemsError]] = {kind.__name__: kind for kind in (RequestError, TooLargeError)}
_WITH_MESSAGE: dict[str, type[DepthrankError]] = {
    kind.__name__: kind for kind in (ArtifactError, CapacityError, CatalogueError, LogError, StorageFullError)
}


class EngineFault(RuntimeError):
    """An engine process failed at a request for a reason that is nobody's to know but the operator's (HTTP 500)."""


class EngineLost(CapacityError):
    """The engine process that held a request died, and no other could take it in time (HTTP 503)."""


def fault_of(error: Exception) -> Fault:
    """The error as a message."""
    kind = type(error).__name__
    if kind in _WITH_PROBLEMS and isinstance(error, ProblemsError):
        problems = [(p.path, p.found, p.expected, p.hint) for p in error.problems]
        return Fault(kind, error.title, problems)
    if kind in _WITH_MESSAGE:
        return Fault(kind, str(error))
    return Fault("internal", str(error), trace="".join(traceback.format_exception(error)))


def error_of(fault: Fault) -> Exception:
    """The error again; one that has no place here is an EngineFault with the engine's traceback."""
    if fault.kind in _WITH_PROBLEMS:
        return _WITH_PROBLEMS[fault.kind](fault.message, [FieldProblem(*problem) for problem in fault.problems])
    if fault.kind in _WITH_MESSAGE:
        return _WITH_MESSAGE[fault.kind](fault.message)
    return EngineFault(f"an engine process failed: {fault.message}\n{fault.trace}")
