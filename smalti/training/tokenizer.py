"""Training of the image tokenizer: reconstruct pictures through a codebook that is all in use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from smalti.common.images import save_grid
from smalti.data.sources import make_source, source_batch, stack_images
from smalti.errors import SmaltiError
from smalti.storage.folder import load_image_tokenizer, save_image_tokenizer
from smalti.training.config import TokenizerRunConfig, check_model_keys
from smalti.training.distribution import size, spread, take_from_first
from smalti.training.loop import train
from smalti.vq.config import VQConfig
from smalti.vq.discriminator import PatchDiscriminator
from smalti.vq.fidelity import measure_fidelity
from smalti.vq.groups import CodeGroups
from smalti.vq.kmeans import kmeans
from smalti.vq.tokenizer import ImageTokenizer, to_float, to_uint8
from smalti.worlds.scenes.world import Scenes

_VALIDATION_PICTURES = 64
_SEEDING_PICTURES = 1024
_ALIKE = 4  # codes, itself among them, that one may be taken for


class TokenizerWithDiscriminator(nn.Module):
    """The tokenizer and, where the configuration asks for one, its discriminator."""

    def __init__(self, tokenizer: ImageTokenizer, discriminator: PatchDiscriminator | None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.discriminator = discriminator


class TokenizerTask:
    """What the shared loop needs to know to train an image tokenizer."""

    def __init__(self, config: TokenizerRunConfig) -> None:
        self.config = config
        check_model_keys(config.model, {field.name for field in dataclasses.fields(VQConfig)})
        if config.decoder_only and not config.start_from:
            raise SmaltiError("decoder_only needs start_from, the image tokenizer whose decoder learns")
        downscale = VQConfig.from_dict(config.model).downscale
        if config.crop is not None and (config.crop % downscale or config.crop > config.data.size):
            raise SmaltiError(
                f"crop must be a multiple of {downscale} up to data.size ({config.data.size}), not {config.crop}"
            )
        if config.code_noise and not config.decoder_only:
            raise SmaltiError("code_noise goes with decoder_only")
        torch.manual_seed(config.seed)
        tokenizer = ImageTokenizer(VQConfig.from_dict(config.model))
        if config.start_from:
            start_from(tokenizer, config.start_from)
        else:
            tokenizer.init_weights()
        if config.decoder_only:
            for part in (tokenizer.encoder, tokenizer.quant_conv, tokenizer.quantize):
                part.requires_grad_(False)
            codebook = tokenizer.quantize.embedding.weight.detach()
            self.alike = CodeGroups.from_neighbours(codebook, min(_ALIKE, len(codebook))).ids
        adversary = config.loss.discriminator
        self.model = TokenizerWithDiscriminator(
            tokenizer.to(memory_format=torch.channels_last),
            PatchDiscriminator(adversary.channels) if adversary else None,
        )
        self.source = make_source(config.data)
        if config.data.kind == "scenes":
            unseen = Scenes(seed=config.data.seed, size=config.data.size, split="test")
            samples = [unseen[index] for index in range(_VALIDATION_PICTURES)]
        else:
            samples = source_batch(self.source, 0, min(_VALIDATION_PICTURES, len(self.source)), seed=-1)
        self.validation = stack_images(samples)

    def batch(self, index: int) -> torch.Tensor:
        images = stack_images(source_batch(self.source, index, self.config.loop.batch_size, self.config.seed))
        if self.config.crop is None:
            return images
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + index) % 2**62 + 1)
        side, downscale = self.config.crop, self.model.tokenizer.config.downscale
        return torch.stack([busiest_part(image, side, downscale, generator) for image in images])

    def loss(
        self, batch: torch.Tensor, index: int, step: int
    ) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        weights = self.config.loss
        images = to_float(batch.to(self.config.loop.device)).contiguous(memory_format=torch.channels_last)
        tokenizer = self.model.tokenizer
        if self.config.decoder_only:
            reconstruction, quantized = self.decoded(images, index), None
        elif step < weights.quantize_after:
            reconstruction, quantized = tokenizer.without_codes(images), None
        else:
            accumulate = self.config.loop.accumulate
            if step == weights.quantize_after and index < (step * accumulate) + size():
                # Every process sees the step's first batches, so all find the same codes.
                self.seed_codes(step * accumulate)
            tokenizer.quantize.normalize_codes()
            reconstruction, quantized = tokenizer(images, weights.temperature)
        reconstruction = reconstruction.float()
        difference = reconstruction - images
        l1, l2 = difference.abs().mean(), difference.square().mean()
        # Differences of neighbours are linear, so those of the error are the error of those.
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        total = weights.l1 * l1 + weights.l2 * l2 + weights.gradient * edges
        numbers = {
            "l1": l1.detach(),
            "psnr_batch": -10 * torch.log10(l2.detach() / 4),
            "gradient": edges.detach(),
            "commitment": 0.0,
            "entropy": 0.0,
        }
        if quantized is not None:
            total = total + weights.commitment * quantized.commitment + weights.entropy * quantized.entropy
            numbers |= {"commitment": quantized.commitment.detach(), "entropy": quantized.entropy.detach()}
        adversary = weights.discriminator
        if adversary:
            started = float(step >= adversary.start_step)
            fool = self.model.discriminator.generator_loss(reconstruction)
            own = self.model.discriminator.own_loss(images, reconstruction)
            total = total + started * (adversary.weight * fool + own)
            numbers |= {"fool": fool.detach(), "discriminator": own.detach()}
        return total, numbers

    def decoded(self, images: torch.Tensor, index: int) -> torch.Tensor:
        """What the decoder makes of a batch's tokens, some of them exchanged for one of their nearest codes."""
        tokenizer = self.model.tokenizer
        # In float32, as pictures are encoded everywhere else: bf16 gives many tokens another id.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            tokens = tokenizer.encode(images)
        if self.config.code_noise:
            generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + index) % 2**62)
            noisy = torch.rand(tokens.shape, generator=generator) < self.config.code_noise
            choice = torch.randint(self.alike.shape[1], tokens.shape, generator=generator)
            others = self.alike[tokens.cpu(), choice]
            tokens = torch.where(noisy.to(tokens.device), others.to(tokens.device), tokens)
        z = tokenizer.post_quant_conv(tokenizer.quantize.lookup(tokens))
        return tokenizer.decoder(z)

    @torch.no_grad()
    def seed_codes(self, index: int) -> None:
        """Set the codes to the centers of k-means over the features of the next batches."""
        tokenizer, device = self.model.tokenizer, self.config.loop.device
        features = [
            tokenizer.features(to_float(self.batch(index + ahead).to(device)))
            .permute(0, 2, 3, 1)
            .flatten(0, 2)
            for ahead in range(-(-_SEEDING_PICTURES // self.config.loop.batch_size))
        ]
        points = F.normalize(torch.cat(features).float().cpu(), dim=1)
        generator = torch.Generator().manual_seed(self.config.seed)
        centers, _ = kmeans(points, tokenizer.config.codebook_size, iterations=5, generator=generator)
        tokenizer.quantize.embedding.weight.copy_(centers)
        take_from_first([tokenizer.quantize.embedding.weight])

    def averaged(self, average: dict[str, torch.Tensor]) -> ImageTokenizer:
        """A tokenizer with the averaged weights, on the CPU."""
        prefix = "tokenizer."
        tokenizer = ImageTokenizer(self.model.tokenizer.config)
        tokenizer.load_state_dict(
            {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}
        )
        if not self.config.decoder_only:
            tokenizer.quantize.normalize_codes()
        return tokenizer.eval()

    def preview(self, average: dict[str, torch.Tensor], path: Path) -> dict[str, float]:
        tokenizer = self.averaged(average)
        shown = self.validation[:8]
        save_grid(
            torch.cat([shown, to_uint8(tokenizer.decode(tokenizer.from_pixels(shown)))]), path, columns=8
        )
        return {
            f"validation_{key}": value for key, value in measure_fidelity(tokenizer, self.validation).items()
        }

    def export(self, average: dict[str, torch.Tensor], folder: Path) -> None:
        save_image_tokenizer(self.averaged(average), folder, dtype=torch.bfloat16)


def busiest_part(
    image: torch.Tensor, side: int, step: int, generator: torch.Generator, tries: int = 4
) -> torch.Tensor:
    """Of some random parts of a picture (3, H, W) uint8 the one with the strongest edges: (3, side, side).

    Args:
        side: in pixels, at most H and W.
        step: places of parts are multiples of it.
    """
    parts = []
    for _ in range(tries):
        row, column = (
            step * int(torch.randint((length - side) // step + 1, (), generator=generator))
            for length in image.shape[1:]
        )
        parts.append(image[:, row : row + side, column : column + side])
    return max(parts, key=lambda part: float(part.float().diff(dim=2).abs().sum()))


def start_from(tokenizer: ImageTokenizer, folder: str) -> None:
    """Take the weights of another image tokenizer of the same shape.

    Raises:
        SmaltiError: the folder has none, or one of another shape.
    """
    try:
        tokenizer.load_state_dict(load_image_tokenizer(folder).state_dict())
    except RuntimeError as error:
        raise SmaltiError(f"start_from: {folder} has another shape than model: asks for") from error


def train_tokenizer(config: TokenizerRunConfig) -> dict[str, float]:
    """Run or resume `smalti train-tokenizer`; returns the last log entry."""
    return spread(_run, config)


def _run(config: TokenizerRunConfig) -> dict[str, float]:
    return train(TokenizerTask(config), config)
