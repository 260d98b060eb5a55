"""The local cache of compiled code: a folder that only its owner may enter, every file bound to this user and its key.

Compiled code is executed, so a file counts only where a keyed checksum over its bytes and its name holds; the key is a
secret of this folder. Anything else (a damaged file, one from another machine, one without a checksum) is removed and
made anew, and never loaded. A folder that others may write is refused.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from depthrank.errors import ArtifactError

SECRET, SECRET_BYTES = "secret", 32
CODE, SEAL = ".pt2", ".seal"
VARIABLE = "DEPTHRANK_COMPILED"


def default_folder() -> Path:
    """``$DEPTHRANK_COMPILED``, or ``depthrank/compiled`` in the user's cache folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depthrank" / "compiled"


class CompileCache:
    """Compiled packages by key. Raises ArtifactError for a folder that others may write."""

    def __init__(self, folder: Path | None = None) -> None:
        try:
            self.folder = default_folder() if folder is None else folder
        except RuntimeError as error:
            raise ArtifactError(f"no folder for compiled code: {error}; name one in {VARIABLE}") from error
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_own(self.folder)
            self._secret = self._read_secret()
        except OSError as error:
            raise ArtifactError(f"{self.folder} cannot hold compiled code: {error}") from error

    def find(self, key: str) -> Path | None:
        """The package of a key, its bytes checked; what fails the check is removed."""
        code, seal = self._paths(key)
        if not code.exists():
            return None
        try:
            whole = not code.is_symlink() and seal.read_text(encoding="ascii").strip() == self._checksum(code)
        except (OSError, UnicodeDecodeError):
            whole = False
        if whole:
            return code
        for path in (code, seal):
            path.unlink(missing_ok=True)
        return None

    def make(self, key: str, build: Callable[[Path], None]) -> Path:
        """Build the package of a key into a file of its own, seal it, and put it in place."""
        code, seal = self._paths(key)
        unfinished = self.folder / f"{key}.{os.getpid()}{CODE}"
        try:
            build(unfinished)
            unfinished.chmod(0o600)
            seal.write_text(self._checksum(unfinished, code.name), encoding="ascii")
            seal.chmod(0o600)
            unfinished.replace(code)
        except OSError as error:
            raise ArtifactError(f"{self.folder} cannot hold compiled code: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
        return code

    def _paths(self, key: str) -> tuple[Path, Path]:
        assert key.isalnum()
        return self.folder / f"{key}{CODE}", self.folder / f"{key}{SEAL}"

    def _checksum(self, path: Path, name: str | None = None) -> str:
        hasher = blake3(key=self._secret)
        hasher.update((name or path.name).encode() + b"\0")
        hasher.update_mmap(path)
        return hasher.hexdigest()

    def _read_secret(self) -> bytes:
        path = self.folder / SECRET
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
        _check_own(path)
        secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise ArtifactError(f"{path} is damaged: remove {self.folder}, what is in it will be compiled again")
        return secret


def _check_own(path: Path) -> None:
    about = path.lstat()
    writable = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_ISLNK(about.st_mode) or writable or about.st_uid != os.getuid():
        raise ArtifactError(
            f"{path} may be written by others, and compiled code in that folder is executed; give a folder of your own "
            f"({VARIABLE}=..., chmod 700)"
        )
