"""Sections about the run itself: what it was, pairs, examples, training, times, command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Code,
    Example,
    Paragraph,
    Section,
    Table,
    table,
    words,
)
from specact_rl.eval.report.judging import listed
from specact_rl.eval.report.lookup import has_families_held_out, part, rows, verifier_title
from specact_rl.eval.report.numbers import (
    DASH,
    JSON,
    duration,
    fixed,
    metric,
    parameters,
    percent,
)

MAX_TEXT = 400
"""Characters of an example's text that are shown."""
MACHINE = {"memory_gb": "memory, GB"}
"""Words for what the machine's fields do not say by their names."""
OPTIONAL = {
    "live": "live episodes",
    "pairs": "preference pairs",
    "training": "training",
}


def title(results: JSON) -> str:
    """Heading of the page."""
    study = part(results, "meta", "study")
    between = study or part(results, "meta", "table", "models")
    if between:
        return f"Gates between {between['cheap']} and {between['strong']}"
    preset = part(results, "meta").get("preset")
    return "Speculative tool actions" + (f": preset {preset}" if preset else "")


def summary(results: JSON) -> list[Block]:
    """What was run and what the numbers mean."""
    meta = part(results, "meta")
    told = [legend] if (legend := _legend(results)) else []
    models = [
        f"{role.replace('_', ' ')} {parameters(n)}" for role, n in part(meta, "num_params").items()
    ]
    splits = part(results, "splits")
    test, calibration = splits.get("test"), splits.get("calibration")
    if models:
        told.append(f"Models and parameters: {', '.join(models)}.")
    told += [_sentence(note) for note in meta.get("server_notes") or []]
    if calibration:
        told.append(f"Gates were fitted on {_size(calibration)} and frozen before testing.")
    if test:
        told.append(f"The test split has {_size(test)}.")
    if has_families_held_out(results):
        told.append(
            "Systems, verifiers and contrasts are measured on the families that models were "
            "trained on; rows out of family say so."
        )
    if meta.get("label"):
        told.append(_sentence(f"What counts as right: {_label(str(meta['label']))}"))
    if meta.get("calibration_rule"):
        told.append(f"Thresholds: {_sentence(meta['calibration_rule'])}")
    if meta.get("wall_seconds") is not None:
        told.append(f"The run took {duration(meta['wall_seconds'])}{_on(meta)}.")
    missing = [words_ for key, words_ in OPTIONAL.items() if not rows(results, key)]
    if missing and not part(meta, "study") and not part(meta, "table"):
        told.append(f"Not in this run: {', '.join(missing)}.")
    blocks: list[Block] = [Paragraph(text=" ".join(told))] if told else []
    if part(meta, "table"):
        blocks.append(Paragraph(text=_table(meta["table"])))
    if not rows(results, "replay", "systems"):
        blocks.append(Paragraph(text="There are no replay results: nothing was evaluated."))
    return blocks


LEGEND = {
    "A": "the strong model alone",
    "B": "the cheap model alone",
    "C": "the cheap model, and the strong one where it judges that the proposal is wrong",
    "D": "the cheap model, and the strong one where a verifier is not sure enough of the proposal",
    "E": "as D, with several proposals of which the verifier picks one",
}
"""The letters of the main systems, for those who read only the first screen."""


def _legend(results: JSON) -> str:
    found = {str(row["name"]) for row in rows(results, "replay", "systems")}
    told = "; ".join(f"{name}: {text}" for name, text in LEGEND.items() if name in found)
    return f"{told}." if told else ""


def _label(text: str) -> str:
    """Without its own heading: "acceptable: the log's verdict" is told as the log's verdict."""
    return text.removeprefix("acceptable: ")


def _table(source: JSON) -> str:
    """What an evaluation table was, and why a system has no gate."""
    told = (
        f"Everything comes from {source['path']} ({source['num_rows']:,} rows); no model was run. "
        f"Verifier of D and E: {source['verifier']}. Intervals: {source['num_resamples']:,} draws."
    )
    return told + "".join(f" {text}" for text in no_gate(part(source, "no_gate")))


def no_gate(missing: JSON) -> list[str]:
    """Which systems have no gate and why, those with one reason in one sentence."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in missing.items():
        by_reason.setdefault(str(reason).rstrip("."), []).append(str(name))
    return [
        f"There is no gate for {listed(names)}: {reason}." for reason, names in by_reason.items()
    ]


def _size(split: JSON) -> str:
    if not split.get("num_steps"):
        return f"{split.get('num_tasks')} tasks"
    return f"{split.get('num_steps')} steps of {split.get('num_tasks')} tasks"


def _sentence(text: object) -> str:
    return str(text).rstrip(".") + "."


def _on(meta: JSON) -> str:
    cores = part(meta, "machine").get("cores")
    return f" on {cores} cores" if cores else ""


def splits_table(results: JSON) -> Table | None:
    """Tasks, steps and families of each split; None without any."""
    splits = part(results, "splits")
    if not splits:
        return None
    return table(
        ("split", "tasks", "steps", "families", "hash of its steps"),
        [
            (
                words(str(name).replace("_", " ")),
                words(split.get("num_tasks")),
                words(split.get("num_steps")),
                words(len(split["families"]) if split.get("families") else None),
                words(split.get("steps_hash")),
            )
            for name, split in splits.items()
        ],
        caption="Splits, by task; no task is in two of them.",
    )


def pairs_section(results: JSON) -> Section | None:
    """Preference pairs by strategy."""
    found = rows(results, "pairs")
    if not found:
        return None
    shown = table(
        (
            "strategy",
            "pairs",
            "dropped",
            "chosen is better, %",
            "tied",
            "chosen − rejected, tokens",
            "messages",
        ),
        [
            (
                words(str(row["strategy"])),
                words(row.get("count")),
                words(_reasons(row)),
                _precision_cell(row),
                words(part(row, "precision").get("num_ties")),
                words(_gap(row, "mean_tokens")),
                words(_gap(row, "mean_turns")),
            )
            for row in found
        ],
        caption=(
            "Pairs mined for preference training. Chosen is better: measured by branching the "
            "environment from both sides, ties counted against; DPO learns length where the gap "
            "in tokens is far from 0."
        ),
    )
    return Section(title="Preference pairs", blocks=[shown], folded=True)


def _precision_cell(row: JSON) -> Cell:
    shown = percent(metric(part(row, "precision"), "better"), count=True)
    return replace(shown, main=shown.main or DASH)


def _gap(row: JSON, key: str) -> str | None:
    value = part(row, "gaps").get(key)
    return None if value is None else fixed(float(value), 1, signed=True)


def _reasons(row: JSON) -> str:
    """Dropped pairs by reason; a reason may carry its strategy's name before a colon."""
    found = {str(k).rsplit(":", 1)[-1]: n for k, n in part(row, "dropped").items() if n}
    return ", ".join(f"{reason.replace('_', ' ')} {n}" for reason, n in found.items())


def examples_section(results: JSON) -> Section | None:
    """A few logged steps and what D did at them."""
    found = [_example(row) for row in rows(results, "replay", "examples")]
    shown: list[Block] = [example for example in found if example.lines]
    if not shown:  # a table need not have texts
        return None
    return Section(title="Examples of D's decisions", blocks=shown, folded=True)


def _example(row: JSON) -> Example:
    decision = "accepted" if row.get("accepted") else "rejected"
    right = "acceptable" if row.get("acceptable") else "not acceptable"
    p = row.get("p_accept")
    confidence = "could not be scored" if p is None else f"p_accept {fixed(p, 2)}"
    fallback = {True: "acceptable", False: "not acceptable", None: "label unknown"}[
        row.get("fallback_acceptable")
    ]
    lines = (
        ("request", row.get("request")),
        ("last message", row.get("last")),
        ("proposal", row.get("proposal")),
        (f"strong model ({fallback})", row.get("fallback")),
        ("expert", row.get("reference")),
    )
    return Example(
        verdict=f"{decision}, {right} ({confidence})",
        lines=tuple((word, _shortened(str(text))) for word, text in lines if text),
    )


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= MAX_TEXT else one_line[: MAX_TEXT - 1] + "…"


def training_section(results: JSON) -> Section | None:
    """Recipes and stages with their times."""
    recipes, stages = rows(results, "training"), rows(results, "meta", "stages")
    blocks: list[Block] = []
    if recipes:
        blocks.append(
            table(
                ("recipe", "model", "rows", "time", "first loss", "last loss"),
                [
                    (
                        words(row["recipe"]),
                        words(row.get("model")),
                        words(row.get("rows")),
                        words(duration(row.get("seconds"))),
                        _loss(row, "first_loss"),
                        _loss(row, "last_loss"),
                    )
                    for row in recipes
                ],
                caption="Training, each recipe in a process of its own.",
                num_words=2,
            )
        )
        compared = _fair_comparison(recipes)
        if compared:
            blocks.append(Paragraph(text=compared))
    if stages:
        blocks.append(
            table(
                ("stage", "time", ""),
                [
                    (
                        words(str(row["name"]).replace("_", " ")),
                        words(duration(row.get("seconds"))),
                        words("a kill took some of it" if row.get("complete") is False else ""),
                    )
                    for row in stages
                ],
                caption="Stages in order.",
            )
        )
    return Section(title="Training and times", blocks=blocks, folded=True) if blocks else None


def _fair_comparison(recipes: Sequence[JSON]) -> str:
    """Whether cheap and strong differ in their bases alone; "" where runs did not write it down."""
    trained = {row.get("model"): row for row in recipes}
    cheap, strong = trained.get("cheap", {}), trained.get("strong", {})
    if not cheap.get("rows_sha256") or not strong.get("rows_sha256"):
        return ""
    differ = [
        name
        for name, key in (("rows", "rows_sha256"), ("settings", "options_hash"))
        if cheap.get(key) != strong.get(key)
    ]
    if differ:
        return (
            f"The cheap and the strong model were not fine-tuned alike: they differ in "
            f"{' and '.join(differ)} beside their bases."
        )
    return (
        f"The cheap and the strong model were fine-tuned on the same {cheap['rows']:,} rows (one "
        "file, by its hash) with the same settings and seed: they differ in their bases alone."
    )


def _loss(row: JSON, key: str) -> Cell:
    value = row.get(key)
    return words(None if value is None else fixed(float(value), 3))


def reproduce_section(results: JSON) -> Section | None:
    """The command, seeds, versions, and hashes of data, models and gates."""
    meta = part(results, "meta")
    if not meta:
        return None
    blocks: list[Block] = []
    if meta.get("command"):
        blocks.append(Code(text=str(meta["command"])))
    facts = {
        "seed": meta.get("seed"),
        "code version": meta.get("code_version"),
        "hash of the code": meta.get("source_hash"),
        "metrics version": meta.get("metrics_version"),
        "schema version of results.json": results.get("schema_version"),
        "models trained from": ", ".join(map(str, meta.get("bases") or [])) or None,
        **{MACHINE.get(name, name): value for name, value in part(meta, "machine").items()},
    }
    shown = [(words(name), words(value)) for name, value in facts.items() if value is not None]
    if shown:
        blocks.append(table(("", ""), shown, num_words=2))
    found = (splits_table(results), _models_table(results), _gates_table(results))
    blocks += [block for block in found if block is not None]
    return Section(title="How to reproduce", blocks=blocks)


def _models_table(results: JSON) -> Table | None:
    """What proposed and what judged, by id."""
    found = rows(results, "replay", "proposers")
    lines = [(row["role"], row.get("model_id"), row.get("num_params")) for row in found]
    lines += [
        (f"verifier of {row['system']}: {verifier_title(str(row['name']))}", row.get("verifier_id"),
         row.get("num_params"))
        for row in rows(results, "replay", "verifiers")
    ]  # fmt: skip
    if not lines:
        return None
    return table(
        ("model", "id", "parameters"),
        [(words(name), words(found_id), words(parameters(n))) for name, found_id, n in lines],
        caption="Ids of checkpoints hold a hash of their weights and prompts.",
        num_words=2,
    )


def _gates_table(results: JSON) -> Table | None:
    """The frozen gates."""
    found = [row for row in rows(results, "replay", "systems") if row.get("gate_id")]
    if not found:
        return None
    return table(
        ("gate of", "id", "threshold"),
        [
            (
                words(row["name"]),
                words(row["gate_id"]),
                words("none" if row.get("threshold") is None else fixed(row["threshold"], 4)),
            )
            for row in found
        ],
        caption=(
            "An id is the hash of calibrator, threshold and what they were fitted on. Threshold "
            "none accepts nothing."
        ),
        num_words=2,
    )
