"""Verifiers: how likely a proposal is right. `VERIFIERS` names the kinds."""

from specact_rl.verifiers.base import Item, Judgements, Verifier
from specact_rl.verifiers.difference import DifferenceVerifier
from specact_rl.verifiers.encoder import EncoderVerifier
from specact_rl.verifiers.free import LinearVerifier, ProposerConfidence, SampleAgreement
from specact_rl.verifiers.models import ClassifierVerifier, StrongJudge
from specact_rl.verifiers.server_judge import ServerJudge
from specact_rl.verifiers.trees import TreesVerifier

VERIFIERS: dict[str, type[Verifier]] = {
    "classifier": ClassifierVerifier,
    "strong_judge": StrongJudge,
    "server_judge": ServerJudge,
    "proposer_logprob": ProposerConfidence,
    "sample_agreement": SampleAgreement,
    "linear": LinearVerifier,
    "trees": TreesVerifier,
    "encoder": EncoderVerifier,
    "difference": DifferenceVerifier,
}

__all__ = [
    "VERIFIERS",
    "ClassifierVerifier",
    "DifferenceVerifier",
    "EncoderVerifier",
    "Item",
    "Judgements",
    "LinearVerifier",
    "ProposerConfidence",
    "SampleAgreement",
    "ServerJudge",
    "StrongJudge",
    "TreesVerifier",
    "Verifier",
]
