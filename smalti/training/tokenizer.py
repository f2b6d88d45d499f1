"""Training of the image tokenizer: reconstruct images through a codebook whose codes are all in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from smalti.common.devices import find_device
from smalti.common.images import save_grid
from smalti.common.randomness import Draws, generator, stream
from smalti.data.sources import FileSource, Source, source_batch, stack_images
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.objective.loss import Mean
from smalti.storage.folder import load_image_tokenizer, save_image_tokenizer
from smalti.training.config import TokenizerRunConfig
from smalti.training.distribution import first_alone, take_from_first
from smalti.training.encoding import open_source, short_hash
from smalti.training.launching import spread
from smalti.training.loop import Trainer
from smalti.training.reading import check_model_keys, name_key
from smalti.training.sizing import check_room, check_shapes, outline
from smalti.training.task import BatchLoss
from smalti.vq.config import VQConfig
from smalti.vq.discriminator import PatchDiscriminator
from smalti.vq.fidelity import measure_fidelity
from smalti.vq.groups import CodeGroups
from smalti.vq.kmeans import kmeans
from smalti.vq.principal import principal_start
from smalti.vq.quantizer import Quantized
from smalti.vq.tokenizer import ImageTokenizer, to_float, to_uint8

_VALIDATION_IMAGES = 64
_SEEDING_IMAGES = 1024  # images that codes start from, or more for a large codebook
_SQUARES_READ_PER_CODE = 32  # of which about a third are different
_NEAREST = 4  # codes, the own one included, from which code noise draws


class TokenizerWithDiscriminator(nn.Module):
    """The tokenizer and, where the configuration asks for one, its discriminator."""

    def __init__(self, tokenizer: ImageTokenizer, discriminator: PatchDiscriminator | None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.discriminator = discriminator


class TokenizerTask:
    """What the trainer needs to know to train an image tokenizer.

    Raises:
        SmaltiError: settings do not fit together, or `start_from` does not fit them.
    """

    steady = False  # codes are used from some step on, and the discriminator joins later

    def __init__(self, config: TokenizerRunConfig) -> None:
        self.config = config
        if config.distribution.strategy != "ddp":
            raise SmaltiError("distribution.strategy must be ddp for an image tokenizer, which is small")
        check_settings(config)
        shapes = outline(lambda: ImageTokenizer(VQConfig.from_dict(config.model)))
        with name_key("start_from"):
            state = find_start(shapes, config.start_from) if config.start_from else None
        check_room(shapes, find_device(config.loop.device))
        with name_key("data"):
            self.source = _images_of(config)
        # Scenes are told by the configuration.
        self.data = self.source.fingerprint() if isinstance(self.source, FileSource) else config.data.kind
        torch.manual_seed(config.seed)
        # PyTorch keeps 32 bits of it; this keeps all of them.
        torch.default_generator.set_state(generator(config.seed).get_state())
        tokenizer = ImageTokenizer(VQConfig.from_dict(config.model))
        if state:
            tokenizer.load_state_dict(state)
        else:
            tokenizer.init_weights()
        linear = tokenizer.config.encoder == "linear"
        if linear and not state:
            self.start_linear(tokenizer)
        self.decoder_only = config.decoder_only or linear
        if self.decoder_only:
            for part in (tokenizer.encoder, tokenizer.quant_conv, tokenizer.quantize):
                part.requires_grad_(False)
        if config.code_noise:
            codebook = tokenizer.quantize.embedding.weight.detach()
            self.nearest = CodeGroups.from_neighbours(codebook, min(_NEAREST, len(codebook))).ids
        tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's types
        adversary = config.loss.discriminator
        discriminator = PatchDiscriminator(adversary.channels) if adversary else None
        self.model = TokenizerWithDiscriminator(tokenizer, discriminator)
        self.validation = self.validation_images()
        self._seeded = False

    def validation_images(self) -> torch.Tensor:
        """Return images (N, 3, H, W) uint8: unseen ones, or training images where the data have no others."""
        unseen = self.config.data.unseen()
        if unseen is not None:
            return stack_images([unseen[index] for index in range(_VALIDATION_IMAGES)])
        count = min(_VALIDATION_IMAGES, self.source.length or _VALIDATION_IMAGES)
        return stack_images(source_batch(self.source, range(count), seed=-1))

    def initial_weights(self) -> None:
        """Return None: the model has its weights."""

    def products(self) -> float:
        """Return 0: the operations of a tokenizer are not counted."""
        return 0.0

    def shapes(self, images: range) -> None:
        """Return None: all images have one shape."""

    def batch(self, images: Sequence[int]) -> torch.Tensor:
        """Return the images with these numbers, (B, 3, H, W) uint8, cropped where the configuration asks for it."""
        config = self.config
        pixels = stack_images(source_batch(self.source, images, config.seed))
        if getattr(config.data, "flips", False):
            flipped = Draws.of(config.seed, "flip", images).uniform() < 0.5
            pixels = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
        if config.crop is None:
            return pixels
        downscale = self.model.tokenizer.config.downscale
        return torch.stack(
            [
                busiest_part(image, config.crop, downscale, stream(config.seed, "crop", number))
                for image, number in zip(pixels, images, strict=True)
            ]
        )

    def loss(self, batch: torch.Tensor, images: Sequence[int], step: int) -> BatchLoss:
        """Return the loss of a batch, in which every image weighs 1.

        The terms of code usage and of the discriminator are means over a batch, so they depend on its size.
        """
        weights = self.config.loss
        pixels = to_float(batch.to(self.config.loop.device)).contiguous(memory_format=torch.channels_last)
        reconstruction, quantized = self.reconstruct(pixels, images, step)
        reconstruction = reconstruction.float()
        difference = reconstruction - pixels
        l1, l2 = difference.abs().mean(), difference.square().mean()
        # Differences of neighbours are linear, so the error's differences are the error of the differences.
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        total = weights.l1 * l1 + weights.l2 * l2 + weights.gradient * edges
        nothing = torch.zeros((), device=total.device)
        numbers = {
            "l1": l1,
            "psnr_batch": -10 * torch.log10(l2 / 4),
            "gradient": edges,
            "commitment": nothing,
            "entropy": nothing,
        }
        if quantized is not None:
            total = total + weights.commitment * quantized.commitment + weights.entropy * quantized.entropy
            numbers |= {"commitment": quantized.commitment, "entropy": quantized.entropy}
        adversary, discriminator = weights.discriminator, self.model.discriminator
        if adversary and discriminator:
            started = float(step >= adversary.start_step)
            fool = discriminator.generator_loss(reconstruction)
            own = discriminator.own_loss(pixels, reconstruction)
            total = total + started * (adversary.weight * fool + own)
            numbers |= {"fool": fool, "discriminator": own}
        weight = torch.tensor(float(len(pixels)), device=total.device)
        means = {name: Mean(value.detach() * weight, weight) for name, value in numbers.items()}
        return BatchLoss(total * weight, weight, means)

    def reconstruct(
        self, pixels: torch.Tensor, images: Sequence[int], step: int
    ) -> tuple[torch.Tensor, Quantized | None]:
        """Return the reconstruction of a batch, and the quantizer's output in steps that train it, else None."""
        tokenizer = self.model.tokenizer
        if self.decoder_only:
            return self.decode_tokens(pixels, images), None
        if step < self.config.loss.quantize_after:
            return tokenizer.without_codes(pixels), None
        if step == self.config.loss.quantize_after and not self._seeded:
            # Every process sees the step's first images, so all of them find the same codes.
            self.seed_codes(step * self.config.loop.images)
            self._seeded = True
        tokenizer.quantize.normalize_codes()
        return tokenizer(pixels, self.config.loss.temperature)

    def decode_tokens(self, pixels: torch.Tensor, images: Sequence[int]) -> torch.Tensor:
        """Decode a batch's tokens, after replacing some of them by one of their nearest codes."""
        tokenizer = self.model.tokenizer
        # Images are encoded in float32 everywhere: bf16 changes about one token in four.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            tokens = tokenizer.encode(pixels)
        if self.config.code_noise:
            draws = Draws.of(self.config.seed, "code_noise", images)
            noisy = draws.uniform(*tokens.shape[1:]) < self.config.code_noise
            choice = draws.below(self.nearest.shape[1], *tokens.shape[1:])
            others = self.nearest[tokens.cpu(), choice]
            tokens = torch.where(noisy.to(tokens.device), others.to(tokens.device), tokens)
        z = tokenizer.post_quant_conv(tokenizer.quantize.lookup(tokens))
        return tokenizer.decoder(z)

    def start_linear(self, tokenizer: ImageTokenizer) -> None:
        """Set the weights that a linear encoder's tokenizer starts from. They are kept, because they take a while."""
        config = self.config
        settings = [config.seed, config.model, config.data.model_dump(mode="json"), self.data]
        folder = Path(config.output) / f"start-{short_hash(settings)}"
        squares = (config.data.size // tokenizer.config.downscale) ** 2
        count = max(_SEEDING_IMAGES, _SQUARES_READ_PER_CODE * tokenizer.config.codebook_size // squares)
        images = (source_batch(self.source, [number], config.seed)[0]["image"] for number in range(count))
        with first_alone():
            if not (folder / "config.json").exists():
                with name_key("model"):
                    principal_start(tokenizer, images, config.seed)
                save_image_tokenizer(tokenizer, folder)
            tokenizer.load_state_dict(load_image_tokenizer(folder).state_dict())

    @torch.no_grad()
    def seed_codes(self, first: int) -> None:
        """Set the codes to the centres of k-means over the features of the images from number `first` on."""
        tokenizer, device = self.model.tokenizer, self.config.loop.device
        size = self.config.loop.batch_size
        features = [
            tokenizer.features(to_float(self.batch(range(start, start + size)).to(device)))
            .permute(0, 2, 3, 1)
            .flatten(0, 2)
            for start in range(first, first + _SEEDING_IMAGES, size)
        ]
        points = F.normalize(torch.cat(features).float().cpu(), dim=1)
        generator = stream(self.config.seed, "codes")
        centers, _ = kmeans(points, tokenizer.config.codebook_size, iterations=5, generator=generator)
        tokenizer.quantize.embedding.weight.copy_(centers)
        take_from_first([tokenizer.quantize.embedding.weight])

    def copy(self, weights: Mapping[str, torch.Tensor]) -> ImageTokenizer:
        """Return a tokenizer with these weights, on the CPU."""
        prefix = "tokenizer."
        tokenizer = ImageTokenizer(self.model.tokenizer.config)
        tokenizer.load_state_dict(
            {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        )
        if not self.decoder_only:
            tokenizer.quantize.normalize_codes()
        return tokenizer.eval()

    def validate(self) -> dict[str, float]:
        """Return nothing: `preview` measures, in one process."""
        return {}

    def preview(self, path: Path | None) -> dict[str, float]:
        """Write eight validation images above their reconstructions, and return the fidelity over all of them."""
        tokenizer = self.copy(self.model.state_dict())
        shown = self.validation[:8]
        decoded = to_uint8(tokenizer.decode(tokenizer.from_pixels(shown)))
        if path is not None:
            save_grid(torch.cat([shown, decoded]), path, columns=8)
        fidelity = measure_fidelity(tokenizer, self.validation)
        return {f"validation_{key}": value for key, value in fidelity.items()}

    def exported(self) -> list[str]:
        """Return the names of the tokenizer's parameters, without those of the discriminator."""
        return [name for name, _ in self.model.named_parameters() if name.startswith("tokenizer.")]

    def export(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write the tokenizer as a loadable folder."""
        save_image_tokenizer(self.copy(weights), folder, dtype=torch.bfloat16)


def check_settings(config: TokenizerRunConfig) -> None:
    """Raise SmaltiError if settings of a tokenizer's training do not fit together."""
    check_model_keys(config.model, {field.name for field in dataclasses.fields(VQConfig)})
    if config.decoder_only and not config.start_from:
        raise SmaltiError("decoder_only needs start_from: the image tokenizer whose decoder learns")
    downscale = VQConfig.from_dict(config.model).downscale
    if config.crop is not None and (config.crop % downscale or config.crop > config.data.size):
        raise SmaltiError(
            f"crop must be a multiple of {downscale} up to data.size ({config.data.size}), not {config.crop}"
        )
    linear = VQConfig.from_dict(config.model).encoder == "linear"
    if config.code_noise and not config.decoder_only and not linear:
        raise SmaltiError("code_noise needs decoder_only, or a linear encoder")


def busiest_part(
    image: torch.Tensor, side: int, step: int, generator: torch.Generator, candidates: int = 4
) -> torch.Tensor:
    """Return the part of an image with the strongest edges among some random parts.

    Args:
        image: (3, H, W) uint8.
        side: side of the part in pixels, at most H and W.
        step: unit in pixels of the parts' places.
        generator: source of the places, on the CPU.
        candidates: number of random parts.

    Returns:
        (3, side, side) uint8.
    """
    parts = []
    for _ in range(candidates):
        row, column = (
            step * int(torch.randint((length - side) // step + 1, (), generator=generator))
            for length in image.shape[1:]
        )
        parts.append(image[:, row : row + side, column : column + side])
    return max(parts, key=lambda part: float(part.float().diff(dim=2).abs().sum()))


def _images_of(config: TokenizerRunConfig) -> Source:
    """Return the images of a configuration, all squares.

    Raises:
        SmaltiError: there are none, or they are tokens or of several shapes.
    """
    if getattr(config.data, "buckets", None):
        raise SmaltiError("buckets must be null for an image tokenizer, which is trained on squares")
    source = open_source(config.data)
    if isinstance(source, TokenShards):
        raise SmaltiError("kind must be one of images for an image tokenizer, not tokens")
    return source


def find_start(shapes: dict[str, tuple[int, ...]], folder: str) -> dict[str, torch.Tensor]:
    """Return the weights of another image tokenizer of the same shape.

    Raises:
        SmaltiError: the folder holds no image tokenizer, or one of another shape.
    """
    state = load_image_tokenizer(folder).state_dict()
    check_shapes(shapes, {name: tuple(tensor.shape) for name, tensor in state.items()}, folder)
    return state


def train_tokenizer(config: TokenizerRunConfig) -> dict[str, float]:
    """Run or resume `smalti train-tokenizer`, and return the last log entry."""
    return spread(_run, config)


def _run(config: TokenizerRunConfig) -> dict[str, float]:
    return Trainer(TokenizerTask(config), config).run()
