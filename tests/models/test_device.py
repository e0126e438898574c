"""What a run of operators spends its time on."""

import pytest
import torch

from specact_rl.models.device import operator_shares


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda a: a @ a, "products of matrices"),
        (lambda a: torch.cat([a, a]), "putting together and apart"),
        (
            lambda a: torch.nn.functional.scaled_dot_product_attention(*[a[None, None]] * 3),
            "attention",
        ),
    ],
)
def test_time_of_operators_goes_to_their_kind(run, kind):
    matrix = torch.ones(300, 300)
    shares = operator_shares(lambda: run(matrix))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[kind] > 0


def test_time_between_operators_is_a_kind_of_its_own_where_it_is_asked_for():
    def run():
        return torch.ones(2, 2) @ torch.ones(2, 2)

    assert operator_shares(run, between=True)["between operators"] > 0
    assert "between operators" not in operator_shares(run)
