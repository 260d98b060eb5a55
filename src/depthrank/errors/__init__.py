"""What can go wrong, said to a person.

Every error a user can cause is a ``DepthrankError`` (a ``ValueError``): what was given, what was expected, where, and
what to do. A programmer's mistake is an ``assert``.
"""

from __future__ import annotations

from depthrank.errors.nearest import did_you_mean
from depthrank.errors.types import (
    ArtifactError,
    CapacityError,
    CatalogueError,
    DataError,
    DepthrankError,
    FieldProblem,
    LogError,
    RequestError,
    SharingError,
    SpecError,
    StorageFullError,
)

__all__ = [
    "ArtifactError",
    "CapacityError",
    "CatalogueError",
    "DataError",
    "DepthrankError",
    "FieldProblem",
    "LogError",
    "RequestError",
    "SharingError",
    "SpecError",
    "StorageFullError",
    "did_you_mean",
]
