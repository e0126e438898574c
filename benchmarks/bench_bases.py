"""What the shipped bases write before any fine-tuning: greedy free text at an expert's steps.

    python benchmarks/bench_bases.py

Tasks are of families that the bases know, with seeds that the pretraining corpus has not. Prints
Markdown: the share of texts that parse, have the expert's arguments, and are acceptable, with 95 %
intervals over tasks. The same on every run of one machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from specact_rl.envs.episodes import expert_policy, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.outcomes import generated_proposals
from specact_rl.eval.proposer_report import proposer_row
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import load_causal_lm, load_tokenizer
from specact_rl.presets import model_path
from specact_rl.rendering import Renderer

FIRST_SEED = 9_900_000
"""Only a run of seed 99 draws its tasks here; the pretraining corpus starts at 10,000,000."""


def main() -> None:
    """Parse arguments, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=300, help="tasks (default: 300)")
    args = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + args.tasks)
    rollouts = [run_episode(Workspace(seed), expert_policy, "expert") for seed in seeds]
    table = StepTable.of(rollouts)
    print("| base | steps | tasks | parses, % | expert's arguments, % | acceptable, % |")
    print("|---|---|---|---|---|---|")
    for size in ("1m", "4m"):
        path = model_path(f"builtin:{size}")
        renderer = Renderer(tokenizer=load_tokenizer(path), catalogue="compact")
        lm = LanguageModel.of(load_causal_lm(path, "float32"), Path(path), renderer)
        proposals = generated_proposals(lm, rollouts, Sampling(max_new_tokens=40))
        row = proposer_row(size, ProposalColumns.of(table, proposals), table, lm.size)
        rates = [row["groups"]["all"][name] for name in ("parsed", "arguments", "acceptable")]
        cells = [f"{100 * r.value:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]" for r in rates]
        print(f"| {size} | {len(table.steps)} | {args.tasks} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
