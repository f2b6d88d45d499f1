"""Draw images from prompts with the bundled model.

python examples/draw.py [OUTPUT]

The folder OUTPUT (default: runs/draw) gets one image a prompt, the same prompt with other settings, and an animation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import smalti
from smalti.common.images import save_gif

PROMPTS = ["a red circle left of a blue square", "three blue stars"]


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)

    # Without an argument this is the bundled model. A folder, or a name on the Hugging Face hub, loads another one.
    pipe = smalti.load("scenes")

    # Image k of a batch has the seed seed + k. It looks the same when it is drawn alone.
    out = pipe(PROMPTS, num_inference_steps=16, seed=0)
    for image, prompt in zip(out.images, out.prompts, strict=True):
        image.save(output / f"{prompt.replace(' ', '-')}.png")

    # All other settings travel in one object. Rules are strings: a name, then parameters.
    settings = pipe.settings.replaced(order="history:window=8", budget="cosine", top_p=0.9)
    pipe(PROMPTS[0], settings=settings, seed=0).images[0].save(output / "other-settings.png")

    # A generation can be taken step by step, to show progress or to stop early.
    generation = pipe.start(PROMPTS[1], seed=0)
    steps = []
    for step in generation:
        steps.append(step)
        print(f"step {step.index + 1} of {step.steps} revealed {int(step.revealed.sum())} tokens")
    generation.output().images[0].save(output / "step-by-step.png")
    save_gif(pipe.frames(steps)[0], output / "unmasking.gif")
    print(f"{output} has the images")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/draw"))
