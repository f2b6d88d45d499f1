"""k-means over vectors, in chunks, reproducible by seed."""

from __future__ import annotations

import torch

from smalti.errors import SmaltiError

LARGEST = 1e15  # squares of larger coordinates could leave float32

_CHUNK_ELEMENTS = 2**24  # distances held at a time: 64 MB in float32
_PROPOSALS = 512  # centers proposed at a time
_MORE_ITERATIONS = 10  # most iterations for groups that the last one left empty


def nearest(points: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest center (K, C) of each point (N, C): indices (N,) int64 and squared distances (N,)."""
    # Products lose the digits that all vectors share, so these are subtracted first.
    middle = centers.mean(dim=0)
    shifted = centers - middle
    norms = shifted.square().sum(dim=1)
    indices, distances = [], []
    for part in points.split(max(1, _CHUNK_ELEMENTS // max(centers.shape))):
        closest = torch.addmm(norms, part - middle, shifted.T, alpha=-2).argmin(dim=1)
        indices.append(closest)
        # From the difference, not from the product: a copy of a center is then at distance 0 exactly.
        distances.append((part - centers[closest]).square().sum(dim=1))
    return torch.cat(indices), torch.cat(distances)


def plus_plus(
    points: torch.Tensor, count: int, generator: torch.Generator, distances: torch.Tensor | None = None
) -> torch.Tensor:
    """Seed k-means++ (Arthur & Vassilvitskii 2007): each next center is a point drawn by squared distance.

    Centers are drawn in batches, at the cost of one product of all points with all centers. The distances d² before a
    batch propose its points. A proposal is kept with probability d'² / d², where d'² includes the batch's centers so
    far. The kept points are distributed as if every center had been drawn from all points by d'².

    Once every point coincides with a center, further ones are drawn uniformly.

    Args:
        points: (N, C) float.
        count: number of centers to draw.
        generator: source of the random numbers.
        distances: (N,) squared distances to the nearest existing center; None if there are no centers.

    Returns:
        (count, C), each one of the points.
    """
    chosen: list[int] = []
    size = _PROPOSALS
    if distances is None:
        chosen = [int(torch.randint(len(points), (1,), generator=generator))]
        distances = (points - points[chosen]).square().sum(dim=1)
        size = 1
    while len(chosen) < count:
        mass = distances.cumsum(0, dtype=torch.float64)
        if not mass[-1] > 0:
            chosen += torch.randint(len(points), (count - len(chosen),), generator=generator).tolist()
            break
        draws = torch.rand(size, generator=generator, dtype=torch.float64) * mass[-1]
        proposals = torch.searchsorted(mass, draws, right=True).clamp_max(len(points) - 1)
        kept = proposals[_kept(points[proposals], distances[proposals], count - len(chosen), generator)]
        chosen += kept.tolist()
        if len(kept) and len(chosen) < count:
            distances = torch.minimum(distances, nearest(points, points[kept])[1])
        # No more than there are centers already: they would mostly be too near to each other.
        size = min(2 * size, _PROPOSALS)
    return points[chosen]


def _kept(
    proposals: torch.Tensor, distances: torch.Tensor, most: int, generator: torch.Generator
) -> list[int]:
    """Select the proposals (m, C), at squared distances (m,) from the older centers, that become centers."""
    exact = "donot_use_mm_for_euclid_dist"
    apart = torch.cdist(proposals, proposals, compute_mode=exact).square()
    limits = torch.rand(len(proposals), generator=generator, dtype=torch.float32) * distances
    distances = distances.clone()
    kept: list[int] = []
    for index in range(len(proposals)):
        if distances[index] > limits[index]:
            kept.append(index)
            if len(kept) == most:
                break
            torch.minimum(distances, apart[index], out=distances)
    return kept


def kmeans(
    points: torch.Tensor, count: int, *, iterations: int = 10, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster points (N, C) into `count` groups by Lloyd's iterations from a k-means++ start.

    A center that loses all its points is drawn again as k-means++ draws. No group is empty at the end: if there are
    fewer different points than groups, copies of a point are spread over several groups.

    Returns:
        centers (count, C) float32, assignment (N,) int64.

    Raises:
        SmaltiError: fewer points than groups, or points that are not finite (or beyond ±10¹⁵).
    """
    if not 1 <= count <= len(points):
        raise SmaltiError(f"the number of groups must be from 1 to {len(points)} (the points), not {count}")
    points = points.float()
    if not points.abs().max() <= LARGEST:
        raise SmaltiError(f"points must be finite numbers of at most {LARGEST:g}")
    centers = plus_plus(points, count, generator)
    assignment, distances = nearest(points, centers)
    for iteration in range(iterations + _MORE_ITERATIONS):
        sizes = torch.bincount(assignment, minlength=count)
        empty = (sizes == 0).nonzero().flatten()
        if (iteration >= iterations and not len(empty)) or not distances.any():
            break
        centers = _means(points, assignment, sizes)
        if len(empty):
            centers[empty] = plus_plus(points, len(empty), generator, distances)
        before = assignment
        assignment, distances = nearest(points, centers)
        if torch.equal(assignment, before):
            break
    _fill_empty(points, centers, assignment, distances)
    return centers, assignment


def _means(points: torch.Tensor, assignment: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return the mean (count, C) of each group's points; 0 for an empty group."""
    # In float64: in float32 a sum of many copies of a point drifts away from it.
    sums = torch.zeros(len(sizes), points.shape[1], dtype=torch.float64)
    size = max(1, _CHUNK_ELEMENTS // points.shape[1])
    for part, groups in zip(points.split(size), assignment.split(size), strict=True):
        sums.index_add_(0, groups, part.double())
    return (sums / sizes.clamp_min(1)[:, None]).float()


def _fill_empty(
    points: torch.Tensor, centers: torch.Tensor, assignment: torch.Tensor, distances: torch.Tensor
) -> None:
    """Fill each empty group, in place, with the point farthest from its center in a group of several."""
    sizes = torch.bincount(assignment, minlength=len(centers))
    empty = (sizes == 0).nonzero().flatten()
    order = assignment.argsort(stable=True)
    sizes = sizes[sizes > 0]
    first = order[sizes.cumsum(0) - sizes]
    moved = distances.index_fill(0, first, -1.0).topk(len(empty)).indices
    assignment[moved] = empty
    centers[empty] = points[moved]
