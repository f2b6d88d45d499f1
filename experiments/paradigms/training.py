"""The trainings: one trainer, one order of images, one starting backbone; a paradigm has its own inputs and loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from paradigms.autoregression import Autoregressive
from paradigms.backbone import to_cells
from paradigms.flow import Flow, flow_error
from smalti.common.files import atomic_path, make_folder
from smalti.common.randomness import Draws, stream
from smalti.model.denoiser import Denoiser
from smalti.objective.loss import Mean, denoising_loss
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import Batch, DenoiserTask
from smalti.training.loop import Trainer
from smalti.training.preparing import DenoiserParts, codebook_of, prepare
from smalti.training.reading import load_config
from smalti.training.task import BatchLoss
from smalti.training.tokenizing import read_encoding, tokenize

PARADIGMS = ("masked", "autoregressive", "flow")
WEIGHTS = "model.safetensors"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Budget:
    """What the trainings have in common.

    Attributes:
        output: folder of the experiment.
        tokenizer: folder of the image tokenizer, or of a model that has one.
        data: section `data` of the images.
        distinct: different images of the token shards.
        images: images that a training sees.
        batch: images of a step.
        model: fields of the backbone's configuration, on top of those in `config`.
        config: configuration file with everything else.
        overrides: changes of all trainings, KEY=VALUE.
    """

    output: Path
    tokenizer: str
    data: dict[str, Any]
    distinct: int
    images: int
    batch: int
    model: dict[str, Any]
    config: str = str(ROOT / "configs/scenes.yaml")
    overrides: tuple[str, ...] = ()

    @property
    def shards(self) -> Path:
        """Folder of the token shards."""
        return self.output / "tokens"

    def folder(self, paradigm: str, seed: int) -> Path:
        """Return the folder of a training."""
        return self.output / f"{paradigm}-{seed}"

    def make_shards(self) -> None:
        """Encode the images, unless that was done."""
        values = {
            "output": str(self.shards),
            "tokenizer": self.tokenizer,
            "samples": self.distinct,
            "data": self.data,
        }
        tokenize(read_encoding({**values, "loop": {"batch_size": 32}}))

    def run_config(self, paradigm: str, seed: int) -> DenoiserRunConfig:
        """Return the configuration of a training. Embedding and head are plain tables, which learn faster here."""
        loop = {
            "steps": self.images // self.batch,
            "batch_size": self.batch,
            "preview_every": 10**6,
            "checkpoint_every": 100,
        }
        return load_config(
            DenoiserRunConfig,
            self.config,
            [
                f"output={self.folder(paradigm, seed)}",
                f"seed={seed}",
                f"tokenizer={self.tokenizer}",
                f"data={json.dumps({'kind': 'tokens', 'path': str(self.shards)})}",
                "cache=null",
                "code_network=null",
                *(f"model.{key}={json.dumps(value)}" for key, value in self.model.items()),
                f"loop={json.dumps(loop)}",
                *self.overrides,
            ],
        )


class PlainTask(DenoiserTask):
    """Masked diffusion as `smalti train` has it, without previews; the exported file holds the averaged weights."""

    def products(self) -> float:
        return 0.0

    def validate(self) -> dict[str, float]:
        return {}

    def preview(self, path: Path | None) -> dict[str, float]:
        return {}

    def initial_weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        return None

    def exported(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]

    def export(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        make_folder(folder)
        with atomic_path(folder / WEIGHTS) as path:
            save_file({name: value.contiguous() for name, value in weights.items()}, path)


class AutoregressiveTask(PlainTask):
    """Autoregression: every token from those before it."""

    def __init__(self, config: DenoiserRunConfig, parts: DenoiserParts) -> None:
        super().__init__(config, parts)
        self.model = Autoregressive(parts.model, stream(config.seed, "cell head"))

    def loss(self, batch: Batch, images: Sequence[int], step: int) -> BatchLoss:
        batch = batch.to(self.device)
        loss = denoising_loss(
            self.model(batch.targets, batch.prompt).flatten(1, 2),
            self.model.denoiser.gen_predictor,
            to_cells(batch.targets),
            torch.ones_like(batch.masked),
            edit_loss_weight=0.0,
        )
        return BatchLoss(
            loss.weighted_sum, loss.weight, {"loss_masked": loss.masked, "accuracy": loss.accuracy}
        )


class FlowTask(PlainTask):
    """Flow matching: the velocity at a random time; logit-normal times as in arXiv 2403.03206, section 3.1."""

    def __init__(self, config: DenoiserRunConfig, parts: DenoiserParts) -> None:
        super().__init__(config, parts)
        codebook = codebook_of(parts.image_tokenizer)
        self.model = Flow(parts.model, codebook, parts.counts, stream(config.seed, "flow"))

    def loss(self, batch: Batch, images: Sequence[int], step: int) -> BatchLoss:
        B, h, w = batch.targets.shape
        draws = Draws.of(self.config.seed, "flow", images)
        time = normal(draws, 1)[:, 0].sigmoid()
        noise = normal(draws, self.model.codebook.shape[1], h, w)
        batch = batch.to(self.device)
        error = flow_error(
            self.model, batch.targets, batch.prompt, noise.to(self.device), time.to(self.device)
        )
        count = torch.tensor(float(error.numel()))
        return BatchLoss(error.sum(), count, {"error": Mean(error.detach().sum(), count)})


def normal(draws: Draws, *shape: int) -> torch.Tensor:
    """Return normal numbers, (B, *shape), from uniform ones by Box and Muller's formula."""
    first, second = draws.uniform(*shape), draws.uniform(*shape)
    return (-2 * (1 - first).log()).sqrt() * (2 * torch.pi * second).cos()


TASKS = {"masked": PlainTask, "autoregressive": AutoregressiveTask, "flow": FlowTask}


def make_task(budget: Budget, paradigm: str, seed: int) -> PlainTask:
    """Return what the trainer trains, with its starting weights."""
    config = budget.run_config(paradigm, seed)
    return TASKS[paradigm](config, prepare(config))


def train(budget: Budget, paradigm: str, seed: int) -> None:
    """Train to the end, from the latest checkpoint if there is one; a finished training is left alone."""
    if not (budget.folder(paradigm, seed) / "model" / WEIGHTS).exists():
        Trainer(make_task(budget, paradigm, seed), budget.run_config(paradigm, seed)).run()


def load_trained(budget: Budget, paradigm: str, seed: int) -> PlainTask:
    """Return a finished training's task, whose model holds the averaged weights."""
    task = make_task(budget, paradigm, seed)
    task.model.load_state_dict(load_file(budget.folder(paradigm, seed) / "model" / WEIGHTS))
    task.model.to(task.device).eval()
    task.parts.image_tokenizer.to(task.device).eval()
    return task


def denoiser_of(model: nn.Module) -> Denoiser:
    """Return the denoiser whose layers are the model's backbone."""
    return model if isinstance(model, Denoiser) else model.denoiser
