"""The denoiser's loss on images that training does not show, by mask ratio, with the same masks every time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from smalti.common.randomness import Draws
from smalti.data.folder import ImageFolder
from smalti.data.sources import Source, stack_images
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.objective.loss import Mean, denoising_loss
from smalti.training.config import DenoiserRunConfig
from smalti.training.distribution import rank, size
from smalti.training.engine import add_up_numbers
from smalti.training.reading import name_key
from smalti.vq.tokenizer import ImageTokenizer

_SEED = 0  # of the masks, which are the same in every training


class HeldOut:
    """Images that training does not show, divided over the processes.

    Args:
        config: configuration of the training.
        image_tokenizer: encodes the images, at the first measurement.
        prompts: function that returns captions as prompts.
        device: this process's device.

    Raises:
        SmaltiError: the folder that the configuration names has no usable images.
    """

    def __init__(
        self,
        config: DenoiserRunConfig,
        image_tokenizer: ImageTokenizer,
        prompts: Callable[[list[str]], PromptBatch],
        device: torch.device,
    ) -> None:
        self._config, self._tokenizer, self._prompts, self._device = config, image_tokenizer, prompts, device
        source = find_source(config)
        count = config.validation.images if source else 0
        if source and source.length is not None:
            count = min(count, source.length)
        self.count = count
        self._samples = [source[number] for number in range(rank(), count, size())] if source else []
        self._prompt = prompts([sample["caption"] for sample in self._samples]) if self._samples else None
        self._tokens: torch.Tensor | None = None

    def measure(self, denoiser: Denoiser) -> dict[str, float]:
        """Return the mean cross-entropy of masked tokens in nats, by mask ratio and over all ratios.

        Every process calls this at the same time, and all get the same numbers.
        """
        if not self.count:
            return {}
        if self._tokens is None:
            self._tokens = self._encode()
        ratios, batch = self._config.validation.ratios, self._config.loop.batch_size
        sums: dict[str, torch.Tensor] = {}
        rounds = math.ceil(math.ceil(self.count / size()) / batch)
        for ratio in ratios:
            found = [self._loss(denoiser, ratio, start) for start in range(0, rounds * batch, batch)]
            sums[f"{ratio:g}"] = torch.stack([mean.total for mean in found]).sum()
            sums[f"count {ratio:g}"] = torch.stack([mean.weight for mean in found]).sum()
        sums = add_up_numbers(sums, self._device)
        losses = {f"{ratio:g}": float(sums[f"{ratio:g}"] / sums[f"count {ratio:g}"]) for ratio in ratios}
        return {
            "validation_loss": round(sum(losses.values()) / len(losses), 6),
            **{f"validation_loss_{ratio}": round(loss, 6) for ratio, loss in losses.items()},
        }

    def _loss(self, denoiser: Denoiser, ratio: float, start: int) -> Mean:
        """Return the loss of a batch of this process's images; of nothing, from a grid of masks, behind the last."""
        config = denoiser.config
        numbers = range(start, min(start + self._config.loop.batch_size, len(self._samples)))
        if not len(numbers) or self._tokens is None or self._prompt is None:
            side = self._config.data.size // self._tokenizer.config.downscale
            tokens = torch.zeros(1, side, side, dtype=torch.int64, device=self._device)
            masked, prompt = (
                torch.ones_like(tokens, dtype=torch.bool),
                self._prompts(self._config.preview_prompts[:1]),
            )
            weights = torch.zeros(tokens.shape, device=self._device)
        else:
            tokens, prompt = self._tokens[list(numbers)], self._prompt.select(list(numbers))
            draws = Draws.of(_SEED, "validation", [rank() + size() * number for number in numbers])
            order = draws.uniform(tokens[0].numel()).argsort(dim=1).argsort(dim=1)
            masked = (order < ratio * tokens[0].numel()).view(tokens.shape).to(self._device)
            weights = torch.ones(tokens.shape, device=self._device)
        hidden = denoiser(tokens.masked_fill(masked, config.mask_code), prompt.to(self._device))
        head = denoiser.gen_predictor
        return denoising_loss(hidden, head, tokens, masked, edit_loss_weight=0.0, weights=weights).masked

    def _encode(self) -> torch.Tensor:
        """Return this process's images as tokens, (N, h, w) int64."""
        tokenizer = self._tokenizer.to(self._device)
        tokens = [
            tokenizer.from_pixels(stack_images(self._samples[start : start + 8]).to(self._device))
            for start in range(0, len(self._samples), 8)
        ]
        tokenizer.cpu()
        return torch.cat(tokens).long() if tokens else torch.empty(0, 1, 1, dtype=torch.int64)


def find_source(config: DenoiserRunConfig) -> Source | None:
    """Return the images that training does not show, or None if there are none."""
    if config.validation.path is not None:
        with name_key("validation.path"):
            return ImageFolder(config.validation.path, config.data.size)
    return config.data.unseen()
