"""Starts the processes that train together on this machine, or joins those that torchrun started on several.

Here the caller's process leads and spawns the others. What ends another ends the run with its reason.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

from depthrank.errors import CapacityError, DepthrankError, SpecError
from depthrank.schema import Spec
from depthrank.training.processes import ALONE, Processes

PATIENCE = timedelta(hours=24)  # the leader plans alone while the others wait; one that ended is noticed at once
ENDING_S = 10.0

Work = Callable[[Processes], object]
"""What every process does; it is pickled for the others."""


@contextmanager
def started(count: int, work: Work) -> Iterator[Processes]:
    """This process among ``count``, the others doing ``work`` meanwhile.

    Under torchrun its processes are the ones, and ``count`` is 1 or their number. Raises SpecError where it is another,
    CapacityError where a process ended before its time, and what another process raised of depthrank's own errors.
    """
    if _under_torchrun():
        with _joined(count) as processes:
            yield processes
    elif count == 1:
        yield ALONE
    else:
        with _spawned(count, work) as processes:
            yield processes


def is_led() -> bool:
    """Whether another process, of torchrun's, writes and shows what comes out of training."""
    return _under_torchrun() and os.environ["RANK"] != "0"


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def _joined(count: int) -> Iterator[Processes]:
    world = int(os.environ["WORLD_SIZE"])
    if count not in (1, world):
        raise SpecError(f"torchrun started {world} processes, and training is asked for {count}: leave --processes out")
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


@contextmanager
def _spawned(count: int, work: Work) -> Iterator[Processes]:
    threads = torch.get_num_threads()
    each = max(1, threads // count)
    with tempfile.TemporaryDirectory(prefix="depthrank-train-") as folder:
        meeting, context = str(Path(folder) / "meeting"), multiprocessing.get_context("spawn")
        others: dict[Connection, BaseProcess] = {}
        for rank in range(1, count):
            here, there = context.Pipe(duplex=False)
            arguments = (Processes(rank, count), meeting, each, work, there)
            others[here] = context.Process(target=_other, args=arguments, daemon=True)
        try:
            for process in others.values():
                process.start()
            torch.set_num_threads(each)
            _meet(Processes(0, count), meeting)
            yield Processes(0, count)
        except Exception as error:
            raise _reason(others, error) from error
        finally:
            torch.set_num_threads(threads)
            if dist.is_initialized():
                dist.destroy_process_group()
            _end(others)


def check_together(spec: Spec, processes: Processes) -> None:
    """Raise SpecError where several processes cannot train what the spec says."""
    if not processes.together:
        return
    per_step, count = spec.training.batches_per_step, processes.count
    if per_step % count:
        raise SpecError(
            f"training.batches_per_step is {per_step}, which {count} processes cannot share evenly: make it "
            f"{-(-per_step // count) * count} (and training.batch_requests smaller, for steps as large as before)"
        )
    if spec.tables.admit:
        raise SpecError("tables.admit moves rows while one process trains: leave it out, or train without --processes")


def _other(processes: Processes, meeting: str, threads: int, work: Work, told: Connection) -> None:
    """The life of a process that was spawned."""
    torch.set_num_threads(threads)
    try:
        _meet(processes, meeting)
        work(processes)
    except DepthrankError as error:
        told.send(str(error))
        raise SystemExit(1) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _meet(processes: Processes, meeting: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=processes.rank, world_size=processes.count, timeout=PATIENCE
    )


def _reason(others: dict[Connection, BaseProcess], error: Exception) -> Exception:
    """Why a run ended: what happened here, unless it is that another process is gone."""
    if isinstance(error, DepthrankError):
        return error
    for connection, process in others.items():
        process.join(ENDING_S)
        if connection.poll():
            return DepthrankError(connection.recv())
        if process.exitcode:
            return CapacityError(
                f"a process that trained with this one ended (exit code {process.exitcode}); what it printed says "
                "more, and -9 is the system's when memory is short. --resume goes on from the last whole epoch"
            )
    return error


def _end(others: dict[Connection, BaseProcess]) -> None:
    for process in others.values():
        if process.pid is not None:
            process.join(ENDING_S)
            if process.is_alive():
                process.terminate()
                process.join()
