"""Training of the image tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trainings import TOKENIZER, make_task, write

from smalti.errors import SmaltiError
from smalti.storage.folder import load_image_tokenizer
from smalti.training.config import TokenizerRunConfig
from smalti.training.encoding import fingerprint
from smalti.training.reading import load_config
from smalti.training.tokenizer import TokenizerTask, busiest_part, train_tokenizer

pytestmark = pytest.mark.slow


def test_discriminator_joins(workspace: Path) -> None:
    values = {
        **TOKENIZER,
        "output": "adversarial",
        "loss": {"discriminator": {"start_step": 2, "channels": 4}},
    }
    entry = train_tokenizer(
        load_config(TokenizerRunConfig, write("adversarial.yaml", values), ["loop.steps=4"])
    )
    assert entry["discriminator"] > 0
    assert not any("discriminator" in name for name in load_image_tokenizer("adversarial/model").state_dict())


def test_a_decoder_can_learn_on_while_tokens_stay(workspace: Path) -> None:
    """A tokenizer of its own encoder and codes, which models and caches of the first one take for theirs."""
    more = ["start_from=denoiser/model", "decoder_only=true", "code_noise=0.3", "crop=16", "output=sharper"]
    train_tokenizer(load_config(TokenizerRunConfig, "tokenizer.yaml", [*more, "loop.batch_size=4"]))
    before, after = load_image_tokenizer("denoiser/model"), load_image_tokenizer("sharper/model")
    learned = {
        name.split(".")[0]
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert learned == {"decoder", "post_quant_conv"}
    assert fingerprint(before) == fingerprint(after)
    make_task("tokenizer=sharper/model", "start_from=denoiser/model")


def test_beside_a_linear_encoder_the_decoder_alone_learns(workspace: Path) -> None:
    """Its start is found once; a resumed training takes the weights of its checkpoint."""
    linear = ["model.encoder=linear", "model.codebook_size=64", "code_noise=0.2", "output=linear"]
    config = load_config(TokenizerRunConfig, "tokenizer.yaml", [*linear, "loop.steps=2"])
    entry = train_tokenizer(config)
    (start,) = Path("linear").glob("start-*")
    before, after = load_image_tokenizer(start), load_image_tokenizer("linear/model")
    assert torch.equal(before.quantize.embedding.weight, after.quantize.embedding.weight)
    assert fingerprint(before) == fingerprint(after)
    assert after.decoder.conv_out.weight.any()
    made = start.stat().st_mtime_ns
    more = train_tokenizer(load_config(TokenizerRunConfig, "tokenizer.yaml", [*linear, "loop.steps=4"]))
    assert start.stat().st_mtime_ns == made
    assert (entry["step"], more["step"]) == (2, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("decoder_only=true", "decoder_only needs start_from"),
        ("code_noise=0.1", "code_noise needs decoder_only"),
        ("crop=12", r"crop must be a multiple of 8 up to data.size \(32\), not 12"),
        ("crop=40", r"crop must be a multiple of 8 up to data.size \(32\), not 40"),
    ],
)
def test_settings_of_a_tokenizer_that_do_not_fit_are_named(
    workspace: Path, override: str, message: str
) -> None:
    with pytest.raises(SmaltiError, match=message):
        TokenizerTask(load_config(TokenizerRunConfig, "tokenizer.yaml", [override]))


def test_the_busiest_part_of_a_picture_lies_on_the_grid() -> None:
    image = torch.zeros(3, 32, 48, dtype=torch.uint8)
    image[:, 20:28, 34:40] = 200
    generator = torch.Generator().manual_seed(0)
    part = busiest_part(image, 16, 8, generator, candidates=60)
    assert int((part == 200).sum()) == 3 * 8 * 6
    places = [
        image[:, row : row + 16, column : column + 16] for row in (0, 8, 16) for column in range(0, 40, 8)
    ]
    assert any(torch.equal(part, place) for place in places)
