"""Use grouped cross-entropy in a model of one's own.

python examples/gce_in_my_model.py [OUTPUT]

The model reads an image's tokens in raster order and predicts the next one. Grouped cross-entropy counts a code that
looks like the true one as nearly right. The folder OUTPUT (default: runs/my-model) gets the losses and the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import smalti
from smalti.ops.gce import grouped_cross_entropy
from smalti.vq.groups import CodeGroups
from smalti.worlds.scenes.world import Scenes


class NextToken(nn.Module):
    """A recurrent network from tokens, (B, n), to hidden vectors, (B, n, D). The operator multiplies by the head."""

    def __init__(self, codes: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)
        self.layers = nn.GRU(width, width, batch_first=True)
        self.head = nn.Parameter(torch.randn(codes, width) * width**-0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layers(self.embedding(tokens))[0]


def main(output: Path, steps: int = 30) -> None:
    torch.manual_seed(0)

    # Any codebook with a vector for each code will do. This one is the bundled model's, (4096, 16).
    components = smalti.load("scenes").components
    codebook = components.image_tokenizer.quantize.embedding.weight.detach()
    scenes = torch.stack([Scenes(size=256)[index]["image"] for index in range(8)])
    tokens = components.encode(scenes).flatten(1)

    # Codes whose vectors are close make a group.
    groups = CodeGroups.from_kmeans(codebook, 256, seed=0)

    model = NextToken(len(codebook))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        hidden = model(tokens[:, :-1]).flatten(0, 1)
        # The loss is −log p(code) − 0.5 · log p(group). The logits of all rows at once are never in memory.
        result = grouped_cross_entropy(hidden, model.head, tokens[:, 1:].flatten(), groups.ids, 0.5)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
        if step % 10 == 0 or step == steps - 1:
            code, group = result.token_hit.float().mean(), result.group_hit.float().mean()
            print(f"step {step}: loss {losses[-1]:.2f}; right code {code:.0%}, right group {group:.0%}")

    output.mkdir(parents=True, exist_ok=True)
    (output / "losses.json").write_text(json.dumps(losses))
    save_file(model.state_dict(), output / "model.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/my-model"))
