"""API tokens: kept as SHA-256, compared in constant time, read again when their file changes.

A token is a long random text (``depthrank token`` makes one), so a plain hash protects it as well as a slow one would.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from depthrank.errors import DepthrankError, FieldProblem
from depthrank.errors.types import ProblemsError
from depthrank.schema.collect import WRONG, convert
from depthrank.schema.strict_yaml import read_yaml
from depthrank.server.access.settings import AccessSettings, Grant

logger = logging.getLogger("depthrank.server")
LOOK_AGAIN_S = 1.0
PREFIX = "dr_"


class TokensError(ProblemsError):
    """A token file cannot be used; nothing of a token stands in the message."""


class _TokenFile(msgspec.Struct, frozen=True, kw_only=True):
    tokens: tuple[Grant, ...]


def new_token() -> str:
    """A token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Tokens:
    """The accepted tokens. Raises TokensError where the file cannot be used at the start; later it keeps the last good
    one and says so in the log."""

    def __init__(self, settings: AccessSettings, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._fixed = settings.tokens
        self._file = None if settings.tokens_file is None else Path(settings.tokens_file)
        self._clock_s = clock_s
        self._looked_s = clock_s()
        self._stamp: tuple[int, ...] | None = None
        self._read: tuple[Grant, ...] = ()
        if self._file is not None:
            self._stamp = _stamp(self._file)
            self._read = read_tokens(self._file)
        _check_names([*self._fixed, *self._read])

    @property
    def required(self) -> bool:
        """Whether a client needs a token: always, once tokens are configured, also when the file has run empty."""
        return bool(self._fixed) or self._file is not None

    def find(self, token: str) -> Grant | None:
        """The grant of a token, or None; takes as long for a wrong one as for any other."""
        self._look_again()
        digest = hash_of(token)
        found = None
        for grant in (*self._fixed, *self._read):
            if hmac.compare_digest(digest, grant.sha256):
                found = grant
        return found

    def renew(self, fixed: tuple[Grant, ...]) -> None:
        """Take over the settings' tokens, and read the file again. Raises TokensError, and changes nothing then."""
        read = self._read
        if self._file is not None:
            stamp = _stamp(self._file)
            read = read_tokens(self._file)
            _check_names([*fixed, *read])
            self._stamp = stamp
        else:
            _check_names([*fixed])
        self._fixed, self._read = fixed, read

    def _look_again(self) -> None:
        now_s = self._clock_s()
        if self._file is None or now_s - self._looked_s < LOOK_AGAIN_S:
            return
        self._looked_s = now_s
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            read = read_tokens(self._file)
            _check_names([*self._fixed, *read])
        except DepthrankError as error:
            logger.error("the tokens stay as they were: %s", error)
        else:
            self._read = read
            logger.info("tokens read again: %d from %s", len(read), self._file)


def read_tokens(file: Path) -> tuple[Grant, ...]:
    """The grants in a token file. Raises TokensError with every wrong field."""
    try:
        plain, repeated = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TokensError(f"cannot read the tokens {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    except yaml.YAMLError:  # its message would show lines of the file
        raise TokensError(f"the tokens {file} are not YAML") from None
    problems = list(repeated)
    found = convert({"tokens": []} if plain is None else plain, _TokenFile, "$", problems)
    if problems or found is WRONG:
        hidden = [_without_value(p, plain) for p in problems]
        raise TokensError(f"the tokens {file} cannot be used:", hidden)
    assert isinstance(found, _TokenFile)
    return found.tokens


def _without_value(problem: FieldProblem, _plain: Any) -> FieldProblem:
    """A problem with a hash, or with what somebody wrote in its place, does not show it."""
    if ".sha256" not in problem.path:
        return problem
    return FieldProblem(problem.path, "what is no hash", "64 hex digits of SHA-256; `depthrank token` prints them")


def _check_names(grants: list[Grant]) -> None:
    names = [grant.name for grant in grants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TokensError(f"token names are used twice: {', '.join(twice)}; a name is one client")


def _stamp(file: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
