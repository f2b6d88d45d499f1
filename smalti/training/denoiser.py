"""Training of the denoiser: fill masked tokens and revise wrong ones, from a prompt."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch

from smalti.common.devices import find_device
from smalti.common.files import write_text_atomic
from smalti.common.images import save_grid
from smalti.data.sources import shuffled_indices
from smalti.errors import SmaltiError
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings
from smalti.model.config import MODEL_TYPE, DenoiserConfig, format_group_weights
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch, TextTokenizer, build_prompts, train_text_tokenizer
from smalti.objective.corruption import Corrupted, corrupt
from smalti.objective.drafts import draft
from smalti.objective.loss import denoising_loss
from smalti.runtime.compiling import check_compiler, compile_layers
from smalti.sampling.orders import StratifiedOrder, halton_order, stratified_order
from smalti.sampling.sampler import sample
from smalti.storage.folder import (
    load_config,
    load_denoiser,
    load_image_tokenizer,
    save_denoiser,
    save_image_tokenizer,
)
from smalti.training.caching import fingerprint, make_cache
from smalti.training.codes import add_code_networks, fold_code_networks
from smalti.training.config import DenoiserRunConfig, check_model_keys
from smalti.training.distribution import first_alone, spread
from smalti.training.loop import train
from smalti.training.state import latest_checkpoint
from smalti.vq.groups import CodeGroups, file_name

_IDS_AHEAD = 2**26  # ids of prompts that are kept from the start, half a GB; more are encoded batch by batch


class Batch(NamedTuple):
    """Everything a step needs, made ahead of it.

    Attributes:
        targets: (B, h, w) int64, the true tokens.
        tokens: (B, h, w) int64, what the denoiser sees.
        masked: (B, h, w) bool.
        prompt: the captions, some dropped.
    """

    targets: torch.Tensor
    tokens: torch.Tensor
    masked: torch.Tensor
    prompt: PromptBatch


class DenoiserTask:
    """What the shared loop needs to know to train a denoiser."""

    def __init__(self, config: DenoiserRunConfig) -> None:
        self.config = config
        self.tokenizer = load_image_tokenizer(config.tokenizer)
        side, downscale = config.data.size, self.tokenizer.config.downscale
        if side % downscale:
            raise SmaltiError(f"data.size must be a multiple of the tokenizer's {downscale}, not {side}")
        self.grid = (side // downscale, side // downscale)
        self.size = side
        self.group_weights = self.find_group_weights()
        self.order = self.find_order()
        # A wrong model should be named before the pictures are encoded, which takes minutes.
        self.make_model_config(config.text.vocab_size)
        with first_alone():
            self.cache = make_cache(config, self.tokenizer)
            self.groups = [self.make_groups(number) for number in self.group_weights]
            text_path = self.find_text_tokenizer()
        counts = torch.bincount(self.cache.tokens.flatten(), minlength=self.tokenizer.config.codebook_size)
        self.frequency = counts / counts.sum()
        device = find_device(config.loop.device)
        self.group_ids = [groups.ids.to(device) for groups in self.groups]
        self.text = TextTokenizer.from_file(text_path)
        self.text_json = text_path.read_text(encoding="utf-8")
        self.model_config = self.make_model_config(self.text.vocab_size)
        self.model = Denoiser(self.model_config)
        if config.start_from:
            self.start_from(config.start_from)
        else:
            generator = torch.Generator().manual_seed(config.seed)
            self.model.init_weights(generator)
            init_codes(self.model, self.codebook, generator)
        if config.code_network:
            self.add_code_networks(counts)
        if config.compile:
            check_compiler(device)
            compile_layers(self.model)
        length = self.model_config.slots(*self.grid) + self.model_config.max_prompt_tokens
        few = len(self.cache) * length <= _IDS_AHEAD
        self.encoded = self.prompts(self.cache.captions) if few else None

    @property
    def codebook(self) -> torch.Tensor:
        """(V, C) the image tokenizer's codes."""
        return self.tokenizer.quantize.embedding.weight.detach()

    def make_model_config(self, vocab_size: int) -> DenoiserConfig:
        """The configuration's `model` section, and what follows from the rest of it."""
        config, objective = self.config, self.config.objective
        known = {field.name for field in dataclasses.fields(DenoiserConfig)} - {"rope"} | {"rope_parameters"}
        check_model_keys(config.model, known)
        return DenoiserConfig.from_dict(
            {
                "model_type": MODEL_TYPE,
                "codebook_size": self.tokenizer.config.codebook_size,
                "vocab_size": vocab_size,
                "image_size": self.size,
                "mm_vqvae": "vq",
                "flip_ratio": objective.flip_ratio,
                "prompt_drop_rate": objective.prompt_drop_rate,
                "gen_edit_loss_weight": objective.edit_loss_weight,
                "group_ce_weight": format_group_weights(self.group_weights),
                **config.model,
            }
        )

    def find_group_weights(self) -> dict[int, float]:
        """The configuration's weights of grouped cross-entropy by number of groups, or those of `start_from`."""
        weights = self.config.objective.group_weights
        if weights is None:
            start = self.config.start_from
            return load_config(start).group_weights if start else {}
        codes = self.tokenizer.config.codebook_size
        for number in weights:
            if number > codes:
                raise SmaltiError(
                    f"objective.group_weights must have at most {codes} groups, one a code, not {number}"
                )
        return weights

    def find_order(self) -> tuple[int, ...]:
        """Raster indices in the order in which the model's own sampling settings reveal them, if training asks."""
        if not self.config.objective.ordered:
            return ()
        name = self.config.model.get("sampling", {}).get("order")
        if name == "halton":
            return halton_order(*self.grid)
        if name == "stratified":
            StratifiedOrder().check(*self.grid)
            return stratified_order(self.grid[0])
        raise SmaltiError(
            f"objective.ordered needs model.sampling.order to be halton or stratified, not {name!r}"
        )

    def make_groups(self, number: int) -> CodeGroups:
        """That many groups of codes, kept in the cache beside the tokens."""
        path = Path(self.config.cache.path) / file_name("groups", number)
        if path.exists():
            return CodeGroups.load(path, self.codebook)
        groups = CodeGroups.from_kmeans(self.codebook, number, seed=self.config.seed)
        groups.save(path)
        return groups

    def find_text_tokenizer(self) -> Path:
        """The file of the text tokenizer: that of `start_from`, or one trained on the captions."""
        config = self.config
        if config.start_from:
            return Path(config.start_from) / "tokenizer.json"
        path = Path(config.cache.path) / f"tokenizer-{config.text.vocab_size}.json"
        if not path.exists():
            train_text_tokenizer(self.cache.captions[: config.text.captions], config.text.vocab_size, path)
        return path

    def start_from(self, folder: str) -> None:
        """Take the weights of another model of the same shape and the same codes.

        A convolution over the prompt that the other does not have starts at zero, where it does nothing.
        """
        if fingerprint(load_image_tokenizer(folder)) != fingerprint(self.tokenizer):
            raise SmaltiError(
                f"start_from: {folder} has another image tokenizer than tokenizer: {self.config.tokenizer}"
            )
        state = load_denoiser(folder).state_dict()
        for name, weight in self.model.state_dict().items():
            if name.startswith("prompt_convolution.") and name not in state:
                state[name] = torch.zeros_like(weight)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise SmaltiError(f"start_from: {folder} has another shape than model: asks for") from error

    def add_code_networks(self, counts: torch.Tensor) -> None:
        """Let networks learn the codes' vectors, from those of `start_from` on if there is one."""
        generator = torch.Generator().manual_seed(self.config.seed)
        modules = (self.model.gen_embedding, self.model.gen_predictor)
        networks = add_code_networks(self.model, self.codebook, self.config.code_network, generator)
        for module, network in zip(modules, networks, strict=True):
            table = module.parametrizations.weight.original.detach()
            if not self.config.start_from:
                table[: len(self.codebook)] = 0
            elif not latest_checkpoint(Path(self.config.output)):
                device = find_device(self.config.loop.device)
                fitted = table.to(device)
                network.to(device).fit(fitted, counts.to(device))
                table.copy_(fitted)
                network.cpu()

    def prompts(self, captions: list[str]) -> PromptBatch:
        """Captions in the model's template, with slots for its grid."""
        slots = self.model_config.slots(*self.grid)
        return build_prompts(
            captions, self.model_config.prompt, self.text, height=self.size, width=self.size, slots=slots
        )

    def batch(self, index: int) -> Batch:
        loop, objective = self.config.loop, self.config.objective
        rows = shuffled_indices(len(self.cache), index * loop.batch_size, loop.batch_size, self.config.seed)
        # One generator a batch, seeded by its number, makes a resumed run see what an uninterrupted one would.
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + index) % 2**62)
        targets = self.cache.tokens[rows].long()
        corrupted = corrupt(
            targets,
            codebook_size=self.model_config.codebook_size,
            mask_code=self.model_config.mask_code,
            flip_ratio=objective.flip_ratio,
            mask_power=objective.mask_power,
            ordered=objective.ordered,
            order=self.order,
            rare_first=objective.rare_first,
            boxes=objective.boxes,
            frequency=self.frequency,
            generator=generator,
        )
        dropped = torch.rand(len(rows), generator=generator) < objective.prompt_drop_rate
        if self.encoded is None:
            prompt = self.prompts([self.cache.captions[row] for row in rows])
        else:
            prompt = self.encoded.select(rows)
        prompt = prompt.drop(dropped)
        return Batch(targets, corrupted.tokens, corrupted.masked, prompt)

    def loss(
        self, batch: Batch, index: int, step: int
    ) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        batch = Batch(*(part.to(self.config.loop.device) for part in batch))
        batch, drafted = self.with_drafts(batch, index, step)
        hidden = self.model(batch.tokens, batch.prompt)
        loss = denoising_loss(
            hidden,
            self.model.head,
            batch.targets,
            batch.masked,
            edit_loss_weight=self.config.objective.edit_loss_weight,
            groups=self.group_ids,
            group_weights=list(self.group_weights.values()),
            focus=self.config.objective.focus,
        )
        numbers = {
            "loss_masked": loss.masked,
            "loss_visible": loss.visible,
            "accuracy": loss.accuracy,
            **drafted,
        }
        for number, value, hit in zip(self.group_weights, loss.group, loss.group_accuracy, strict=True):
            numbers |= {f"loss_group_{number}": value, f"accuracy_group_{number}": hit}
        return loss.total, numbers

    def with_drafts(self, batch: Batch, index: int, step: int) -> tuple[Batch, dict[str, torch.Tensor]]:
        """The batch with some of its masks filled by the model, and which share of those tokens is right."""
        drafts = self.config.objective.drafts
        if drafts is None:
            return batch, {}
        if step < drafts.start_step:
            return batch, {"drafts_right": torch.zeros(())}
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + index) % 2**62 + 1)
        drafted = draft(
            self.model,
            Corrupted(batch.tokens, batch.masked),
            batch.prompt,
            share=drafts.share,
            passes=drafts.passes,
            order=self.order,
            generator=generator,
        )
        # Autocast keeps weights that were cast without a gradient, and would use them for the pass that needs one.
        torch.clear_autocast_cache()
        laid = batch.masked & ~drafted.masked
        right = (laid & (drafted.tokens == batch.targets)).sum() / laid.sum().clamp_min(1)
        return batch._replace(tokens=drafted.tokens, masked=drafted.masked), {"drafts_right": right}

    def averaged(self, average: dict[str, torch.Tensor]) -> Denoiser:
        """A denoiser with the averaged weights, on the CPU."""
        denoiser = Denoiser(self.model_config)
        if self.config.code_network:
            add_code_networks(denoiser, self.codebook, self.config.code_network, torch.Generator())
        denoiser.load_state_dict(average)
        if self.config.code_network:
            fold_code_networks(denoiser)
        return denoiser.eval()

    def preview(self, average: dict[str, torch.Tensor], path: Path) -> dict[str, float]:
        captions = [caption for caption in self.config.preview_prompts for _ in range(2)]
        generators = [torch.Generator().manual_seed(number % 2) for number in range(len(captions))]
        settings = GenerationSettings().replaced(**self.model_config.sampling)
        fewest = min(settings.num_inference_steps, self.grid[0] * self.grid[1])
        settings = settings.replaced(num_inference_steps=fewest)
        steps = sample(
            self.averaged(average),
            self.prompts(captions),
            grid=self.grid,
            sampler=make_sampler(settings),
            generators=generators,
        )
        *_, last = steps
        save_grid(self.tokenizer.to_pixels(last.tokens), path, columns=min(8, len(captions)))
        return {}

    def export(self, average: dict[str, torch.Tensor], folder: Path) -> None:
        save_denoiser(self.averaged(average), folder, dtype=torch.bfloat16)
        save_image_tokenizer(self.tokenizer, folder / self.model_config.mm_vqvae, dtype=torch.bfloat16)
        write_text_atomic(folder / "tokenizer.json", self.text_json)
        for groups in self.groups:
            groups.save(folder / file_name(groups.kind, groups.count))


@torch.no_grad()
def init_codes(denoiser: Denoiser, codebook: torch.Tensor, generator: torch.Generator) -> None:
    """Start the embedding and the head of image tokens as random projections of the codes, at the same variance.

    Codes that look alike then start alike, which a model from scratch would otherwise have to find out code by code.

    Args:
        codebook: (V, C) float.
    """
    codes = codebook / codebook.norm(dim=1, keepdim=True).clamp_min(1e-8)
    for weight in (denoiser.gen_embedding.weight, denoiser.gen_predictor.weight):
        projection = torch.randn(codes.shape[1], weight.shape[1], generator=generator)
        weight[: len(codes)] = 0.02 * codes @ projection


def train_denoiser(config: DenoiserRunConfig) -> dict[str, float]:
    """Run or resume `smalti train`; returns the last log entry."""
    return spread(_run, config)


def _run(config: DenoiserRunConfig) -> dict[str, float]:
    return train(DenoiserTask(config), config)
