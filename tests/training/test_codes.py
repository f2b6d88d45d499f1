"""Networks behind the tables of codes: what they start as, what they learn of codes that are rare, how they end."""

from __future__ import annotations

import torch
from tiny import tiny_denoiser

from smalti.training.codes import CodebookConditioning, add_codebook_conditioning, fold_codebook_conditioning

CODES, DIM = 64, 32


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def codebook() -> torch.Tensor:
    return torch.randn(CODES, 4, generator=generator())


def test_networks_add_to_the_rows_of_codes_and_fold_into_plain_tables() -> None:
    model = tiny_denoiser(scale=1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    add_codebook_conditioning(model, codebook(), 8, generator())
    head, embedding = model.head.detach().clone(), model.gen_embedding.weight.detach().clone()
    added = (head - before["gen_predictor.weight"]).std()
    assert 0.3 < added / before["gen_predictor.weight"].std() < 3
    assert not torch.equal(embedding[:CODES], before["gen_embedding.weight"][:CODES])
    # Rows that are no codes, such as the mask's, have no entry in the codebook and stay the table's own.
    assert torch.equal(embedding[CODES:], before["gen_embedding.weight"][CODES:])
    fold_codebook_conditioning(model)
    after = model.state_dict()
    assert set(after) == set(before)
    assert torch.equal(after["gen_predictor.weight"], head)
    assert torch.equal(after["gen_embedding.weight"], embedding)


def test_networks_and_other_rows_learn() -> None:
    model = tiny_denoiser(scale=1.0)
    networks = add_codebook_conditioning(model, codebook(), 8, generator())
    model.head.square().sum().backward()
    assert networks[1].layers[0].weight.grad.abs().sum() > 0
    assert networks[0].layers[0].weight.grad is None
    model.gen_embedding.weight.square().sum().backward()
    learned = model.gen_embedding.parametrizations.weight.original.grad.abs().sum(dim=1)
    assert (learned[:CODES] == 0).all() and (learned[CODES:] > 0).all()


def test_codes_side_by_side_get_vectors_side_by_side() -> None:
    codes = codebook()
    codes[1] = codes[0] + 1e-3
    network = CodebookConditioning(codes, DIM, 32)
    network.init_weights(generator())
    found = network(torch.zeros(CODES, DIM)).detach()
    assert (found[0] - found[1]).norm() < 0.05 * (found[0] - found[2]).norm()


def test_fitting_learns_a_table_and_knows_codes_that_were_never_seen() -> None:
    codes = torch.nn.functional.normalize(codebook(), dim=1)
    true = codes @ torch.randn(4, DIM, generator=generator())
    seen = torch.arange(CODES) % 4 > 0
    table = torch.cat([torch.where(seen[:, None], true, torch.randn(CODES, DIM)), torch.ones(3, DIM)])
    network = CodebookConditioning(codebook(), DIM, 32)
    network.init_weights(generator())
    before = table.clone()
    network.fit(table, seen * 1000.0)
    # Nothing is lost, but what was never seen is of the network and of what the table happened to hold.
    torch.testing.assert_close(network(table).detach(), before)
    error = (network.vectors().detach() - true).square().mean(1) / true.square().mean(1)
    assert error[seen].mean() < 0.05
    assert error[~seen].mean() < 0.3
