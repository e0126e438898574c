"""The list of the most confident mistakes."""

from __future__ import annotations

from specact_rl.eval.mistakes import MAX_TEXT, NUM_EACH
from specact_rl.eval.report.blocks import Mistake, Mistakes, Paragraph, Section
from specact_rl.eval.report.lookup import action_type_title, rows
from specact_rl.eval.report.numbers import JSON, fixed

KINDS = {
    "accepted_wrong": "accepted, not acceptable",
    "rejected_right": "rejected, acceptable",
}
RIGHT = {True: "acceptable", False: "not acceptable", None: "label unknown"}


def mistakes_section(results: JSON) -> Section | None:
    """What the gate was surest of and wrong about; None without mistakes."""
    found = rows(results, "replay", "mistakes")
    if not found:
        return None
    counts = " and ".join(
        f"{sum(row['kind'] == kind for row in found)} {title}" for kind, title in KINDS.items()
    )
    return Section(
        title="Most confident mistakes",
        blocks=[
            Paragraph(
                text=(
                    f"Test steps at which the gate of {found[0]['system']} was surest and wrong: "
                    f"{counts}. Accepted ones by the highest p_accept first, then rejected ones "
                    f"by the lowest; at most {NUM_EACH} of each, texts cut to {MAX_TEXT} "
                    "characters."
                )
            ),
            Mistakes(items=tuple(_mistake(row) for row in found)),
        ],
    )


def _mistake(row: JSON) -> Mistake:
    lines = (
        ("request", row["request"]),
        ("last message", row["last"] if row["last"] != row["request"] else None),
        ("proposal", row["proposal"]),
        (f"strong model ({RIGHT[row['fallback_acceptable']]})", row["fallback"]),
        ("reference", row["reference"]),
        ("step", row["step_id"]),
    )
    kind = row["action_type"]
    return Mistake(
        group=KINDS[str(row["kind"])],
        action_type=action_type_title(kind) if kind else "unparsable",
        score=fixed(row["p_accept"], 3),
        lines=tuple((word, str(text)) for word, text in lines if text),
    )
