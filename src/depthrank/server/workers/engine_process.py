"""One engine process: takes requests from the front's connection, one pass after the other, in one thread.

Started by ``workers.link`` with a socket, its parent's id, and the environment that OpenMP reads when torch is loaded.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from depthrank.artifact import read_delta, read_manifest
from depthrank.engine.ranker import Ranker
from depthrank.errors import ArtifactError, LogError
from depthrank.events import EventLog, open_log
from depthrank.precision.product_mode import choose_products
from depthrank.schema.ask import Ask
from depthrank.server.workers.faults import fault_of
from depthrank.server.workers.messages import (
    ApplyDelta,
    Asked,
    CatchUp,
    Done,
    Failed,
    Fault,
    Forget,
    Frames,
    Load,
    Loaded,
    Outcome,
    Rank,
    Ranked,
    Report,
    Seen,
    Start,
    ToEngine,
    ToFront,
    Unload,
    Warm,
    encode,
)
from depthrank.server.workers.parent import end_with

logger = logging.getLogger("depthrank.server.engine")
READ_BYTES = 1 << 20
DELTA_NICE = 10
REPORT_EVERY_S = 0.5


class FrontGone(Exception):
    """The connection has ended."""


class Engine:
    """Rankers of the loaded versions over one log, and the connection to the front."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._sending = connection, threading.Lock()
        self._frames = Frames(ToEngine)
        self._arrived: deque[Any] = deque()
        self._rankers: dict[str, Ranker] = {}
        self._log: EventLog | None = None
        self._start: Start | None = None
        self._position = -1
        self._reported_s = 0.0

    def serve(self) -> None:
        """Carry out messages in the order they came, until the front is gone."""
        while True:
            self._receive(wait=not self._arrived)
            message = self._arrived.popleft()
            if isinstance(message, Rank):
                self._send(self._rank(message))
                self._report()
            elif isinstance(message, Start):
                self._start = message
            elif isinstance(message, ApplyDelta):  # takes long, and requests do not wait for it
                threading.Thread(target=self._apply_delta, args=(message,), name="delta", daemon=True).start()
            else:
                self._send(self._carry_out(message))

    def _receive(self, *, wait: bool) -> None:
        """Take in what has arrived, at least one message where ``wait``."""
        while True:
            if not wait and not select.select([self._connection], [], [], 0)[0]:
                return
            arrived = self._connection.recv(READ_BYTES)
            if not arrived:
                raise FrontGone
            self._arrived.extend(self._frames.feed(arrived))
            wait = not self._arrived

    def _send(self, message: ToFront) -> None:
        try:
            with self._sending:
                self._connection.sendall(encode(message))
        except OSError as error:
            raise FrontGone from error

    def _carry_out(self, message: Load | Unload | Warm | Forget | CatchUp) -> ToFront:
        try:
            if isinstance(message, Load):
                return self._load(message)
            if isinstance(message, Warm):
                self._rankers[message.version].warm()
            elif isinstance(message, Unload):
                self._rankers.pop(message.version, None)
            elif isinstance(message, Forget):
                for ranker in self._rankers.values():
                    ranker.forget(message.user)
            else:
                self._catch_up(message.seen)
        except Exception as error:  # noqa: BLE001 - handed to the front, which raises it where it was asked for
            return Failed(message.call, fault_of(error))
        return Done(message.call)

    def _load(self, message: Load) -> Loaded:
        assert self._start is not None, "the first message says what to open"
        if self._log is None:
            self._log = open_log(self._start.log, read_only=True)
        size = self._start.user_state_bytes
        cache: dict[str, Any] = {} if size is None else {"user_state_bytes": size}
        cache["hot_row_bytes"] = self._start.hot_row_bytes
        path = message.artifact if _is_still(message.artifact, message.model_id) else message.copy
        ranker = Ranker.load(path, self._log, limits=self._start.limits, copy=True, **cache)
        for delta in message.deltas:
            ranker.apply_delta(delta)
        self._rankers[message.version] = ranker
        return Loaded(message.call, message.version, ranker.economy(), ranker.info())

    def _apply_delta(self, message: ApplyDelta) -> None:
        """Put a delta into service, say so, and write the changed rows out where they have become many."""
        with suppress(OSError):  # requests have the core when they want it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), DELTA_NICE)
        try:
            ranker = self._rankers[message.version]
            if read_delta(Path(message.path)).checksum != ranker.artifact.identity:  # else it was loaded with it
                ranker.apply_delta(message.path)
        except Exception as error:  # noqa: BLE001 - handed to the front, which raises it where it was asked for
            answer: ToFront = Failed(message.call, fault_of(error))
        else:
            answer = Done(message.call)
        with suppress(FrontGone):
            self._send(answer)
        if isinstance(answer, Done):
            ranker.compact_if_due()

    def _rank(self, message: Rank) -> Ranked:
        started_s, thread_s = time.perf_counter(), time.thread_time()
        outcomes: list[Outcome | Fault] = []
        try:
            self._catch_up(message.seen)
        except LogError as error:  # a log that cannot be read costs the history, not the answer
            logger.warning("the event log cannot be read: %s", error)
        if len(message.asked) > 1:
            outcomes = self._ranked_together(message.version, message.asked)
        else:
            outcomes = [self._or_fault(message.version, asked) for asked in message.asked]
        return Ranked(message.call, outcomes, time.perf_counter() - started_s, time.thread_time() - thread_s)

    def _ranked_together(self, version: str, all_asked: list[Asked]) -> list[Outcome | Fault]:
        """Requests that the front has checked and that start together."""
        asks = [Ask(one.restored(), one.request_id, one.arrived_s, one.price, one.record) for one in all_asked]
        outcomes = self._rankers[version].rank_together(asks)
        return [fault_of(one) if isinstance(one, Exception) else Outcome(one) for one in outcomes]

    def _or_fault(self, version: str, asked: Asked) -> Outcome | Fault:
        try:
            return self._ranked(version, asked)
        except Exception as error:  # noqa: BLE001 - the front answers the client, and logs what is internal
            return fault_of(error)

    def _ranked(self, version: str, asked: Asked) -> Outcome:
        answer = self._rankers[version].rank(
            asked.restored(),
            arrived_s=asked.arrived_s,
            request_id=asked.request_id,
            checked=asked.checked,
            record=asked.record,
            price=asked.price,
            spent=True,
        )
        return Outcome(answer)

    def _catch_up(self, seen: Seen) -> None:
        """Count the events and apply the upserts that the front has acknowledged by now."""
        if seen.position > self._position:
            for ranker in self._rankers.values():
                assert self._log is not None
                ranker.generation.counters.catch_up(self._log)
            self._position = seen.position
        for ranker in self._rankers.values():
            if seen.upsert > ranker.generation.last_upsert:
                ranker.apply_upserts()

    def _report(self) -> None:
        now_s = time.perf_counter()
        if now_s - self._reported_s < REPORT_EVERY_S:
            return
        self._reported_s = now_s
        economies = {version: ranker.economy() for version, ranker in self._rankers.items()}
        self._send(Report(economies, {version: ranker.measures() for version, ranker in self._rankers.items()}))

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()


def _is_still(artifact: str, model_id: str) -> bool:
    """Whether a folder holds the model that the front began to serve."""
    try:
        return read_manifest(Path(artifact)).model_id == model_id
    except ArtifactError:  # a URL, or gone: the copy is what is served
        return False


def main(file_descriptor: int, parent: int, threads: int, by_signal: bool) -> None:
    """Serve until the front is gone; a signal to the front's group is the front's to act on."""
    end_with(parent, by_signal=by_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s engine {os.getpid()}: %(message)s")
    import torch  # loaded by the imports above; its threads are set before it works

    torch.set_num_threads(threads)
    choose_products()
    with socket.socket(fileno=file_descriptor) as connection:
        connection.setblocking(True)
        engine = Engine(connection)
        try:
            engine.serve()
        except FrontGone:
            logger.info("the front is gone")
        finally:
            engine.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "signal")
