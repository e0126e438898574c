import numpy as np
import pytest

from specact_rl.metrics.resampling import cluster_codes


@pytest.mark.parametrize(
    "ids",
    [
        [3, 1, 1, 0],
        [5, 2, 7, 2, 2, 5],
        [-1, 4, -1],
        [10**12, 3, 10**12],
        ["b", "a", "b"],
        [0],
        np.array([2, 0, 2], dtype=np.uint8),
        np.array([True, False, True]),
    ],
)
def test_codes_are_in_sorted_order_of_the_ids(ids):
    unique, expected = np.unique(np.asarray(ids), return_inverse=True)
    codes, num_clusters = cluster_codes(ids, len(ids))
    assert codes.tolist() == expected.tolist()
    assert codes.dtype == np.int64
    assert num_clusters == unique.size


def test_one_id_per_row_is_needed():
    with pytest.raises(ValueError, match="must have shape"):
        cluster_codes([1, 2], 3)
