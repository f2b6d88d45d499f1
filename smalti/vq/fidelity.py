"""How well an image tokenizer keeps images: PSNR and SSIM of the round trip, and use of the codebook."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from smalti.vq.tokenizer import ImageTokenizer


def psnr(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio of each pair in dB: two (B, 3, H, W) uint8 to (B,) float32.

    Example:
        >>> import torch
        >>> black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        >>> round(psnr(black, black + 1).item(), 1)
        48.1
    """
    error = (images.float() - others.float()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(255.0**2 / error.clamp_min(1e-10))


def ssim(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity of each pair (Wang et al., 2004): two (B, 3, H, W) uint8 to (B,) float32.

    Means and variances are taken in a Gaussian window of 11×11 pixels with a deviation of 1.5. Windows that leave the
    image do not count. The channels have equal weight.

    Example:
        >>> import torch
        >>> image = torch.arange(3 * 16 * 16).reshape(1, 3, 16, 16).remainder(256).to(torch.uint8)
        >>> ssim(image, image).item()
        1.0
    """
    line = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / (2 * 1.5**2)).to(images.device)
    line = (line / line.sum()).expand(3, 1, -1)

    def blur(values: torch.Tensor) -> torch.Tensor:
        """Return the mean in each window."""
        across = F.conv2d(values, line[:, :, None, :], groups=3)
        return F.conv2d(across, line[:, :, :, None], groups=3)

    # In double precision, a variance as the difference of two large numbers stays exact enough.
    x, y = images.double(), others.double()
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    low, high = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + low) * (2 * covariance + high)
    similar = similar / ((mean_x**2 + mean_y**2 + low) * (var_x + var_y + high))
    return similar.flatten(1).mean(dim=1).float()


@torch.no_grad()
def measure_fidelity(
    tokenizer: ImageTokenizer, images: torch.Tensor, batch_size: int = 16
) -> dict[str, float]:
    """Measure the round trip of images through tokens.

    Args:
        tokenizer: the image tokenizer, on any device.
        images: (N, 3, H, W) uint8, sides divisible by the tokenizer's downscale.
        batch_size: number of images that are encoded at once.

    Returns:
        The same as `summarize_fidelity`.
    """
    values, counts = [], torch.zeros(tokenizer.config.codebook_size)
    device = tokenizer.device
    for part in images.split(batch_size):
        tokens = tokenizer.from_pixels(part.to(device))
        values.append(psnr(part, tokenizer.to_pixels(tokens).cpu()))
        counts += torch.bincount(tokens.flatten().cpu(), minlength=len(counts))
    return summarize_fidelity(torch.cat(values), counts)


def summarize_fidelity(decibels: torch.Tensor, counts: torch.Tensor) -> dict[str, float]:
    """Return the scores of many round trips.

    Args:
        decibels: (N,) float32, the PSNR of each image.
        counts: (codebook size,) number of tokens of each code.

    Returns:
        `psnr`: mean over the images, in dB.
        `psnr_pooled`: PSNR of the mean squared error over all images, in dB.
        `codes_used`: fraction of the codebook that the images use.
        `perplexity`: exponential of the entropy of the code distribution.
    """
    share = counts / counts.sum()
    return {
        "psnr": round(float(decibels.mean()), 3),
        "psnr_pooled": round(float(-10 * torch.log10((10 ** (-decibels / 10)).mean())), 3),
        "codes_used": round(float((counts > 0).float().mean()), 4),
        "perplexity": round(math.exp(float(-(share * share.clamp_min(1e-12).log()).sum())), 1),
    }
