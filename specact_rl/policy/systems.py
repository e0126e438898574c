"""The named systems: who proposes, who judges, who falls back. Data, not code.

A to E are the source report's; `-nf` rows are as it had them, without a fallback. All but the
`-dpo` ones use the SFT proposer. Adding a system is adding a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

NUM_PROPOSALS = 3
"""Proposals per step in E."""
PEERS = "peers"
"""Role: the cheap model with others beside it, whose answers are only compared with its own."""
PANEL = "panel"
"""Role: every model of a log, the strong one too."""


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
    accept_rate: float | None = None
    """Share of the calibration steps that its threshold accepts; None: the threshold of the
    highest utility."""
    target: Literal["acceptable", "difference"] = "acceptable"
    """What its verifier's scores mean: that the proposal is right; or what it gains over the
    fallback, when a calibrated score is (1 + E[C - S]) / 2."""
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
_TREES = System(
    name="D-trees", title="cheap + trees on hand features", proposer="cheap", verifier="trees"
)
"""Of studies whose trained verifier is another."""
SYSTEMS: dict[str, System] = {system.name: system for system in _TABLE}


def log_systems(num_trials: int, num_peers: int, num_panel: int) -> dict[str, System]:
    """The systems that a log of several models' answers can be joined to, by name.

    Args:
        num_trials: Answers of the cheap model to each task.
        num_peers: Models other than the cheap and the strong one.
        num_panel: Models in all.
    """
    d = SYSTEMS["D"]
    found = [
        SYSTEMS["A"],
        SYSTEMS["B"],
        replace(d, verifier="trained"),
        replace(
            d,
            name="D-new",
            title="cheap + verifier fitted without models of its name's family",
            verifier="trained_unseen",
        ),
        _half("D-half", "cheap + trained verifier, half accepted", "trained"),
        _half("D-new-half", "the same without its name's family, half accepted", "trained_unseen"),
        _TREES,
        SYSTEMS["D-lin"],
    ]
    found += _several("trained", num_trials)
    if num_peers:
        models = "another model" if num_peers == 1 else f"{num_peers} other models"
        found.append(
            System(
                name="D-peers",
                title=f"cheap + agreement with {models}",
                proposer=PEERS,
                num_compared=num_peers + 1,
                verifier="model_agreement",
            )
        )
    if num_panel > 2:
        vote = System(
            name="vote",
            title=f"most frequent answer of all {num_panel} models",
            proposer=PANEL,
            num_proposals=num_panel,
            verifier="model_agreement",
            fallback=False,
        )
        best = replace(vote, name="any", title=f"oracle: any of {num_panel} models is right")
        found += [vote, replace(best, verifier="label")]
    difference = replace(
        d,
        name="D-diff",
        title="cheap + verifier of its gain over the strong model",
        verifier="difference",
        target="difference",
    )
    found += [
        difference,
        replace(difference, name="D-diff-half", title="the same, half accepted", accept_rate=0.5),
    ]
    return {system.name: system for system in found}


def _half(name: str, title: str, verifier: str) -> System:
    """A gate that is to accept half of the steps, where knowing which ones is worth most."""
    return System(name=name, title=title, proposer="cheap", verifier=verifier, accept_rate=0.5)


def proposer_systems(num_samples: int) -> dict[str, System]:
    """The systems of a model that proposes at logged steps, by name."""
    found = [
        SYSTEMS["A"],
        SYSTEMS["B"],
        replace(SYSTEMS["D"], verifier="trained"),
        _half("D-half", "cheap + trained verifier, half accepted", "trained"),
        _TREES,
        SYSTEMS["D-lin"],
        SYSTEMS["D-logp"],
        *_several("trained", num_samples),
    ]
    return {system.name: system for system in found}


def _several(verifier: str, num_samples: int) -> list[System]:
    """What several proposals make possible; nothing where there is one."""
    if num_samples < 2:
        return []
    e = replace(
        SYSTEMS["E"],
        title=f"{num_samples} proposals + verifier picks",
        num_proposals=num_samples,
        verifier=verifier,
    )
    return [
        e,
        replace(e, name="E-nf", title=f"{e.title}, no fallback", fallback=False),
        replace(SYSTEMS["D-agree"], num_compared=num_samples),
    ]


def num_judged(verifier: str, proposer: str) -> int:
    """Samples of a step that some system shows to a verifier; 1 if no system has the two."""
    systems = [s for s in SYSTEMS.values() if (s.verifier, s.proposer) == (verifier, proposer)]
    return max((max(s.num_proposals, s.num_compared) for s in systems), default=1)
