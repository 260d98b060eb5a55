"""A watched folder of deltas: what is in it serves, in its order, from the start of the server on.

The folder says how far the served artifact has moved, so that a server that is started again comes back to where it
was. A look applies every delta that is next; one that is missing, damaged, replaced after it was applied or made for
another artifact stops there: what served serves on, and the reason is told until the folder changes.

The first look is before the server is ready, later ones every ``models.deltas_every_s`` in a thread that gives way.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from depthrank.artifact.delta_folder import DELTA_NAME, numbered_deltas, read_delta_manifest
from depthrank.errors import DepthrankError

logger = logging.getLogger("depthrank.server")
Stamp = tuple[tuple[str, int, int], ...]


class HasDeltas(Protocol):
    """Versions of which stable takes deltas (``Models``)."""

    def info(self) -> dict[str, Any]: ...
    def apply_delta(self, path: Path) -> None: ...


@dataclass(frozen=True)
class DeltaStatus:
    """What ``/v1/status`` says. ``newest``: the highest number in the folder; ``refused``: the delta that stops the
    rest, and why; both None where there is none."""

    folder: str
    model: str
    applied: int
    newest: int | None
    refused: str | None = None
    why: str | None = None


class DeltaWatch:
    """``look`` applies what is there; ``start`` looks again and again until ``stop``. Safe for several threads."""

    def __init__(self, models: HasDeltas, folder: str | Path, every_s: float = 2.0, nice: int = 5) -> None:
        self.folder, self._models, self._every_s, self._nice = Path(folder).absolute(), models, every_s, nice
        self._one_look, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._known: dict[tuple[str, int], tuple[str, Stamp]] = {}  # what was applied here, by model and number
        self._refusal: tuple[str, Path, Stamp, str] | None = None  # of which model, what, as it was, and why
        self.status = DeltaStatus(str(self.folder), "", 0, None)

    @property
    def trouble(self) -> list[str]:
        """What an operator must do, if anything."""
        return [] if self.status.why is None else [f"deltas: {self.status.why}"]

    def plain(self) -> dict[str, Any]:
        """The status for JSON."""
        return asdict(self.status)

    def look(self) -> DeltaStatus:
        """Apply every delta that is next; returns what came of it. Raises nothing: refusals are told."""
        with self._one_look:
            try:
                self._look()
            except (DepthrankError, OSError) as error:
                self._tell(None, self.status.newest, self.folder, f"{self.folder} cannot be read: {error}")
            return self.status

    def start(self) -> None:
        """Look from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._watch, name="depthrank-deltas", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended; a delta under way is finished first."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        with suppress(OSError, AttributeError):  # a system without priorities of threads does it all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while not self._stopped.wait(self._every_s):
            self.look()

    def _look(self) -> None:
        while not self._stopped.is_set():
            if not self.folder.is_dir():
                raise FileNotFoundError("it is not there: bring it back")
            found, (base, applied) = numbered_deltas(self.folder), self._serving()
            newest = max(found, default=None)
            if replaced := self._replaced(base, applied, found):
                self._tell((base, applied), newest, replaced, f"{replaced} is another one than was applied: {RESTORE}")
                return
            path = found.get(applied + 1)
            if path is None:
                missing = self.folder / f"delta-{applied + 1:06d}"
                is_gap = newest is not None and newest > applied
                why = f"{missing} is missing and later ones are there: bring it, or remove these" if is_gap else None
                self._tell((base, applied), newest, missing if is_gap else None, why)
                return
            if self._is_refused_still(base, path) or not self._apply(base, applied, path, newest):
                return

    def _serving(self) -> tuple[str, int]:
        """The base model that is stable, and how many deltas of it are applied."""
        info = self._models.info()
        return str(info["model"]).partition("+")[0], int(info.get("deltas", 0))

    def _apply(self, base: str, applied: int, path: Path, newest: int | None) -> bool:
        """Put one delta into service; False, and told, where it is refused."""
        stamp, manifest = stamp_of(path), stamp_of(path / DELTA_NAME)
        try:
            checksum = read_delta_manifest(path).checksum
            self._models.apply_delta(path)
        except (DepthrankError, OSError) as error:
            if self._serving() != (base, applied):
                return True  # somebody applied one meanwhile: look anew
            self._refusal = base, path, stamp, str(error)
            logger.warning("%s is refused: %s", path, error)
            self._tell((base, applied), newest, path, str(error))
            return False
        self._known[base, applied + 1] = checksum, manifest
        self._refusal = None
        self._tell(self._serving(), newest, None, None)
        logger.info("%s serves", path)
        return True

    def _is_refused_still(self, base: str, path: Path) -> bool:
        """Whether the delta is as it was when it was refused; what was half copied then is tried again."""
        return self._refusal is not None and self._refusal[:3] == (base, path, stamp_of(path))

    def _replaced(self, base: str, applied: int, found: dict[int, Path]) -> Path | None:
        """A delta of the folder that has the number of an applied one and is another."""
        for number in range(1, applied + 1):
            known, path = self._known.get((base, number)), found.get(number)
            if known is None or path is None or (now := stamp_of(path / DELTA_NAME)) == known[1]:
                continue
            if read_delta_manifest(path).checksum != known[0]:
                return path
            self._known[base, number] = known[0], now  # touched, or copied once more
        return None

    def _tell(self, serving: tuple[str, int] | None, newest: int | None, refused: Path | None, why: str | None) -> None:
        base, applied = serving or (self.status.model, self.status.applied)
        told = None if refused is None else str(refused)
        self.status = DeltaStatus(str(self.folder), base, applied, newest, told, why)


RESTORE = "bring back the one before; what changed since goes into a delta with the next number"


def stamp_of(path: Path) -> Stamp:
    """Name, size and time of change of a file, or of every file below a folder."""
    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return tuple(found)
