"""A background thread that prepares the next items of an iterator while the caller works on the current one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.05


class _End:
    """The source is exhausted, or failed with ``error``."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(source: Iterator[T], ahead: int = 2) -> Generator[T, None, None]:
    """The items of ``source`` in order, up to ``ahead`` of them prepared in advance by one thread.

    An exception of the source is raised here, at its place in the order. The thread ends when the items do, when the
    returned iterator is closed, or when it is dropped.
    """
    worker = _Worker(source, ahead)
    try:
        while True:
            item = worker.ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        worker.stop()


class _Worker(Generic[T]):
    def __init__(self, source: Iterator[T], ahead: int) -> None:
        self.ready: queue.Queue[T | _End] = queue.Queue(maxsize=ahead)
        self._source, self._stopped = source, threading.Event()
        self._thread = threading.Thread(target=self._run, name="depthrank-prefetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._source:
                if not self._put(item):
                    return
        except BaseException as caught:  # noqa: BLE001 - handed to the consumer, which raises it
            error = caught
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        """Whether the item was taken before the consumer stopped."""
        while not self._stopped.is_set():
            try:
                self.ready.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        self._thread.join()
