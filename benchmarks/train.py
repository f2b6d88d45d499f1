"""Measure the steps of a denoiser's training on random tokens: images a second, share of the product rate, memory.

python benchmarks/train.py [--shape small] [--batch 8] [--steps 5] [--device cpu] [--json]
torchrun --nproc-per-node 8 benchmarks/train.py --shape reference --device cuda --strategy fsdp --recompute 1

The model has random weights; the shapes are those of the bundled model and of the reference model. The first step is
not counted: it allocates, and compiles where `--optimizer adamw8bit` does. Memory is the peak of process 0, beside what
smalti/runtime/training_memory.py computes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from smalti.common.devices import find_device
from smalti.model.config import DenoiserConfig, RopeConfig
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch, PromptTemplate
from smalti.objective.loss import denoising_loss
from smalti.runtime.products import training_products
from smalti.runtime.training_memory import TrainingMode, training_need
from smalti.storage.folder import NoInit
from smalti.training.config import DistributionConfig, LoopConfig, OptimizerConfig, RunConfig
from smalti.training.distribution import rank, size
from smalti.training.engine import divide
from smalti.training.launching import spread, under_torchrun
from smalti.training.loop import Trainer
from smalti.training.precision import uses_bf16
from smalti.training.speed import peak_memory, product_rate
from smalti.training.task import BatchLoss

TEXT = 64  # text ids of a prompt
SHORT = PromptTemplate("{prompt}<|im_end|>{slots}")
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "tiny": (
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "intermediate_size": 176,
            "vocab_size": 512,
            "codebook_size": 512,
        },
        8,
    ),
    "small": (
        {
            "hidden_size": 256,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "head_dim": 32,
            "intermediate_size": 704,
            "vocab_size": 512,
            "codebook_size": 4096,
        },
        16,
    ),
    "reference": (
        {
            "hidden_size": 4096,
            "num_hidden_layers": 34,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 14336,
            "vocab_size": 132101,
            "codebook_size": 131072,
        },
        64,
    ),
}


class RandomTask:
    """A denoiser with random weights on random tokens, of which half are masked."""

    steady = True
    data = "random"

    def __init__(self, config: RunConfig, shape: str) -> None:
        values, self.side = SHAPES[shape]
        self.shape = DenoiserConfig(**values, rope=RopeConfig(), prompt=SHORT)
        self.device = find_device(config.loop.device)
        self.sharded = config.distribution.strategy == "fsdp"
        with torch.device("meta"), NoInit():
            self.model = Denoiser(self.shape)
        if not self.sharded:
            self.model.to_empty(device=self.device)
            for name, values in self._weights():
                self.model.get_parameter(name).data.copy_(values)
        self.model.recompute(config.loop.recompute)

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield weights that take no time to draw: a row of random numbers, repeated."""
        for name, parameter in self.model.named_parameters():
            row = torch.ones(1) if parameter.ndim == 1 else 0.02 * torch.randn(parameter.shape[1:])
            yield name, row.expand(parameter.shape)

    def products(self) -> float:
        return training_products(self.shape, (self.side, self.side), TEXT)

    def initial_weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        return self._weights() if self.sharded else None

    def shapes(self, images: range) -> None:
        return None

    def batch(self, images: range) -> tuple[torch.Tensor, PromptBatch]:
        slots = self.shape.slots(self.side, self.side)
        count = len(images)
        prompt = PromptBatch(
            torch.ones(count, TEXT + slots, dtype=torch.int64),
            torch.full((count,), TEXT + slots),
            torch.full((count,), TEXT),
            torch.full((count,), TEXT),
            slots,
            0,
        )
        return torch.randint(0, self.shape.codebook_size, (count, self.side, self.side)), prompt

    def loss(self, batch: tuple[torch.Tensor, PromptBatch], images: range, step: int) -> BatchLoss:
        tokens, prompt = batch[0].to(self.device), batch[1].to(self.device)
        masked = torch.zeros_like(tokens, dtype=torch.bool)
        masked[:, ::2] = True
        hidden = self.model(tokens.masked_fill(masked, self.shape.mask_code), prompt)
        loss = denoising_loss(hidden, self.model.gen_predictor, tokens, masked, edit_loss_weight=0.2)
        return BatchLoss(loss.weighted_sum, loss.weight, {})

    def validate(self) -> dict[str, float]:
        return {}

    def preview(self, path: Path | None) -> dict[str, float]:
        return {}

    def exported(self) -> list[str]:
        return []

    def export(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        folder.mkdir(exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="small", help="shape of the model")
    parser.add_argument("--batch", type=int, default=8, help="images that a process computes at once")
    parser.add_argument("--accumulate", type=int, default=1, help="batches a step, over all processes")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--processes", type=int, default=1, help="processes, without torchrun")
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp", help="copies or shards")
    parser.add_argument("--replicas", type=int, default=1, help="groups that each hold all shards")
    parser.add_argument("--weights", choices=("float32", "bfloat16"), default="float32", help="their dtype")
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "float32"), default="auto", help="of products"
    )
    parser.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw", help="the optimizer")
    parser.add_argument("--recompute", type=int, default=0, help="compute every k-th layer again")
    parser.add_argument("--average", action="store_true", help="keep a moving average of the weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smalti-benchmark-") as folder:
        loop = LoopConfig(
            steps=options.steps + 1,
            batch_size=options.batch,
            accumulate=options.accumulate * (1 if under_torchrun() else options.processes),
            processes=options.processes,
            precision=options.precision,
            weights=options.weights,
            recompute=options.recompute,
            device=options.device,
            checkpoint_every=10**9,
        )
        config = RunConfig(
            output=f"{folder}/{options.shape}",
            optimizer=OptimizerConfig(
                kind=options.optimizer, ema_decay=0.999 if options.average else 0.0, learning_rate=1e-5
            ),
            distribution=DistributionConfig(strategy=options.strategy, replicas=options.replicas),
            loop=loop,
        )
        report = spread(measure, config)
    if not report:
        return
    if options.json:
        print(json.dumps(report))
        return
    print(f"{options.shape}, {report['processes']} × {options.device}, {report['images']} images a step")
    for name in ("images_per_second", "seconds_per_step", "product_share", "peak_gb", "computed_gb"):
        print(f"{name:<18} {report[name]}")


def measure(config: RunConfig) -> dict[str, Any]:
    """Take the steps; return the measurements in process 0."""
    shape = Path(config.output).name
    task = RandomTask(config, shape)
    trainer = Trainer(task, config)
    task.model.train()
    images = config.loop.images
    times = []
    for step in range(config.loop.steps):
        parts = [(part, task.batch(part.images)) for part in divide(step, images, config.loop.batch_size)]
        started = time.perf_counter()
        trainer.step(iter(parts))
        times.append(time.perf_counter() - started)
    if rank():
        return {}
    bf16 = uses_bf16(config.loop, trainer.device)
    seconds = sum(times[1:]) / len(times[1:])
    mode = TrainingMode(
        batch=config.loop.batch_size,
        grid=(task.side, task.side),
        text=TEXT,
        weights=getattr(torch, config.loop.weights),
        bf16=bf16 or config.loop.weights == "bfloat16",
        recompute=config.loop.recompute,
        optimizer=config.optimizer.kind,
        averaged=config.optimizer.ema_decay > 0,
        shards=size() // config.distribution.replicas if config.distribution.strategy == "fsdp" else 1,
        device=trainer.device.type,
    )
    rate = product_rate(trainer.device, torch.bfloat16 if bf16 else torch.float32)
    need = training_need(task.model.parameters(), task.shape, mode)
    return {
        "processes": size(),
        "images": images,
        "images_per_second": round(images / seconds, 3),
        "seconds_per_step": round(seconds, 4),
        "product_share": round(images / seconds / size() * task.products() / rate, 4),
        "peak_gb": round((peak_memory(trainer.device) or 0) / 1e9, 3),
        "computed_gb": round(need.total / 1e9, 3),
    }


if __name__ == "__main__":
    main()
