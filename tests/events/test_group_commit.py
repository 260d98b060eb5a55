"""Concurrent appends share a transaction; the fault of one is its own."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from depthrank.errors import StorageFullError
from depthrank.events import EventBatch
from depthrank.events.check_events import check_events
from depthrank.events.log import AppendResult
from depthrank.events.on_lmdb.group_commit import Append, GroupCommit


def an_append(item: str) -> Append:
    return Append(check_events(EventBatch(["u"], [item], ["click"], np.array([1]))), None)


def item_of(append: Append) -> bytes:
    return append.events.item.distinct[0]


def run_all(group: GroupCommit, appends: list[Append], first_is_in: threading.Event) -> list[BaseException | None]:
    """Append the first, and the others once it commits; returns what each raised."""
    raised: list[BaseException | None] = [None] * len(appends)

    def work(i: int) -> None:
        try:
            group.append(appends[i])
        except BaseException as error:  # noqa: BLE001 - returned
            raised[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(appends))]
    threads[0].start()
    assert first_is_in.wait(10)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_what_waits_during_a_commit_goes_into_the_next_one_together():
    groups: list[int] = []
    first_is_in, everybody_waits = threading.Event(), threading.Event()

    def commit(group: list[Append]) -> None:
        groups.append(len(group))
        if len(groups) == 1:
            first_is_in.set()
            while len(committer._waiting) < 5:
                everybody_waits.wait(0.001)
        for append in group:
            append.result = AppendResult(np.zeros(1, np.int64), 1, 0)

    committer = GroupCommit(commit)
    assert run_all(committer, [an_append(f"i{n}") for n in range(6)], first_is_in) == [None] * 6
    assert groups == [1, 5]


def test_only_the_append_at_fault_fails():
    first_is_in, everybody_waits = threading.Event(), threading.Event()
    committed: list[bytes] = []

    def commit(group: list[Append]) -> None:
        if not first_is_in.is_set():
            first_is_in.set()
            while len(committer._waiting) < 3:
                everybody_waits.wait(0.001)
        if any(item_of(append) == b"huge" for append in group):
            raise StorageFullError("too large")
        for append in group:
            committed.append(item_of(append))
            append.result = AppendResult(np.zeros(1, np.int64), 1, 0)

    committer = GroupCommit(commit)
    raised = run_all(committer, [an_append(i) for i in ("a", "b", "huge", "c")], first_is_in)
    assert [type(error) for error in raised] == [type(None), type(None), StorageFullError, type(None)]
    assert sorted(committed) == [b"a", b"b", b"c"]


def test_the_next_append_works_after_a_failed_one():
    fail = [True]

    def commit(group: list[Append]) -> None:
        if fail.pop():
            raise StorageFullError("full")
        group[0].result = AppendResult(np.zeros(1, np.int64), 1, 0)

    committer = GroupCommit(commit)
    with pytest.raises(StorageFullError):
        committer.append(an_append("a"))
    fail.append(False)
    assert committer.append(an_append("b")).appended == 1


class InterruptedWait(threading.Event):
    """A wait that Ctrl-C ends: at once, or when the append has just been told to lead."""

    def __init__(self, when_woken: bool) -> None:
        super().__init__()
        self.when_woken = when_woken

    def wait(self, timeout: float | None = None) -> bool:
        if self.when_woken:
            super().wait(timeout)
        raise KeyboardInterrupt


@pytest.mark.parametrize("when_woken", [False, True])
def test_an_interrupted_wait_leaves_the_others_a_leader(when_woken):
    first_is_in, others_wait = threading.Event(), threading.Event()
    groups: list[list[bytes]] = []

    def commit(group: list[Append]) -> None:
        if not groups:
            first_is_in.set()
            assert others_wait.wait(10)
        groups.append([item_of(append) for append in group])
        for append in group:
            append.result = AppendResult(np.zeros(1, np.int64), 1, 0)

    committer = GroupCommit(commit)
    leader = threading.Thread(target=committer.append, args=(an_append("leader"),))
    leader.start()
    assert first_is_in.wait(10)
    interrupted = an_append("interrupted")
    interrupted.woken = InterruptedWait(when_woken)
    raised: list[BaseException] = []

    def wait_in_vain() -> None:
        try:
            committer.append(interrupted)
        except KeyboardInterrupt as error:
            raised.append(error)

    other = threading.Thread(target=wait_in_vain)
    other.start()
    if when_woken:
        while interrupted not in committer._waiting:
            first_is_in.wait(0.001)
        others_wait.set()
        other.join(10)
    else:
        other.join(10)
        others_wait.set()
    leader.join(10)
    assert len(raised) == 1 and committer.append(an_append("next")).appended == 1
    assert groups == [[b"leader"], [b"next"]]
