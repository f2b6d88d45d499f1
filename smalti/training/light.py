"""Training of a light layer on the states that sampling takes, with the model as its teacher and frozen.

A state is a grid between two steps. From the backbone's output for one state the layer goes on to the next ones, and
learns the predictions that the model itself makes there (ADJUST, arXiv 2509.22738).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from smalti.common.checks import check_real, check_seed, check_whole
from smalti.common.devices import autocast_off
from smalti.common.randomness import stream
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.generation.drawing import start
from smalti.generation.settings import GenerationSettings
from smalti.model.denoiser import Denoiser
from smalti.model.light import LightLayer, LightMemory
from smalti.model.prompt import PromptBatch

_UPDATES = 4  # steps of training for each batch of drawn images
_ROWS = 64  # positions of an image whose predictions are compared
_HIDDEN_WEIGHT = 0.1  # of the outputs' own difference, as in ADJUST
_UNCONDITIONAL_SHARE = 0.25  # of the steps, where the model is used with guidance
_LARGEST_RATE = 1.0

Report = Callable[[int, float], None]
"""A function that is called with the steps that are done and the loss of the last one, in nats a token."""


@dataclass(frozen=True)
class LightTraining:
    """How a light layer is trained.

    Attributes:
        steps: number of steps.
        batch_size: images a step.
        learning_rate: of AdamW, at most 1; it falls to 0 by a cosine.
        every: steps of sampling from one pass of the model to the next, at least 2; the layer learns up to one less.
        seed: seed of the layer, the images and the states.

    Raises:
        SmaltiError: a value that is out of its range, by name.
    """

    steps: int = 600
    batch_size: int = 8
    learning_rate: float = 1e-3
    every: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_whole("batch_size", self.batch_size)
        check_real("learning_rate", self.learning_rate, 0, _LARGEST_RATE, above=True)
        check_whole("every", self.every, 2)
        check_seed(self.seed)


def train_light(
    components: Components,
    prompts: Sequence[str],
    settings: GenerationSettings,
    training: LightTraining | None = None,
    *,
    report: Report | None = None,
) -> LightLayer:
    """Train a light layer for a model. Every weight of the model stays as it is.

    Args:
        components: the model, in float32.
        prompts: what to draw, at least one; they take turns.
        settings: of the drawing, with as many steps as drawing with the layer takes.
        training: how it is trained; None is the default.
        report: called after every step.

    Raises:
        SmaltiError: no prompts, fewer than three steps of drawing, or weights in another dtype or in few bits.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> light = train_light(pipe.components, ["a red circle"], pipe.settings.replaced(num_inference_steps=4),
        ...                     LightTraining(steps=1, batch_size=1))
        >>> float(light.change.weight.detach().abs().max()) > 0
        True
    """
    training = training or LightTraining()
    denoiser = components.denoiser
    if not prompts:
        raise SmaltiError("prompts must be at least one", argument="prompts")
    if settings.num_inference_steps < 3:
        raise SmaltiError(
            f"num_inference_steps must be at least 3, not {settings.num_inference_steps}",
            argument="num_inference_steps",
        )
    if any(weight.dtype != torch.float32 for weight in denoiser.parameters()):
        raise SmaltiError("a light layer is trained in float32, with weights that are not quantized")
    settings = settings.replaced(reuse="none")
    light = LightLayer(denoiser.config).to(denoiser.device)
    light.init_weights(stream(training.seed, "light"))
    optimizer = torch.optim.AdamW(light.parameters(), lr=training.learning_rate, weight_decay=0.0)
    with _attached(denoiser, light), torch.inference_mode(False), torch.enable_grad():
        for step in range(training.steps):
            if step % _UPDATES == 0:
                batch, states = _drawn(components, prompts, settings, training, step // _UPDATES)
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * (1 + math.cos(math.pi * step / training.steps)) / 2
            draws = stream(training.seed, "light states", step)
            with autocast_off(components.device):
                loss = _loss(denoiser, batch, states, training.every, bool(settings.guidance_scale), draws)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(light.parameters(), 1.0)
            optimizer.step()
            if report is not None:
                report(step + 1, float(loss.detach()))
    return light.requires_grad_(False).eval()


@contextmanager
def _attached(denoiser: Denoiser, light: LightLayer) -> Iterator[None]:
    """Let a denoiser use a layer, whose parameters alone have gradients; undo it at the end."""
    before = denoiser.light
    wanted = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    try:
        denoiser.requires_grad_(False)
        denoiser.light = light.requires_grad_(True)
        yield
    finally:
        denoiser.light = before
        for parameter in wanted:
            parameter.requires_grad_(True)


def _drawn(
    components: Components,
    prompts: Sequence[str],
    settings: GenerationSettings,
    training: LightTraining,
    number: int,
) -> tuple[PromptBatch, list[torch.Tensor]]:
    """Return the prompts of a batch of images, and the grids before every step of their drawing."""
    size = training.batch_size
    texts = [prompts[index % len(prompts)] for index in range(number * size, (number + 1) * size)]
    first = int(torch.randint(2**31, (1,), generator=stream(training.seed, "light images", number)))
    height, width = components.grid(*settings.size)
    mask = components.mask_code
    states = [torch.full((size, height, width), mask, dtype=torch.int64, device=components.device)]
    states += [step.tokens.clone() for step in start(components, texts, settings, seed=first)]
    # The last grid is full: nothing is predicted from it.
    return components.prompts(texts, *settings.size), states[:-1]


def _loss(
    denoiser: Denoiser,
    prompt: PromptBatch,
    states: Sequence[torch.Tensor],
    every: int,
    guided: bool,
    draws: torch.Generator,
) -> torch.Tensor:
    """Return how far the layer is from the model after some light passes, as Kullback-Leibler divergence in nats."""
    if guided and float(torch.rand(1, generator=draws)) < _UNCONDITIONAL_SHARE:
        prompt = prompt.unconditional()
    length = 1 + int(torch.randint(min(every, len(states)) - 1, (1,), generator=draws))
    first = int(torch.randint(len(states) - length, (1,), generator=draws))
    student, teacher = LightMemory(), LightMemory()
    last = states[first + length]
    with torch.no_grad():
        denoiser(states[first], prompt, student)
        wanted = denoiser(last, prompt, teacher)
    for state in states[first + 1 : first + length + 1]:
        found = denoiser(state, prompt, student)
    masked = (last == denoiser.config.mask_code).flatten(1)
    order = torch.rand(masked.shape, generator=draws).to(masked.device) + masked
    rows = order.topk(min(_ROWS, masked.shape[1]), dim=1).indices
    logits = [_logits(denoiser, hidden, rows) for hidden in (found, wanted)]
    divergence = F.kl_div(logits[0], logits[1], log_target=True, reduction="batchmean")
    assert student.hidden is not None and teacher.hidden is not None  # the passes filled them
    return divergence + _HIDDEN_WEIGHT * F.smooth_l1_loss(student.hidden, teacher.hidden)


def _logits(denoiser: Denoiser, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of all codes at some positions: (B, n, D) and (B, k) int64 → (B · k, V)."""
    chosen = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[2])).flatten(0, 1)

    def product(x: torch.Tensor, weight: torch.Tensor, low_rank: object = None) -> torch.Tensor:
        return F.linear(x, weight).log_softmax(dim=1)

    return denoiser.gen_predictor.run(product, chosen)
