"""Steering rules: what tilts the model's distributions from outside."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.common.rules import parse_rule
from smalti.errors import SmaltiError
from smalti.model.classifier import ClassifierNetwork, TokenClassifier
from smalti.sampling.guidance import Guidance
from smalti.sampling.revision import ThresholdRevision
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.steering import STEERINGS, ClassifierSteering
from smalti.sampling.view import StepView

CODES = 64


@pytest.fixture(scope="module")
def denoiser():
    return tiny_denoiser()


@pytest.fixture(scope="module")
def classifier():
    """Tell whether tokens are in the upper half of the codes, by a mean that is linear in their vectors."""
    high = torch.zeros(CODES + 1, 1)
    high[CODES // 2 : CODES] = 1
    return TokenClassifier(
        lambda vectors: torch.cat([-vectors, vectors], dim=3).mean(dim=(1, 2)), high, ("low", "high")
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ClassifierNetwork(3, 2, dim=4)


def tokens_of(denoiser, steering, classifier=None, texts=TEXTS[:2], seeds=(0, 1), **rules):
    sampler = Sampler(steps=4, steering=steering, guidance=Guidance(1.0), **rules)
    steps = sample(
        denoiser,
        tiny_prompts(denoiser, list(texts)),
        grid=(4, 4),
        sampler=sampler,
        generators=generators(*seeds),
        classifier=classifier,
    )
    return list(steps)[-1].tokens


def test_labels_steer_where_their_codes_are(denoiser, classifier):
    for label, count in (("high", 16), ("low", 0)):
        tokens = tokens_of(denoiser, ClassifierSteering(label, 2000.0, 0.0), classifier)
        assert (tokens >= CODES // 2).sum(dim=(1, 2)).tolist() == [count, count]


@pytest.mark.parametrize("scale", [-1, 1e7, 1e308, float("nan"), "1"])
def test_scales_that_overflow_are_refused(scale):
    with pytest.raises(SmaltiError, match="scale must be"):
        ClassifierSteering("high", scale)


def test_a_scale_of_0_changes_nothing(denoiser, classifier):
    plain = tokens_of(denoiser, STEERINGS["none"]())
    assert torch.equal(tokens_of(denoiser, ClassifierSteering("high", 0.0, 0.0), classifier), plain)


def test_an_image_does_not_depend_on_its_batch(denoiser, network):
    asked = network.classifier(torch.randn(CODES, 3, generator=torch.Generator().manual_seed(1)), ("a", "b"))
    rules = dict(revision=ThresholdRevision(0.02))
    together = tokens_of(denoiser, ClassifierSteering("a", 50.0), asked, **rules)
    for image in range(2):
        alone = tokens_of(
            denoiser, ClassifierSteering("a", 50.0), asked, TEXTS[image : image + 1], (image,), **rules
        )
        assert torch.equal(alone[0], together[image])


def test_the_slope_is_that_of_the_log_probability(network):
    asked = network.classifier(torch.randn(CODES, 3, generator=torch.Generator().manual_seed(1)), ("a", "b"))
    tokens = torch.randint(0, CODES + 2, (2, 3), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        slope = asked.slope(tokens, 1)
    vectors, size = asked.codes[tokens.clamp_max(CODES)][None], 1e-2
    for place in ((0, 0, 1), (1, 2, 3)):
        step = torch.zeros_like(vectors)
        step[0][place] = size
        change = asked.function(vectors + step) - asked.function(vectors - step)
        assert float(slope[place]) == pytest.approx(float(change[0, 1]) / (2 * size), rel=0.02, abs=1e-4)


def test_only_images_that_are_asked_for_are_classified(classifier):
    zeros = torch.zeros(2, 4)
    masked = torch.ones(2, 4, dtype=torch.bool)
    tokens = torch.full((2, 4), CODES + 1)
    view = StepView(
        index=0, steps=1, grid=(2, 2), masked=masked, visible=~masked, tokens=tokens, candidate=tokens,
        probability=zeros, current_probability=zeros, entropy=zeros, noise=None, confidence=zeros,
        remaining=torch.tensor([0, 0]),
    )  # fmt: skip
    asked = torch.tensor([[False] * 4, [False, True, False, False]])
    tilt = ClassifierSteering("high", 8.0).tilt(view, asked, classifier)
    assert tilt.vectors.flatten().tolist() == [0.0] * 4 + [2.0] * 4
    assert tilt.codes.shape == (CODES, 1)


def test_codes_of_a_codebook_end_with_their_mean():
    made = TokenClassifier.of_codebook(lambda vectors: vectors[:, 0, 0], torch.tensor([[1.0], [3.0]]), ("x",))
    assert made.codes.tolist() == [[1.0], [3.0], [2.0]]


def test_wrong_arguments_are_named(denoiser, classifier):
    with pytest.raises(SmaltiError, match="needs a classifier"):
        tokens_of(denoiser, ClassifierSteering("high"))
    with pytest.raises(SmaltiError, match="one of 'low', 'high', not 'red'"):
        tokens_of(denoiser, ClassifierSteering("red"), classifier)
    with pytest.raises(SmaltiError, match="64 codes, not 9"):
        tokens_of(denoiser, ClassifierSteering("high"), replace(classifier, codes=torch.zeros(10, 1)))
    with pytest.raises(SmaltiError, match="scale"):
        parse_rule("steering", "classifier:high,scale=-1", STEERINGS)
