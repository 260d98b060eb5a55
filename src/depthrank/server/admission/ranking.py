"""One request on its way: its model version is chosen and held, it is queued, and a canary that fails is answered for
by stable.
"""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from time import perf_counter

from depthrank.errors import CapacityError
from depthrank.errors.types import ProblemsError
from depthrank.schema import Answer, Request
from depthrank.server.admission.dispatcher import DeadlineError, Dispatcher
from depthrank.server.models.lease import Lease
from depthrank.server.models.versions import Models

NOT_THE_MODELS_DOING = (ProblemsError, CapacityError, DeadlineError)


class Ranking:
    """``future`` is the answer, some time."""

    def __init__(
        self, models: Models, dispatcher: Dispatcher, request: Request, request_id: str, arrived_s: float, record: bool
    ) -> None:
        self.future: Future[Answer] = Future()
        self._models, self._dispatcher = models, dispatcher
        self._request, self._request_id = request, request_id
        self._arrived_s, self._record = arrived_s, record
        self._under_way: Future[Answer] | None = None

    def begin(self) -> None:
        """Queue it. Raises OverloadError where it is refused at once."""
        self._run(self._models.choose(str(self._request.user)), may_retry=True)

    def cancel(self) -> None:
        """Whoever asked has left."""
        if self._under_way is not None:
            self._under_way.cancel()

    def _run(self, lease: Lease, *, may_retry: bool) -> None:
        may_retry = may_retry and lease.version is not self._models.labels.stable
        try:
            self._under_way = self._dispatcher.submit(
                lease.ranker, self._request, self._request_id, self._arrived_s, record=self._record
            )
        except BaseException:
            lease.release()
            raise
        self._under_way.add_done_callback(lambda ranked: self._done(lease, ranked, may_retry))

    def _done(self, lease: Lease, ranked: Future[Answer], may_retry: bool) -> None:
        error = None if ranked.cancelled() else ranked.exception()
        try:
            self._note(lease, ranked, error)
        finally:
            lease.release()
        if ranked.cancelled():
            self.future.cancel()
        elif error is None:
            _settle(self.future, ranked.result())
        elif may_retry and not isinstance(error, NOT_THE_MODELS_DOING):
            self._again(error)
        else:
            _settle(self.future, error)

    def _again(self, error: BaseException) -> None:
        """By stable, where another version failed."""
        stable = self._models.lease_of("stable")
        if stable is None:
            _settle(self.future, error)
            return
        try:
            self._run(stable, may_retry=False)
        except CapacityError as refused:
            _settle(self.future, refused)

    def _note(self, lease: Lease, ranked: Future[Answer], error: BaseException | None) -> None:
        """What canaries are judged by; what is the client's doing, or the load's, says nothing of a version."""
        seconds = perf_counter() - self._arrived_s
        if error is None and not ranked.cancelled():
            self._models.noted(lease, seconds, degraded=ranked.result().degraded.is_)
        elif error is not None and not isinstance(error, NOT_THE_MODELS_DOING):
            self._models.noted(lease, seconds, failed=True)


def _settle(future: Future[Answer], outcome: Answer | BaseException) -> None:
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:  # whoever asked has left
        return
