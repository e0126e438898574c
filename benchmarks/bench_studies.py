"""What `specact study` finds in public logs, one row a pair: quality, not speed.

    python benchmarks/bench_studies.py [--logs DIR] [--only NAME ...] [--out DIR]

Reads logs where they lie beside the checkout or where --logs or SPECACT_REAL_LOGS says, and skips
with a message where there are none. Each study is a command; --out keeps their reports.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from specact_rl.cli import main as specact
from specact_rl.store import read_json

LOGS = Path(os.environ.get("SPECACT_REAL_LOGS", Path(__file__).parents[2] / "shared" / "data"))
BFCL, OSS = "bfcl_2024_08", "bfcl_v4_gpt_oss"
STUDIES: dict[str, tuple[str, list[str]]] = {
    "llama": (BFCL, ["--cheap", "Meta-Llama-3-8B", "--strong", "Meta-Llama-3-70B"]),
    "xlam": (BFCL, ["--cheap", "xLAM-1b", "--strong", "xLAM-7b"]),
    "hermes": (BFCL, ["--cheap", "Hermes-2-Pro-Llama-3-8B", "--strong", "Pro-Llama-3-70B"]),
    "gpt-4o": (BFCL, ["--cheap", "gpt-4o-mini", "--strong", "gpt-4o-2024"]),
    "gpt-oss": (
        OSS,
        ["--cheap", "gpt-oss-20b@2025-11-12-main", "--strong", "120b@2025-11-12-main"],
    ),
    "gpt-oss-fixes": (OSS, ["--cheap", "20b@2025-11-12-harmony", "--strong", "120b@2025-11-12-h"]),
    "retry": ("tau_bench/gpt-4o-airline.json", []),
    "swe-bench": ("swe_bench_verified", ["--cheap", "GPT-5 mini", "--strong", "GPT-5 (2025"]),
}
"""Log and arguments by name."""
COLUMNS = ("B", "A", "D", "D-half", "D-new-half", "D-peers", "vote", "any")


def percent(metric: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A share or difference in points with its interval."""
    if not metric or metric["value"] is None:
        return "–"
    form = "+.1f" if signed else ".1f"
    ends = [metric["low"], metric["high"]]
    interval = "" if None in ends else f" [{', '.join(f'{100 * e:{form}}' for e in ends)}]"
    return f"{100 * metric['value']:{form}}{interval}"


def number(metric: dict[str, Any] | None) -> str:
    """A number with its interval."""
    if not metric or metric["value"] is None:
        return "–"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def tables(results: dict[str, dict[str, Any]], seconds: dict[str, float]) -> str:
    """Markdown of all studies."""
    lines = [
        "| study | test tasks | " + " | ".join(f"{name}, %" for name in COLUMNS) + " | seconds |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for study, found in results.items():
        rows = {row["name"]: row for row in found["replay"]["systems"]}
        shares = [percent(rows[n]["acceptable"]) if n in rows else "–" for n in COLUMNS]
        lines.append(
            f"| {study} | {found['replay']['num_steps']} | {' | '.join(shares)} "
            f"| {seconds[study]:.0f} |"
        )
    lines += [
        "",
        "| study | gate | accepted, % | − A, points | over random gate, points | AUROC "
        "| debiased ECE (null band to) |",
        "|---|---|---|---|---|---|---|",
    ]
    for study, found in results.items():
        judged = {row["system"]: row for row in found["replay"]["verifiers"]}
        for row in found["replay"]["systems"]:
            if "skill" in row and row["name"] in judged:
                verifier = judged[row["name"]]
                ece, band = verifier["debiased_ece"]["value"], verifier["null_band"]["high"]
                lines.append(
                    f"| {study} | {row['name']} | {percent(row['accept_rate'])} "
                    f"| {percent(row['difference_from_a'], signed=True)} "
                    f"| {percent(row['skill'], signed=True)} | {number(verifier['auroc'])} "
                    f"| {ece:.3f} ({band:.3f}) |"
                )
    lines += [
        "",
        "| log | verifier | answers | AUROC, models unseen | of answers that can be read "
        "| within a model | within a task |",
        "|---|---|---|---|---|---|---|",
    ]
    said = set()
    for study, found in results.items():
        log = STUDIES[study][0]
        for row in found["unseen"]:
            key = (log, row["name"], row["n"])
            if key not in said:
                said.add(key)
                lines.append(
                    f"| {log} | {row['name']} | {row['n']} | {number(row['auroc'])} "
                    f"| {number(row['auroc_readable'])} | {number(row['auroc_within_model'])} "
                    f"| {number(row['auroc_within_task'])} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Run the studies and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--logs", type=Path, default=LOGS, help="folder of public logs")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--out", type=Path, help="folder of the studies (default: a temporary one)")
    args = parser.parse_args()
    results, seconds = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        for study in args.only:
            log, arguments = STUDIES[study]
            if not (args.logs / log).exists():
                print(
                    f"skipped {study}: no {args.logs / log}; --logs names a folder of public logs"
                )
                continue
            out = (args.out or Path(temporary)) / study
            started = time.perf_counter()
            if specact(["study", str(args.logs / log), *arguments, "--out", str(out)]):
                raise SystemExit(f"{study} failed")
            seconds[study] = time.perf_counter() - started
            results[study] = read_json(out / "evaluation" / "results.json")
    print(tables(results, seconds))


if __name__ == "__main__":
    main()
