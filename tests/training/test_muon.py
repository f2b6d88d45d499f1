"""Muon: orthogonal updates, AdamW for everything else, checkpoints."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from resuming_ranks import same, train
from torch import nn

from smalti.errors import SmaltiError
from smalti.training import muon
from smalti.training.config import OptimizerConfig
from smalti.training.muon import Muon, orthogonal
from smalti.training.optimizer import make_optimizer, moments, set_moments, set_rate

MUON = ["optimizer.kind=muon"]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 12)
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
        self.head = nn.Linear(12, 8)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.head(x)


def loss_of(network: nn.Module) -> torch.Tensor:
    words = torch.arange(8)
    return nn.functional.cross_entropy(network(words), words.roll(1))


@pytest.mark.parametrize("shape", [(6, 6), (5, 40), (40, 5), (1, 9)])
def test_updates_keep_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 1e-6
    found = orthogonal(matrix).float()
    assert found.shape == matrix.shape
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    along = torch.einsum("ij,ik,jk->k", found, left, right.T)
    # The iterations raise small singular values, but not those that are almost nothing.
    large = values > 0.02 * values.norm()
    assert (along[large] > 0.5).all() and (along < 1.4).all()


def test_matrices_are_the_same_together_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    matrices = [torch.randn(shape, generator=generator) for shape in ((6, 9), (9, 6), (6, 9), (5, 5), (6, 9))]
    together = muon._orthogonal_all(matrices)
    monkeypatch.setattr(muon, "_TOGETHER", 1)
    alone = muon._orthogonal_all(matrices)
    for one, two, matrix in zip(together, alone, matrices, strict=True):
        assert one.shape == matrix.shape and torch.allclose(one.float(), two.float(), atol=0.02)
        assert torch.allclose(two.float(), orthogonal(matrix).float(), atol=0.02)


def test_only_matrices_of_layers_are_orthogonal() -> None:
    torch.manual_seed(0)
    network = Network()
    config = OptimizerConfig(kind="muon", weight_decay=0.1)
    groups = make_optimizer(network, config).param_groups
    found = [(group["orthogonal"], group["weight_decay"], len(group["params"])) for group in groups]
    assert found == [(True, 0.1, 2), (False, 0.1, 1), (False, 0.0, 3), (False, 0.0, 1)]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_embeddings_have_a_rate_of_their_own(kind: str) -> None:
    moved = []
    for factor in (1, 5):
        torch.manual_seed(0)
        network = Network()
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        config = OptimizerConfig(kind=kind, embedding_factor=factor)
        optimizer = make_optimizer(network, config)
        set_rate(optimizer, 0.01)
        loss_of(network).backward()
        optimizer.step()
        moved.append({name: value.detach() - before[name] for name, value in network.named_parameters()})
    for name, once in moved[0].items():
        expected = 5 * once if name == "words.weight" else once
        assert torch.allclose(moved[1][name], expected, atol=1e-7)


def test_other_parameters_move_as_with_adamw() -> None:
    torch.manual_seed(0)
    ours = Network()
    theirs = copy.deepcopy(ours)
    for network, kind in ((ours, "muon"), (theirs, "adamw")):
        optimizer = make_optimizer(network, OptimizerConfig(kind=kind, learning_rate=0.01))
        loss_of(network).backward()
        optimizer.step()
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        is_matrix = name.startswith("layers") and one.ndim == 2
        assert torch.equal(one, two) != is_matrix, name


def test_an_update_has_the_size_of_adamws() -> None:
    weight = nn.Parameter(torch.zeros(30, 20))
    optimizer = Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.0}], lr=0.01)
    weight.grad = torch.randn(30, 20) * 1e4
    optimizer.step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=1e-3)


def test_zero_gradients_change_nothing() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.0}], lr=0.01)
    weight.grad = torch.zeros(3, 2)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(3, 2))


def test_it_learns_and_goes_on_from_its_moments() -> None:
    torch.manual_seed(0)
    network = Network()
    config = OptimizerConfig(kind="muon", learning_rate=0.03)
    optimizer = make_optimizer(network, config)
    first = loss_of(network).item()

    def step(model: nn.Module, own: torch.optim.Optimizer) -> None:
        own.zero_grad()
        loss_of(model).backward()
        own.step()

    for _ in range(20):
        step(network, optimizer)
    assert loss_of(network).item() < 0.3 * first
    twin = copy.deepcopy(network)
    other = make_optimizer(twin, config)
    for mine, parameter in zip(network.parameters(), twin.parameters(), strict=True):
        kept = {key: value.clone() for key, value in moments(optimizer, mine).items()}
        set_moments(other, parameter, kept)
    step(network, optimizer)
    step(twin, other)
    for mine, parameter in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, parameter)


def three_steps() -> dict[str, torch.Tensor]:
    """Return the weights of a network after three steps."""
    torch.manual_seed(0)
    network = Network()
    optimizer = make_optimizer(network, OptimizerConfig(kind="muon", learning_rate=0.03))
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(network).backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in network.named_parameters()}


@pytest.mark.slow
def test_processes_share_the_iterations(tmp_path: Path) -> None:
    expected = three_steps()
    for found in run_ranks(2, three_steps, tmp_path):
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.slow
def test_a_run_resumes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    expected = train("muon-whole", MUON)
    train("muon", MUON, 4)
    found = train("muon", MUON)
    assert found["first"] == 4
    same(found["tensors"], expected["tensors"], 0.0)


def test_shards_are_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(SmaltiError, match="distribution.* must have strategy ddp for optimizer.kind muon"):
        train("shards", [*MUON, "distribution.strategy=fsdp"])
