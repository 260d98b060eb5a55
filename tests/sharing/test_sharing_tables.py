"""A bound catalogue in mapped files: written in pieces, read by any process, refused when tampered with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from depthrank.errors import ArtifactError
from depthrank.sharing import BoundShared, Shared, load_shared, share

V = 50


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(20, 8), nn.Embedding(V, 8)
        self.mlp = nn.Sequential(nn.Linear(17, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user: Tensor, item: Tensor, price: Tensor) -> Tensor:
        x = torch.cat([self.user(user), self.item(item), price.unsqueeze(1)], 1)
        return torch.sigmoid(self.mlp(x).squeeze(1))


@pytest.fixture(scope="module")
def shared() -> Shared:
    torch.manual_seed(0)
    example = {"user": torch.arange(4), "item": torch.arange(4), "price": torch.rand(4)}
    return share(Ranker().eval(), example, request_inputs=["user"])


@pytest.fixture
def folder(shared: Shared, tmp_path: Path) -> Path:
    shared.bind({"item": torch.arange(V)}, tmp_path / "bound")
    return tmp_path / "bound"


def scores(model: BoundShared) -> Tensor:
    rows = torch.tensor([0, 7, 49, 7])
    out = model({"user": torch.tensor([3])}, rows, {"price": torch.linspace(0, 1, 4)})
    assert isinstance(out, Tensor)
    return out


def loaded(folder: Path, check_tables: bool = True) -> BoundShared:
    model = load_shared(folder, check_tables=check_tables)
    assert isinstance(model, BoundShared)
    return model


def test_tables_on_disk_in_memory_and_loaded_give_the_same_scores(
    shared: Shared, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shared(
        {"user": torch.tensor([3])}, {"item": torch.tensor([0, 7, 49, 7]), "price": torch.linspace(0, 1, 4)}
    )
    monkeypatch.setattr("depthrank.sharing.bound.ROWS_AT_ONCE", 7)
    pieces = shared.bind({"item": torch.arange(V)}, folder.with_name("pieces"))
    for model in (shared.bind({"item": torch.arange(V)}), pieces, loaded(folder)):
        assert torch.allclose(scores(model), expected, atol=1e-6)
    assert torch.allclose(pieces.tables[0], loaded(folder).tables[0], atol=1e-6)


def test_mapped_tables_are_read_only_files_that_a_writer_in_memory_cannot_change(folder: Path) -> None:
    path = folder / "table-0.bin"
    before = path.read_bytes()
    model = loaded(folder)
    model.tables[0].zero_()
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o222 == 0
    assert not torch.equal(loaded(folder).tables[0], model.tables[0])


def test_tables_are_mapped_and_not_read_into_memory(folder: Path) -> None:
    code = (
        "import sys; from depthrank.sharing import load_shared; model = load_shared(sys.argv[1])\n"
        "maps = open('/proc/self/maps').read(); print('table-0.bin' in maps, 'tensors.safetensors' in maps)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split()[0] == "True"


def test_a_saved_bound_model_may_be_saved_over_the_files_it_is_mapped_from(folder: Path) -> None:
    model = loaded(folder)
    expected = scores(model)
    model.save(folder)
    assert torch.equal(scores(model), expected)
    assert torch.equal(scores(loaded(folder)), expected)


def replace_table(folder: Path, content: bytes) -> None:
    path = folder / "table-0.bin"
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("change", ["cut", "padded", "altered", "missing", "link"])
def test_a_table_that_was_tampered_with_is_refused(folder: Path, change: str) -> None:
    path = folder / "table-0.bin"
    own = path.read_bytes()
    if change == "missing":
        path.unlink()
    elif change == "link":
        path.rename(folder / "elsewhere.bin")
        path.symlink_to(folder / "elsewhere.bin")
    else:
        replace_table(folder, {"cut": own[:-4], "padded": own + bytes(4), "altered": own[:-1] + b"\x7f"}[change])
    with pytest.raises(ArtifactError, match=r"table-0\.bin"):
        load_shared(folder)


def test_leaving_the_checksum_out_still_refuses_a_file_of_the_wrong_size(folder: Path) -> None:
    own = (folder / "table-0.bin").read_bytes()
    replace_table(folder, own[:-1] + bytes([own[-1] ^ 1]))
    scores(loaded(folder, check_tables=False))
    replace_table(folder, own[:-1])
    with pytest.raises(ArtifactError, match="expected"):
        load_shared(folder, check_tables=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_items", V + 1), ("num_items", -1), ("num_items", "many"), ("num_items", 1 << 62), ("tables", []),
        ("tables", 7), ("tables", [{"sha256": 5}]), ("tables", ["../../etc/passwd"]), ("tables", [{}, {}]),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_its_tables_is_refused(folder: Path, key: str, value: object) -> None:
    header = json.loads((folder / "graph.json").read_text())
    header[key] = value
    (folder / "graph.json").write_text(json.dumps(header))
    with pytest.raises(ArtifactError):
        load_shared(folder)
