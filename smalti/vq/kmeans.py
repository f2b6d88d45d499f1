"""k-means over vectors, in chunks, reproducible by seed."""

from __future__ import annotations

import torch

from smalti.errors import SmaltiError

_CHUNK_ELEMENTS = 2**25  # distances held at a time: 128 MB in float32


def nearest(points: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each point (N, C) the nearest of the centers (K, C): indices (N,) int64 and squared distances (N,)."""
    norms = centers.square().sum(dim=1)
    indices, distances = [], []
    for part in points.split(max(1, _CHUNK_ELEMENTS // len(centers))):
        closest = torch.addmm(norms, part, centers.T, alpha=-2).min(dim=1)
        indices.append(closest.indices)
        distances.append((closest.values + part.square().sum(dim=1)).clamp_min(0))
    return torch.cat(indices), torch.cat(distances)


def plus_plus(points: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++ seeding (Arthur & Vassilvitskii 2007): each next center is a point drawn by squared distance.

    Once every point coincides with a center, further ones are drawn uniformly.
    """
    first = torch.randint(len(points), (1,), generator=generator)
    chosen = [first]
    distances = (points - points[first]).square().sum(dim=1)
    for _ in range(count - 1):
        total = distances.sum()
        draw = torch.rand(1, generator=generator)
        if total > 0:
            index = torch.searchsorted(distances.cumsum(0), draw * total).clamp_max(len(points) - 1)
        else:
            index = (draw * len(points)).long()
        chosen.append(index)
        distances = torch.minimum(distances, (points - points[index]).square().sum(dim=1))
    return points[torch.cat(chosen)]


def kmeans(
    points: torch.Tensor, count: int, *, iterations: int = 10, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster points (N, C) into `count` groups by Lloyd's iterations from a k-means++ start.

    A center that loses all its points moves to the point farthest from its own center.

    Returns:
        centers (count, C) float32, assignment (N,) int64.

    Raises:
        SmaltiError: fewer points than groups.
    """
    if not 1 <= count <= len(points):
        raise SmaltiError(f"the number of groups must be from 1 to {len(points)} (the points), not {count}")
    points = points.float()
    centers = plus_plus(points, count, generator)
    assignment, distances = nearest(points, centers)
    for _ in range(iterations):
        sizes = torch.bincount(assignment, minlength=count)
        sums = torch.zeros_like(centers).index_add_(0, assignment, points)
        centers = sums / sizes.clamp_min(1)[:, None]
        empty = (sizes == 0).nonzero().flatten()
        if len(empty):
            centers[empty] = points[distances.topk(len(empty)).indices]
        assignment, distances = nearest(points, centers)
    return centers, assignment
