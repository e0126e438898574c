"""An encoder as verifier, on a tiny one with random weights."""

import json
import logging

import numpy as np
import pytest
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from specact_rl.errors import ConfigError, ModelError
from specact_rl.metrics.discrimination import auroc
from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers import VERIFIERS, EncoderVerifier
from specact_rl.verifiers.base import Item
from tests.records import make_step

WORDS = (
    "find the red blue lamp door open close user tools query done wrong right : ( ) , ? a".split()
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with an encoder that has no head yet."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def item(propose, response, request="find the red lamp", tools=1):
    tool = ToolSpec(name="open", description="open a door")
    step = make_step(request, name=f"{request}/0", tools=[tool] * tools)
    proposal = propose(step, Action(type="final_answer", text=response))
    return Item(step=step, proposal=proposal, siblings=(proposal,))


@pytest.fixture(scope="module")
def labelled(propose):
    texts = ["right lamp", "wrong lamp", "right door", "wrong door", "right", "wrong"] * 8
    rows = [item(propose, text) for text in texts]
    return rows, np.array([text.startswith("right") for text in texts])


@pytest.fixture(scope="module")
def verifier(encoder, labelled):
    rows, labels = labelled
    return EncoderVerifier.fit(rows, labels, encoder=encoder, seed=0, epochs=8, learning_rate=5e-3)


def test_encoder_learns_what_the_response_says(verifier, labelled):
    rows, labels = labelled
    assert auroc(verifier.judge(rows).log_odds, labels).value == 1.0


def test_encoder_judges_a_batch_as_its_rows(verifier, propose):
    rows = [item(propose, "right lamp " * n) for n in (1, 9, 3, 2)]
    together = verifier.judge(rows).log_odds
    alone = [verifier.judge([row]).log_odds[0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_equal_texts_are_computed_once(verifier, propose):
    judged = verifier.judge([item(propose, "right"), item(propose, "right")])
    assert judged.log_odds[0] == judged.log_odds[1]
    assert judged.num_tokens[0] > 0 == judged.num_tokens[1]


def test_long_catalogue_is_cut_and_the_response_stays(encoder, labelled, propose, caplog):
    rows, labels = labelled
    long = [item(propose, "wrong lamp", tools=30), item(propose, "right lamp", tools=30)]
    with caplog.at_level(logging.WARNING):
        cut = EncoderVerifier.fit(
            [*rows, *long],
            np.append(labels, [False, True]),
            encoder=encoder,
            seed=0,
            epochs=8,
            learning_rate=5e-3,
        )
    assert cut.num_cut == 2
    assert "2 of 50 rows were cut to 64 tokens" in caplog.text
    judged = cut.judge(long)
    assert judged.num_tokens.tolist() == [64, 64]
    assert judged.log_odds[0] < judged.log_odds[1]


def test_endless_response_is_judged_all_the_same(verifier, propose):
    judged = verifier.judge([item(propose, "wrong " * 200)])
    assert judged.num_tokens.tolist() == [64]
    assert np.isfinite(judged.log_odds).all()


def test_saved_encoder_comes_back_and_scores_as_it_did(verifier, labelled, tmp_path):
    rows, _ = labelled
    verifier.save(tmp_path / "v")
    loaded = EncoderVerifier.load(tmp_path / "v")
    assert loaded.verifier_id == verifier.verifier_id
    assert not list((tmp_path / "v").glob("*.bin"))
    np.testing.assert_allclose(
        loaded.judge(rows).log_odds, verifier.judge(rows).log_odds, atol=1e-6
    )


def test_folder_that_is_no_saved_encoder_is_refused(verifier, encoder, tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        EncoderVerifier.load(encoder)
    verifier.save(tmp_path)
    config = json.loads((tmp_path / "verifier.json").read_text())
    (tmp_path / "verifier.json").write_text(json.dumps(config | {"max_length": 32}))
    with pytest.raises(ConfigError, match="changed after"):
        EncoderVerifier.load(tmp_path)
    (tmp_path / "verifier.json").write_text("{}")
    with pytest.raises(ConfigError, match="kind 'encoder'"):
        EncoderVerifier.load(tmp_path)


def test_encoder_that_is_not_there_is_refused(labelled, tmp_path):
    rows, labels = labelled
    with pytest.raises(ModelError, match="can be loaded"):
        EncoderVerifier.fit(rows, labels, encoder=tmp_path, seed=0)


def test_encoder_needs_both_labels(labelled, encoder):
    rows, labels = labelled
    with pytest.raises(ValueError, match="both labels"):
        EncoderVerifier.fit(rows, np.ones_like(labels), encoder=encoder, seed=0)


def test_cost_of_an_encoder_is_that_of_its_model(verifier):
    assert isinstance(verifier.model, BertForSequenceClassification)
    assert verifier.size.num_params > 0
    assert VERIFIERS["encoder"] is EncoderVerifier
