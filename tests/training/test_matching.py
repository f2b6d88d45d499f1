"""A start from a model with other tokenizers: codes are matched by pixels, text ids by spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import DENOISER, TOKENIZER, losses, make_task, train_stopped_once, write

from smalti.errors import SmaltiError
from smalti.model.text import TextTokenizer
from smalti.storage.folder import load_denoiser, load_image_tokenizer
from smalti.training.config import DenoiserRunConfig, TokenizerRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.matching import matched_codes, matched_text
from smalti.training.reading import load_config
from smalti.training.tokenizer import train_tokenizer

pytestmark = pytest.mark.slow

OTHER = ["tokenizer=other/model", "cache.path=other-cache", "start_from=denoiser/model", "output=matched"]


@pytest.fixture
def other(workspace: Path) -> Path:
    """Train a second image tokenizer, with fewer codes for smaller squares."""
    model = {**TOKENIZER["model"], "ch_mult": [1], "codebook_size": 24}
    values: dict[str, Any] = {**TOKENIZER, "output": "other", "seed": 5, "model": model}
    train_tokenizer(load_config(TokenizerRunConfig, write("other.yaml", values)))
    return workspace


def test_codes_of_the_same_tokenizer_match_themselves(workspace: Path) -> None:
    tokenizer = load_image_tokenizer("tokenizer/model").eval()
    grids = torch.randint(0, 32, (40, 4, 4), generator=torch.Generator().manual_seed(0))
    # Decoding and encoding again must give the same tokens for a fair test.
    with torch.no_grad():
        again = tokenizer.from_pixels(tokenizer.to_pixels(grids))
    shares = matched_codes(tokenizer, tokenizer, [grids]).to_dense()
    assert shares.shape == (32, 32) and torch.allclose(shares.sum(dim=1), torch.ones(32))
    for code in grids.unique().tolist():
        expected = again[grids == code].bincount(minlength=32).float()
        assert torch.allclose(shares[code], expected / expected.sum())


def test_a_code_that_no_image_has_gets_the_row_of_the_nearest(workspace: Path) -> None:
    tokenizer = load_image_tokenizer("tokenizer/model").eval()
    codes = tokenizer.quantize.embedding.weight.detach()
    grids = (torch.arange(64) % 4).view(4, 4, 4)
    shares = matched_codes(tokenizer, tokenizer, [grids]).to_dense()
    for code in range(4, 32):
        nearest = int(torch.cdist(codes[code : code + 1], codes[:4]).argmin())
        assert torch.equal(shares[code], shares[nearest])


def test_equal_texts_keep_their_vectors(workspace: Path) -> None:
    text = TextTokenizer.from_file("denoiser/model/tokenizer.json")
    table = torch.randn(text.vocab_size, 6, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    assert torch.equal(matched_text(text, text, table, text.vocab_size, generator), table)
    mapped = matched_text(text, text, table, text.vocab_size + 3, generator)
    assert torch.equal(mapped[: len(table)], table) and mapped[len(table) :].abs().sum() > 0


def test_a_training_starts_from_a_model_with_other_tokenizers(other: Path) -> None:
    text = {"text": {"vocab_size": 380, "captions": 6}}
    write("denoiser.yaml", {**DENOISER, **text})
    with pytest.raises(SmaltiError, match="must have the image tokenizer of .*match_tokenizers=true"):
        make_task(*OTHER)
    task = make_task(*OTHER, "match_tokenizers=true")
    before = load_denoiser("denoiser/model").state_dict()
    after = {name: value.detach() for name, value in task.model.named_parameters()}
    tables = {"gen_embedding.weight", "gen_predictor.weight", "embed_tokens.weight"}
    assert all(torch.equal(before[name], after[name]) for name in before if name not in tables)
    assert after["gen_predictor.weight"].shape == (24, 16)
    assert torch.equal(after["gen_embedding.weight"][24:], before["gen_embedding.weight"][32:])
    # Rows are means of the other model's rows.
    assert after["gen_predictor.weight"].abs().max() <= before["gen_predictor.weight"].abs().max() + 1e-6
    own, theirs = task.parts.text, TextTokenizer.from_file("denoiser/model/tokenizer.json")
    assert own.vocab_size != theirs.vocab_size
    for name in ("<|im_end|>", "a"):
        rows = (after["embed_tokens.weight"][own.vocabulary()[name]],
                before["embed_tokens.weight"][theirs.vocabulary()[name]])  # fmt: skip
        assert torch.equal(*rows)
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", [*OTHER, "match_tokenizers=true"]))
    assert load_denoiser("matched/model").config.codebook_size == 24


def test_it_resumes_as_if_it_had_not_stopped(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(DenoiserRunConfig, "denoiser.yaml", [*OTHER, "match_tokenizers=true"])
    train_denoiser(config)
    whole = losses("matched")
    again = config.model_copy(update={"output": "stopped"})
    train_stopped_once(again, monkeypatch)
    assert losses("stopped") == whole


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["start_from=null"], "match_tokenizers: needs start_from"),
        (["adapter={rank: 2}"], "adapter: must be null with match_tokenizers"),
        (["model.hidden_size=8"], "must have the shape that the model section describes"),
    ],
)
def test_what_does_not_fit_is_named(other: Path, more: list[str], message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        make_task(*OTHER, "match_tokenizers=true", *more)
