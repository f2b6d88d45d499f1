"""The order of images: permutations by seed and pass, groups of one shape, two sets in one row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from smalti.data.order import Order, Shuffled, shuffled_rows


def test_the_order_of_earlier_versions_stays() -> None:
    assert shuffled_rows(7, range(14), seed=3) == [5, 6, 3, 1, 0, 2, 4, 2, 4, 6, 1, 5, 0, 3]


@pytest.mark.parametrize("together", [1, 3, 16])
def test_every_image_is_shown_once_a_pass_in_groups_of_one_shape(together: int) -> None:
    kinds = np.array([0] * 40 + [1] * 7 + [2] + [4] * 20, np.int16)
    order = Shuffled(68, seed=1, kinds=kinds, together=together)
    passes = [[order.row(position) for position in range(68 * n, 68 * (n + 1))] for n in range(3)]
    assert all(sorted(one) == list(range(68)) for one in passes)
    assert passes[0] != passes[1] and passes[1] != passes[2]
    again = Shuffled(68, seed=1, kinds=kinds, together=together)
    assert [again.row(position) for position in range(100, 130)] == (passes[1] + passes[2])[32:62]
    changes = sum(a != b for a, b in zip(kinds[passes[0]], kinds[passes[0]][1:], strict=False))
    assert changes <= sum(-(-count // together) for count in Counter(kinds.tolist()).values())


def test_two_sets_share_a_row_evenly() -> None:
    for share in (0.1, 0.25, 1 / 3, 0.5, 0.9):
        order = Order(Shuffled(10, seed=0), Shuffled(4, seed=0, purpose="other"), share)
        places = order.places(range(2000))
        second = [place.row for place in places if place.part == 1]
        first = [place.row for place in places if place.part == 0]
        assert abs(len(second) - share * 2000) <= 1
        assert sorted(second[:4]) == [0, 1, 2, 3] and sorted(first[:10]) == list(range(10))
        far = 10**15
        assert order.places([far, far + 1]) == order.places(range(far, far + 2))
        assert [place.part for place in order.places(range(1000, 1010))] == [
            place.part for place in places[1000:1010]
        ]
