"""The named systems: who proposes, who judges, who falls back. Data, not code.

A to E are the source report's; `-nf` rows are as it had them, without a fallback. All but the
`-dpo` ones use the SFT proposer. Adding a system is adding a line.
"""

from __future__ import annotations

from dataclasses import dataclass

NUM_PROPOSALS = 3
"""Proposals per step in E."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One configuration of proposer, verifier, gate and fallback."""

    name: str
    title: str
    proposer: str | None = None
    """Role of the model that proposes; None asks the strong model at once."""
    num_proposals: int = 1
    num_compared: int = 1
    """Samples that the verifier compares, drawn and paid for though not all are offered."""
    verifier: str | None = None
    """Key of the scores that gate; None accepts every parsable proposal."""
    fallback: bool = True
    """Whether a rejected step goes to the strong model. False: the best proposal stands."""

    @property
    def gated(self) -> bool:
        """Whether a gate is fitted for it."""
        return self.verifier is not None and self.fallback


_TABLE = (
    System(name="A", title="strong only"),
    System(name="B", title="cheap only", proposer="cheap", fallback=False),
    System(name="C", title="cheap + strong judge", proposer="cheap", verifier="strong_judge"),
    System(name="D", title="cheap + trained verifier", proposer="cheap", verifier="classifier"),
    System(
        name="E",
        title=f"{NUM_PROPOSALS} proposals + verifier picks",
        proposer="cheap",
        num_proposals=NUM_PROPOSALS,
        verifier="classifier",
    ),
    System(name="D-rm", title="cheap + reward model", proposer="cheap", verifier="reward_model"),
    System(
        name="D-logp", title="cheap + own confidence", proposer="cheap", verifier="proposer_logprob"
    ),
    System(name="D-lin", title="cheap + linear features", proposer="cheap", verifier="linear"),
    System(
        name="D-lin+",
        title="cheap + linear features and confidence",
        proposer="cheap",
        verifier="linear_with_confidence",
    ),
    System(
        name="E-lin+",
        title=f"{NUM_PROPOSALS} proposals + linear features and confidence pick",
        proposer="cheap",
        num_proposals=NUM_PROPOSALS,
        verifier="linear_with_confidence",
    ),
    System(
        name="D-agree",
        title="cheap + agreement of samples",
        proposer="cheap",
        num_compared=NUM_PROPOSALS,
        verifier="sample_agreement",
    ),
    System(name="B-dpo", title="DPO proposer only", proposer="cheap_dpo", fallback=False),
    System(
        name="D-dpo",
        title="DPO proposer + trained verifier",
        proposer="cheap_dpo",
        verifier="classifier",
    ),
    System(
        name="D-nf",
        title="D without fallback (as the source report)",
        proposer="cheap",
        verifier="classifier",
        fallback=False,
    ),
    System(
        name="E-nf",
        title="E without fallback: the verifier's pick",
        proposer="cheap",
        num_proposals=NUM_PROPOSALS,
        verifier="classifier",
        fallback=False,
    ),
)
SYSTEMS: dict[str, System] = {system.name: system for system in _TABLE}


def num_judged(verifier: str, proposer: str) -> int:
    """Samples of a step that some system shows to a verifier; 1 if no system has the two."""
    systems = [s for s in SYSTEMS.values() if (s.verifier, s.proposer) == (verifier, proposer)]
    return max((max(s.num_proposals, s.num_compared) for s in systems), default=1)
