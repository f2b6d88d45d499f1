"""Training of the denoiser: fill masked tokens and revise wrong ones, from a prompt."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.utils import parametrize

from smalti.common.devices import find_device
from smalti.common.images import save_grid
from smalti.common.randomness import Draws
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch, build_prompts
from smalti.objective.corruption import Corrupted, corrupt
from smalti.objective.loss import Mean, denoising_loss
from smalti.objective.masking import MaskingContext
from smalti.objective.self_generated import fill_with_samples
from smalti.objective.subsampling import subsampling_weights
from smalti.runtime.products import training_products
from smalti.sampling.sampler import sample
from smalti.storage.folder import NoInit
from smalti.storage.saving import save_model
from smalti.training.adapting import write_adapter
from smalti.training.caching import hash_of
from smalti.training.captions import cut_caption
from smalti.training.codes import add_codebook_conditioning, fold_codebook_conditioning
from smalti.training.config import DenoiserRunConfig
from smalti.training.held_out import HeldOut
from smalti.training.keeping import Keeping
from smalti.training.launching import spread
from smalti.training.loop import Trainer
from smalti.training.optimizer import trainable
from smalti.training.preparing import DenoiserParts, codebook_of, prepare
from smalti.training.prompting import Captions
from smalti.training.reading import name_key
from smalti.training.showing import Showing
from smalti.training.task import BatchLoss
from smalti.vq.groups import file_name

_CAPTIONS_MEASURED = 256  # for the mean length of a prompt


class Batch(NamedTuple):
    """A corrupted batch with its truth and its prompts.

    Attributes:
        targets: (B, h, w) int64, the true tokens.
        tokens: (B, h, w) int64, input of the denoiser.
        masked: (B, h, w) bool, True where `tokens` has the mask id.
        prompt: the captions, some of them dropped.
        weights: (B, h, w) float, factors of the loss, or None for 1.
        kept: (B,) bool, True for images that keep the frozen model's predictions, or None for none.
    """

    targets: torch.Tensor
    tokens: torch.Tensor
    masked: torch.Tensor
    prompt: PromptBatch
    weights: torch.Tensor | None = None
    kept: torch.Tensor | None = None

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.targets.to(device),
            self.tokens.to(device),
            self.masked.to(device),
            self.prompt.to(device),
            None if self.weights is None else self.weights.to(device),
            None if self.kept is None else self.kept.to(device),
        )


class DenoiserTask:
    """What the trainer needs to know to train a denoiser.

    Args:
        config: configuration of the training.
        parts: the parts that `prepare` returns for it.
    """

    steady = True

    def __init__(self, config: DenoiserRunConfig, parts: DenoiserParts) -> None:
        self.config = config
        self.parts = parts
        self.model = parts.model
        self.data = hash_of([shards.metadata for shards in parts.tokens.parts])
        self.frequency = parts.counts / parts.counts.sum()
        self.context = MaskingContext(self.frequency)
        self.device = find_device(config.loop.device)
        self.group_ids = [groups.ids.to(config.loop.device) for groups in parts.groups]
        self.showing = Showing(parts.tokens, config)
        most = parts.model_config.max_prompt_tokens
        length = parts.model_config.slots(*parts.grid) + most
        self.captions = Captions(
            parts.tokens.parts, parts.text, most, config.text.cut_captions, self._build, length
        )
        self.keeping = Keeping.of(config, parts.tokens.parts)
        with name_key("preview_prompts"):
            self.prompts(config.preview_prompts)
        self.held_out = HeldOut(config, parts.image_tokenizer, self.prompts, self.device)

    def prompts(self, captions: list[str]) -> PromptBatch:
        """Return captions as prompts in the model's template, with slots for its square grid."""
        return self._build(captions, self.parts.grid)

    def _build(self, captions: list[str], grid: tuple[int, int]) -> PromptBatch:
        config, downscale = self.parts.model_config, self.parts.image_tokenizer.config.downscale
        height, width = (side * downscale for side in grid)
        slots = config.slots(*grid)
        return build_prompts(
            captions, config.prompt, self.parts.text, height=height, width=width, slots=slots
        )

    def initial_weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        """Return the starting weights if the model is on the meta device."""
        return self.parts.weights() if self.parts.weights else None

    def products(self) -> float:
        """Return the floating-point operations of an image's matrix products, with gradients."""
        config, grid = self.parts.model_config, self.parts.grid
        captions = islice(self.parts.tokens.images.all_captions(), _CAPTIONS_MEASURED)
        most = self.parts.model_config.max_prompt_tokens
        few = self.prompts([cut_caption(caption, self.parts.text, most) for caption in captions])
        text = float(few.lengths.float().mean()) - few.slots
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        whole = 2 * trained > sum(p.numel() for p in self.model.parameters())
        return training_products(config, grid, text, whole=whole, kept=self._kept_share())

    def _kept_share(self) -> float:
        """Return the expected share of the shown images for which the frozen model is computed, too."""
        if self.keeping is None:
            return 0.0
        second = self.config.regularization
        return self.keeping.share(second.share if second else 0.0, self.config.objective.prompt_drop_rate)

    def shapes(self, images: range) -> Sequence[Hashable] | None:
        """Return the grid of each image, or None if all images have one."""
        return self.showing.grids_of(images)

    def batch(self, images: Sequence[int]) -> Batch:
        """Return the images with these numbers. Each depends on the seed and its number alone."""
        parts, objective, seed = self.parts, self.config.objective, self.config.seed
        shown = self.showing.batch(images)
        corrupted = corrupt(
            shown.tokens,
            parts.masking,
            self.context,
            codebook_size=parts.model_config.codebook_size,
            mask_code=parts.model_config.mask_code,
            flip_ratio=objective.flip_ratio,
            draws=Draws.of(seed, "corruption", images),
        )
        h, w = shown.tokens.shape[1:]
        prompt = self.captions.prompts(shown.places, (h, w), partial(Draws.of, seed, "caption", images))
        dropped = Draws.of(seed, "prompt_drop", images).uniform() < objective.prompt_drop_rate
        kept = None if self.keeping is None else self.keeping.select(shown.places) | dropped
        weights = shown.weights
        if objective.subsampling:
            counted = subsampling_weights(
                shown.tokens, self.frequency, objective.subsampling, Draws.of(seed, "subsampling", images)
            )
            weights = counted if weights is None else weights * counted
        return Batch(shown.tokens, corrupted.tokens, corrupted.masked, prompt.drop(dropped), weights, kept)

    def loss(self, batch: Batch, images: Sequence[int], step: int) -> BatchLoss:
        """Return the loss of a batch; positions weigh 1 where masked, `edit_loss_weight` elsewhere."""
        batch = batch.to(self.device)
        batch, generated = self.with_self_generated(batch, images, step)
        weights = self.parts.group_weights
        before = self.frozen(batch)
        hidden = self.model(batch.tokens, batch.prompt)
        loss = denoising_loss(
            hidden,
            self.model.gen_predictor,
            batch.targets,
            batch.masked,
            edit_loss_weight=self.config.objective.edit_loss_weight,
            weights=_learned(batch),
            groups=self.group_ids,
            group_weights=list(weights.values()),
            focus=self.config.objective.focus,
        )
        numbers = {
            "loss_masked": loss.masked,
            "loss_visible": loss.visible,
            "accuracy": loss.accuracy,
            **generated,
        }
        for number, value, hit in zip(weights, loss.group, loss.group_accuracy, strict=True):
            numbers |= {f"loss_group_{number}": value, f"accuracy_group_{number}": hit}
        found = BatchLoss(loss.weighted_sum, loss.weight, numbers)
        if self.keeping is None or before is None or batch.kept is None:
            return found
        return self.keeping.add(found, before, hidden, self.model, batch.masked, batch.kept, batch.weights)

    def frozen(self, batch: Batch) -> torch.Tensor | None:
        """Return the frozen model's hidden vectors for the images that keep its predictions, or None."""
        if self.keeping is None or batch.kept is None:
            return None
        return self.keeping.before(self.model, batch.tokens, batch.prompt, batch.kept)

    def with_self_generated(
        self, batch: Batch, images: Sequence[int], step: int
    ) -> tuple[Batch, dict[str, Mean]]:
        """Return the batch with some masks filled by the model, and how many of those tokens are correct."""
        config = self.config.objective.self_generated
        if config is None:
            return batch, {}
        if step < config.start_step:
            return batch, {"self_generated_right": Mean(torch.zeros(()), torch.zeros(()))}
        generated = fill_with_samples(
            self.model,
            Corrupted(batch.tokens, batch.masked),
            batch.prompt,
            share=config.share,
            passes=config.passes,
            order=self.parts.masking.sampling_order(*batch.tokens.shape[1:]),
            draws=Draws.of(self.config.seed, "self_generated", images),
            in_step=self.config.distribution.strategy == "fsdp",
        )
        # Autocast keeps weights that were cast without a gradient, and would use them for the pass that needs one.
        torch.clear_autocast_cache()
        filled = batch.masked & ~generated.masked
        right = Mean((filled & (generated.tokens == batch.targets)).sum(), filled.sum())
        batch = batch._replace(tokens=generated.tokens, masked=generated.masked)
        return batch, {"self_generated_right": right}

    def validate(self) -> dict[str, float]:
        """Return the loss on images that training does not show, by mask ratio."""
        with parametrize.cached():
            return self.held_out.measure(self.model)

    def preview(self, path: Path | None) -> dict[str, float]:
        """Write a grid of two images per preview prompt, with seeds 0 and 1."""
        grid = self.parts.grid
        captions = [caption for caption in self.config.preview_prompts for _ in range(2)]
        generators = [torch.Generator().manual_seed(number % 2) for number in range(len(captions))]
        settings = GenerationSettings().replaced(**self.parts.model_config.sampling)
        fewest = min(settings.num_inference_steps, grid[0] * grid[1])
        settings = settings.replaced(num_inference_steps=fewest)
        with parametrize.cached():
            *_, last = sample(
                self.model,
                self.prompts(captions).to(self.device),
                grid=grid,
                sampler=make_sampler(settings),
                generators=generators,
            )
        if path is not None:
            images = self.parts.image_tokenizer.to_pixels(last.tokens.cpu())
            save_grid(images, path, columns=min(8, len(captions)))
        return {}

    def exported(self) -> list[str]:
        """Return the names of all parameters, or of an adapter's."""
        if self.config.adapter:
            return list(trainable(self.model))
        return [name for name, _ in self.model.named_parameters()]

    def export(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write a loadable model folder, or that of an adapter, with the words of the captions."""
        parts = self.parts
        if self.config.adapter:
            write_adapter(weights, self.config, parts.words, folder)
            return
        save_model(
            self.folded(weights),
            parts.image_tokenizer,
            parts.text_json,
            folder,
            words=parts.words,
            dtype=torch.bfloat16,
            image_tokenizer_dtype=torch.bfloat16,
        )
        for groups in parts.groups:
            groups.save(folder / file_name(groups.kind, groups.count))

    def folded(self, weights: Mapping[str, torch.Tensor]) -> Denoiser:
        """Return a denoiser with these weights, on the CPU, with plain tables."""
        with torch.device("meta"), NoInit():
            denoiser = Denoiser(self.parts.model_config)
        if self.config.code_network:
            denoiser.to_empty(device="cpu")
            codebook = codebook_of(self.parts.image_tokenizer)
            add_codebook_conditioning(denoiser, codebook, self.config.code_network, torch.Generator())
        denoiser.load_state_dict(weights, assign=True)
        if self.config.code_network:
            fold_codebook_conditioning(denoiser)
        return denoiser.eval()


def _learned(batch: Batch) -> torch.Tensor | None:
    """Return the factors of the loss against the images, (B, h, w): 0 for images that keep other predictions."""
    if batch.kept is None:
        return batch.weights
    learned = (~batch.kept)[:, None, None].expand_as(batch.masked)
    return learned if batch.weights is None else learned * batch.weights


def train_denoiser(config: DenoiserRunConfig) -> dict[str, float]:
    """Run or resume `smalti train`, and return the last log entry."""
    return spread(_run, config)


def _run(config: DenoiserRunConfig) -> dict[str, float]:
    return Trainer(DenoiserTask(config, prepare(config)), config).run()
