"""The loaded parts of a model: text and pixels become what the denoiser reads, and its tokens become pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from smalti.common.devices import autocast_off
from smalti.errors import SmaltiError
from smalti.model.classifier import TokenClassifier
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch, build_prompts
from smalti.model.text import TextTokenizer
from smalti.model.words import unknown_words
from smalti.runtime.memory import Mode
from smalti.vq.tokenizer import ImageTokenizer


@dataclass(frozen=True, eq=False)
class Components:
    """A denoiser, an image tokenizer and a text tokenizer that belong together. It knows nothing of sampling.

    Example:
        >>> import smalti
        >>> components = smalti.load("scenes").components
        >>> components.encode(torch.zeros(1, 3, 256, 256, dtype=torch.uint8)).shape
        torch.Size([1, 16, 16])

    Attributes:
        denoiser: predicts hidden states of a token grid from the grid and a prompt.
        image_tokenizer: pixels to token ids and back.
        text_tokenizer: text to text ids.
        name: name of the model in reports.
        mode: loading mode that was chosen to fit into memory, or None.
        words: words of the training captions, lower-case; empty where they are not known.
        verifier: a smaller model with the same image tokenizer, which some budgets ask what to accept, or None.
        folder: folder that the parts were read from, or None.
        classifier: classifier over tokens, which some steering rules ask, or None.

    Raises:
        SmaltiError: the denoiser and the image tokenizer have different codebook sizes.
    """

    denoiser: Denoiser
    image_tokenizer: ImageTokenizer
    text_tokenizer: TextTokenizer
    name: str = "unnamed"
    mode: Mode | None = None
    words: frozenset[str] = frozenset()
    verifier: Components | None = None
    folder: Path | None = None
    classifier: TokenClassifier | None = None

    def __post_init__(self) -> None:
        expected, found = self.denoiser.config.codebook_size, self.image_tokenizer.config.codebook_size
        if expected != found:
            raise SmaltiError(f"the image tokenizer must have the denoiser's {expected} codes, not {found}")

    @property
    def device(self) -> torch.device:
        """The denoiser's device."""
        return self.denoiser.device

    @property
    def mask_code(self) -> int:
        """The token id that means unknown."""
        return self.denoiser.config.mask_code

    @property
    def guidance_batched(self) -> bool:
        """Whether memory allows the conditional and the unconditional pass as one batch."""
        return self.mode is None or self.mode.guidance_batched

    @property
    def pixel_bytes(self) -> int | None:
        """Bytes that decoding may take beside the weights, where memory is limited."""
        return None if self.mode is None else self.mode.pixel_bytes

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) of the token grid of an image of height × width pixels.

        Raises:
            SmaltiError: a side is no multiple of what the model needs, or the image is larger than it can place.
        """
        config, downscale = self.denoiser.config, self.image_tokenizer.config.downscale
        unit = downscale * config.cell
        for name, side in (("height", height), ("width", width)):
            if side % unit:
                raise SmaltiError(f"{name} must be a multiple of {unit} pixels, not {side}", argument=name)
        # Beyond the length that the rotary positions are made for, nothing sensible comes out.
        longest = int(config.rope.original_max_position_embeddings * config.rope.factor)
        if height // unit * (width // unit) > longest:
            raise SmaltiError(
                f"height and width must be at most {longest * unit**2} pixels together (height × width), "
                f"not {height}×{width}",
                argument="height",
            )
        return height // downscale, width // downscale

    def prompts(self, texts: Sequence[str], height: int, width: int, *, name: str = "prompt") -> PromptBatch:
        """Return texts as the denoiser reads them, on its device, for images of height × width pixels.

        Args:
            name: name of the argument that holds the texts, for errors.

        Raises:
            SmaltiError: a text that is blank or too long, or a size that the model cannot have.
        """
        config = self.denoiser.config
        batch = build_prompts(
            list(texts),
            config.prompt,
            self.text_tokenizer,
            height=height,
            width=width,
            slots=config.slots(*self.grid(height, width)),
            name=name,
        )
        return batch.to(self.device)

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Return the words of prompts that the training captions lack; none where these are not known."""
        if not self.words:
            return []
        return list(dict.fromkeys(word for prompt in prompts for word in unknown_words(prompt, self.words)))

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the token ids, (B, h, w) int64 on the CPU, of pixels (B, 3, H, W) uint8.

        Raises:
            SmaltiError: a side is not a multiple of the image tokenizer's downscale.
        """
        tokenizer = self.image_tokenizer
        with autocast_off(tokenizer.device):
            return torch.cat(
                [tokenizer.from_pixels(one.to(tokenizer.device)).cpu() for one in pixels.split(1)]
            )

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the pixels, (B, 3, H, W) uint8 on the CPU, of token ids (B, h, w) int64."""
        tokenizer = self.image_tokenizer
        # On a CPU one by one, which is as fast: rounding then does not depend on what else is in the batch.
        step = 1 if tokenizer.device.type == "cpu" else max(1, len(tokens))
        with autocast_off(tokenizer.device):
            pixels = [
                tokenizer.to_pixels(part.to(tokenizer.device), dtype=tokenizer.dtype, room=self.pixel_bytes)
                for part in tokens.split(step)
            ]
            return torch.cat([part.cpu() for part in pixels])
