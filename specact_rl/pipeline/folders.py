"""Where a run keeps what: names of folders and files, nothing of what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RESULTS_FILE = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The folders of one run."""

    root: Path

    @property
    def identity(self) -> Path:
        """run.json: what the run is, which no other may be continued as."""
        return self.root / "run.json"

    @property
    def times(self) -> Path:
        """times.json: seconds by stage, whether it has finished, and whether they are complete."""
        return self.root / "times.json"

    @property
    def servers(self) -> Path:
        """servers.json: what was asked of servers before the run began, and what they cannot do."""
        return self.root / "servers.json"

    def answers(self, name: str) -> Path:
        """All answers of a server, which stay: of cheap, strong, or the strong one as judge."""
        return self.root / "answers" / f"{name}.jsonl"

    @property
    def rollouts(self) -> Path:
        """Logged episodes, split."""
        return self.root / "rollouts"

    def data(self, name: str) -> Path:
        """Training rows: sft, verifier, preferences, reward."""
        return self.root / "data" / name

    def model(self, role: str) -> Path:
        """Checkpoint: cheap, strong, verifier, cheap_dpo, reward_model."""
        return self.root / "models" / role

    def base(self, size: str) -> Path:
        """Base that this run has pretrained: 1m, 4m."""
        return self.root / "models" / f"base_{size}"

    def proposals(self, role: str) -> Path:
        """Free-text proposals table of a model."""
        return self.root / "outcomes" / role

    def ranked(self, role: str) -> Path:
        """Ranked proposals table of a model."""
        return self.root / "outcomes" / f"{role}--ranked"

    def scores(self, verifier: str, role: str) -> Path:
        """Scores table of a verifier on a model's proposals."""
        return self.root / "outcomes" / f"{role}--{verifier}"

    @property
    def gates(self) -> Path:
        """gate.json by system."""
        return self.root / "gates"

    def live(self, system: str) -> Path:
        """Live episodes of a system."""
        return self.root / "live" / system

    @property
    def evaluation(self) -> Path:
        """results.json, and steps.parquet of all systems step by step."""
        return self.root / "evaluation"

    @property
    def report(self) -> Path:
        """report.html, report.md, figures."""
        return self.root / "report"

    def log(self, name: str) -> Path:
        """What a recipe printed."""
        return self.root / "logs" / f"{name}.log"
