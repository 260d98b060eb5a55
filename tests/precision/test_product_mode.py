"""Which library computes products: chosen by rows and width, only where a command asked for it, and set back after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from depthrank.precision import product_mode
from depthrank.precision.product_mode import MOST_WORK, choose_products, products_of, rank_in_this_thread


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(product_mode, "_owner", None)
    yield
    torch.set_float32_matmul_precision(before)


def test_a_program_that_chose_nothing_keeps_its_own_setting() -> None:
    for own in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(own)
        with products_of(1, 8):
            assert torch.get_float32_matmul_precision() == own
        assert torch.get_float32_matmul_precision() == own


def test_few_rows_go_to_the_blas_and_the_setting_comes_back() -> None:
    choose_products()
    assert torch.get_float32_matmul_precision() == "medium"
    with products_of(MOST_WORK // 64**2, 64):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"
    with products_of(MOST_WORK // 64**2 + 1, 64):
        assert torch.get_float32_matmul_precision() == "medium"
    with pytest.raises(RuntimeError, match="in the middle"), products_of(1, 8):
        raise RuntimeError("in the middle")
    assert torch.get_float32_matmul_precision() == "medium"


def test_one_thread_alone_changes_the_setting() -> None:
    found: list[str] = []

    def work() -> None:
        with products_of(1, 8):
            found.append(torch.get_float32_matmul_precision())

    def in_another_thread(function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    rank_in_this_thread()
    work()
    choose_products()
    in_another_thread(work)
    work()
    assert found == [found[0], "medium", "highest"], "nothing was chosen, another thread, the one that chose"
    in_another_thread(lambda: (rank_in_this_thread(), work()))
    work()
    assert found[3:] == ["highest", "medium"]
