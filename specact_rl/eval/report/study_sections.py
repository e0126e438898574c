"""Sections and verdicts of a study: what the log is, and models that no verifier has seen."""

from __future__ import annotations

import re
from collections.abc import Iterator

from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Finding,
    Findings,
    Paragraph,
    Section,
    Status,
    table,
    words,
)
from specact_rl.eval.report.judging import claim, listed, status_of, unseen, unsettled
from specact_rl.eval.report.lookup import part, rows, system, verifier_title
from specact_rl.eval.report.numbers import (
    JSON,
    cell,
    fixed,
    metric,
    percent,
    say,
    say_percent,
    say_points,
    say_rows,
)
from specact_rl.eval.report.run_sections import no_gate

MAX_FLAGS = 12
"""Doubts about a log that are shown; an import prints them all."""


def log_section(results: JSON) -> Section | None:
    """Where the answers come from, how the two models agree, and what makes labels doubtful."""
    study = part(results, "meta", "study")
    if not study:
        return None
    blocks: list[Block] = [Paragraph(text=_source(study))]
    agreement = part(study, "agreement")
    if agreement:
        both, cheap, strong, neither = (
            agreement.get(key, 0) for key in ("both", "only_cheap", "only_strong", "neither")
        )
        total = both + cheap + strong + neither
        blocks.append(
            table(
                ("model", "role", "right, %", "only this one right", "both right", "neither right"),
                [
                    _agent(study["cheap"], "cheap", both + cheap, total, cheap, both, neither),
                    _agent(study["strong"], "strong", both + strong, total, strong, both, neither),
                ],
                caption=(
                    f"All {total} tasks that both have answered and the log has judged, first "
                    "trials, training tasks included; everything below is on test tasks alone."
                    f"{_left_out(study)}"
                ),
                num_words=2,
            )
        )
    flags = rows(study, "flags")
    if flags:
        more = len(flags) - len(flags[:MAX_FLAGS])
        told = "Doubts about the labels that the import found" + (
            f", {MAX_FLAGS} of {len(flags)}; its report has them all." if more else ":"
        )
        items = tuple(
            Finding(
                status="note",
                claim=f"{str(f['kind']).replace('_', ' ').capitalize()}: {f['group']}.",
                evidence=_sentence(f["detail"]),
            )
            for f in flags[:MAX_FLAGS]
        )
        blocks += [Paragraph(text=told), Findings(items=items)]
    blocks += [Paragraph(text=text) for text in _cannot(study)]
    return Section(title="The log", blocks=blocks)


def _left_out(study: JSON) -> str:
    """Tasks that the comparison lacks; who has them is seldom chance."""
    told = ""
    if unlabelled := part(study, "agreement").get("unlabelled"):
        told += f" On {unlabelled} more tasks a verdict of the two is withheld."
    if by_one := study.get("answered_by_one"):
        told += (
            f" {by_one} tasks that only one of the two has answered are left out: if tasks were "
            "tried again because they had failed, say, the rest are the hard ones."
        )
    return told


def _cannot(study: JSON) -> Iterator[str]:
    """What these logs do not allow, and why."""
    if study.get("strong") is None:
        yield (
            "There is no second model and no second trial, so that nothing can be fallen back on "
            "and no system compared. What can be said is whether a verifier tells this model's "
            "right answers from its wrong ones; --propose-with adds a model."
        )
    if study.get("no_verifier"):
        yield f"There is no trained verifier: {study['no_verifier']}."
    yield from no_gate(part(study, "no_gate"))
    if "references" in study:
        yield (
            f"{study['strong']} is right by definition: what it did in episodes that succeeded is "
            "the reference, and another action may be as good. So accuracies here are agreement "
            "with the log, step by step, and no system can be better than A."
        )
    elif study.get("strong") is not None:
        yield (
            "A strong model as judge (C) cannot be joined: a log does not say how it would have "
            "judged."
        )


def _sentence(detail: str) -> str:
    return f"{detail[0].upper()}{detail[1:]}."


def _source(study: JSON) -> str:
    counts = part(study, "counts")
    told = (
        f"{study.get('log')}: read as {study.get('importer')} ({study.get('reason')}). "
        f"{counts.get('rollouts')} rollouts of {counts.get('tasks', '?')} tasks."
    )
    if study.get("trained"):
        told += f" Trained verifier: {study['trained']}."
    dropped = {reason: n for reason, n in part(study, "dropped").items() if n}
    if dropped:
        reasons = ", ".join(f"{reason.replace('_', ' ')} {n}" for reason, n in dropped.items())
        told += f" Left out: {reasons}."
    rate = study.get("near_duplicate_rate")
    if rate is not None:
        told += (
            " Tasks with the same request are in one split; of the test requests "
            f"{fixed(100.0 * rate, 1)} % share four fifths of their word 3-grams with a training "
            "request."
        )
    return told


def _agent(
    agent: str, role: str, right: int, total: int, alone: int, both: int, neither: int
) -> tuple[Cell, ...]:
    share = words(fixed(100.0 * right / total, 1) if total else None)
    return words(agent), words(role), share, words(alone), words(both), words(neither)


def unseen_section(results: JSON) -> Section | None:
    """Verifiers on families of models and on tasks that they were not fitted on."""
    found = rows(results, "unseen")
    if not found:
        return None
    pooled = table(
        (
            "verifier",
            "n",
            "AUROC, all answers",
            "AUROC, answers that can be read",
            "AUROC within a model",
            "AUROC within a task",
        ),
        [
            (
                words(verifier_title(str(row["name"]))),
                words(row["n"]),
                cell(metric(row, "auroc")),
                cell(metric(row, "auroc_readable")),
                cell(metric(row, "auroc_within_model")),
                cell(metric(row, "auroc_within_task")),
            )
            for row in found
        ],
        caption=(
            f"{_fitted_on(results)} Within a model: over pairs "
            "of answers of one model, so that knowing who is good does not help. Within a task: "
            "over pairs of answers to one task."
        ),
    )
    first = found[0]
    by_family = table(
        ("family left out", "models", "n", "right, %", f"AUROC, {verifier_title(first['name'])}"),
        [
            (
                words(name),
                words(len(row["models"])),
                words(row["n"]),
                percent(metric(row, "base_rate")),
                cell(metric(row, "auroc")),
            )
            for name, row in part(first, "families").items()
        ],
        caption="The same, family by family.",
    )
    return Section(title="Models that the verifier has not seen", blocks=[pooled, by_family])


def _fitted_on(results: JSON) -> str:
    study = part(results, "meta", "study")
    if study.get("fitted_elsewhere"):
        return (
            f"All models of this log on its test tasks, judged by {study['trained']} as it was "
            "given; whether it has seen any of them this log cannot say."
        )
    return (
        "Each family of models is judged by a verifier fitted without it, on test tasks; families "
        "are told by the letters that a name begins with."
    )


def doubts_about_log(results: JSON) -> Iterator[Finding]:
    """Does the log itself explain how the two models stand?"""
    study = part(results, "meta", "study")
    for flag in rows(study, "flags"):
        group, kind = str(flag["group"]), str(flag["kind"])
        role = next(
            (r for r in ("cheap", "strong") if f"{group} ".startswith(f"{_policy(study[r])} ")),
            None,
        )
        if kind == "format_failures" and role is not None:
            yield Finding(
                status="note",
                claim=f"The {role} model fails by its format ({group}).",
                evidence=_sentence(flag["detail"]),
            )
        elif kind in ("harness_fault", "degenerate_group"):
            yield Finding(
                status="note",
                claim=f"The labels of {group} say nothing about the models.",
                evidence=_sentence(flag["detail"]),
            )


def _policy(agent: object) -> str:
    """The model of an agent, without its run and its trial; flags begin with it and a space."""
    return re.sub(r"(@.*)?(#\d+)?$", "", str(agent))


def gates_at_half(results: JSON) -> Iterator[Finding]:
    """Does the verifier know which half to accept, also of a model that it has not seen?"""
    for name, whose in (
        ("D-half", "the verifier knows which half of the cheap model's answers to accept"),
        ("D-new-half", "a verifier that has seen no model of the cheap one's family knows it, too"),
    ):
        row = system(results, name)
        skill = metric(row, "skill")
        if row is None or skill is None:
            continue
        status = status_of(skill)
        yield Finding(
            status=status,
            claim=claim(status, whose, f"{name} is worse than a random gate of its accept rate."),
            evidence=(
                f"{name} accepts {say_percent(metric(row, 'accept_rate'))} and is "
                f"{say_points(skill)} above a random gate of that rate, at "
                f"{say_points(metric(row, 'difference_from_a'))} from A, {say_rows(skill)}."
                f"{unsettled(status, skill)}"
            ),
        )


def unseen_models(results: JSON) -> Iterator[Finding]:
    """Can a verifier be trusted on a model that it has not seen?"""
    found = rows(results, "unseen")
    if not found:
        return
    row = found[0]
    auroc = metric(row, "auroc")
    name = verifier_title(str(row["name"]))
    status: Status = status_of(auroc, zero=0.5)
    told = [
        f"{family} {say(metric(each, 'auroc'))}" for family, each in part(row, "families").items()
    ]
    yield Finding(
        status=status,
        claim=claim(
            status,
            f"the {name} tells right from wrong answers of models that it has not seen",
            f"On models that it has not seen, the {name} ranks worse than chance.",
        ),
        evidence=(
            f"AUROC {say(auroc)}, on answers that can be read "
            f"{say(metric(row, 'auroc_readable'))}; n = {row['n']} answers to {row['num_tasks']} "
            f"tasks. Family by family: {listed(told)}."
            + (
                unseen(auroc, "from chance", scale=1.0, most=3)
                if auroc and status == "open"
                else ""
            )
        ),
    )
