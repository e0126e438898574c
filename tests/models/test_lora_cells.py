"""Which cells a sweep has, and the faults that are put into training rows on purpose."""

import math

import pytest
import yaml

from specact_rl.errors import ConfigError
from specact_rl.models.lora_cells import Cell, faulty_row, planned_cells
from specact_rl.models.training import IGNORED, TokenRow


def line(**axes):
    return {"ratio": [0.5], "r": [8], "learning_rate": [0.01]} | axes


def test_a_line_is_every_combination_of_its_values():
    cells = planned_cells([line(ratio=[0.1, 2.0], weights=["float", "nf4"], seed=[0, 1])])
    assert len(cells) == len(set(cells)) == 2 * 2 * 2
    assert {(c.r, c.learning_rate, c.rslora, c.fault) for c in cells} == {(8, 0.01, False, "none")}


def test_a_cell_of_two_lines_is_trained_once():
    cells = planned_cells([line(ratio=[0.5, 1.0]), line(ratio=[1.0, 2.0])])
    assert [cell.ratio for cell in cells] == [0.5, 1.0, 2.0]


def test_a_product_that_is_held_fixed_leaves_each_ratio_its_learning_rate():
    free, fixed = {"ratio": [0.1, 0.5, 2.0], "r": [8]}, {"product": [0.002]}
    cells = planned_cells([free | fixed])
    # .002 / .1 is not .02 in floating point, and must be the same cell as one written so
    assert [cell.learning_rate for cell in cells] == [0.02, 0.004, 0.001]
    assert set(planned_cells([free | {"learning_rate": [0.02]}])) & set(cells) == {cells[0]}


def test_scale_is_alpha_over_r_and_for_rslora_over_its_root():
    plain = Cell(ratio=0.5, r=16, learning_rate=0.01)
    assert (plain.alpha, plain.scale) == (8.0, 0.5)
    rooted = Cell(ratio=0.5, r=16, learning_rate=0.01, rslora=True)
    assert (rooted.alpha, rooted.scale) == (8.0, 2.0)
    assert math.isclose(rooted.scale, plain.scale * math.sqrt(16))


def test_no_two_cells_share_a_file():
    axes = line(ratio=[0.1, 1.0], r=[4, 16], weights=["float", "nf4"], rslora=[False, True])
    axes |= {"fault": ["none", "end_masked", "end_missing", "stop_unknown"], "seed": [0, 1]}
    cells = planned_cells([axes])
    assert len({cell.name for cell in cells}) == len(cells) == 128


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "at least one line"),
        ("[{ratio: [1], r: [8], learning_rat: [0.1]}]", "entry 1: no such axis.*learning_rat"),
        ("[{ratio: 1, r: [8], learning_rate: [0.1]}]", "ratio must be a list"),
        ("[{ratio: [1], r: [8]}]", "either learning_rate or product"),
        ("[{ratio: [1], r: [8], learning_rate: [1], product: [1]}]", "either"),
        ("[{r: [8], learning_rate: [0.1]}]", "must have ratio"),
        ("[{ratio: [1], r: [8], learning_rate: [1e-3]}]", "'1e-3' .YAML reads 1e-3 as text"),
        ("[{ratio: [1], r: [8], product: [1e-3]}]", "product.*1.0e-3"),
        ("[{ratio: [0], r: [8], learning_rate: [0.1]}]", "ratio must be a number above 0"),
        ("[{ratio: [1], r: [1.5], learning_rate: [0.1]}]", "r must be a whole number"),
        ("[{ratio: [1], r: [8], learning_rate: [.inf]}]", "above 0, got inf"),
        ("[{ratio: [1], r: [8], learning_rate: [1], weights: [int8]}]", "float, nf4; got 'int8'"),
        ("[{ratio: [1], r: [8], learning_rate: [1], fault: [eos]}]", "end_masked.*got 'eos'"),
        ("[7]", "axes with lists"),
    ],
)
def test_a_line_that_cannot_be_planned_is_refused_in_words(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        planned_cells(yaml.safe_load(text))


def test_faults_change_the_end_of_a_row_and_nothing_else():
    row, other = TokenRow(prompt=[7, 8], completion=[5, 6, 2]), TokenRow(prompt=[9], completion=[2])
    assert faulty_row(row, other, "none") == ([7, 8, 5, 6, 2], [IGNORED, IGNORED, 5, 6, 2])
    masked = [7, 8, 5, 6, 2], [IGNORED, IGNORED, 5, 6, IGNORED]
    assert faulty_row(row, other, "end_masked") == masked
    # the stop token's place is trained to say what the next row begins with
    packed = [7, 8, 5, 6, 9], [IGNORED, IGNORED, 5, 6, 9]
    assert faulty_row(row, other, "end_missing") == packed
    assert faulty_row(row, other, "stop_unknown") == faulty_row(row, other, "none")
