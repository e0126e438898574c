"""The page of a LoRA sweep: the mundane cause first, then what scale, rate and weights do."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence

from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Code,
    Example,
    Finding,
    Findings,
    Paragraph,
    Picture,
    Section,
    Status,
    table,
    words,
)
from specact_rl.eval.report.heat_map import HeatMap, draw_heat_maps
from specact_rl.eval.report.numbers import (
    DASH,
    JSON,
    cell,
    direction,
    fixed,
    metric,
    percent,
    say,
    say_percent,
    say_points,
)
from specact_rl.eval.report.page import Page
from specact_rl.metrics.values import MetricValue
from specact_rl.models.lora_cells import END_FAULTS

WEIGHTS = {"float": "unquantised", "nf4": "nf4"}
FAULTS = {
    "end_masked": "stop token masked out of the loss",
    "end_missing": "stop token missing from packed rows",
    "stop_unknown": "stop token not known to the decoder",
}
_SHORT = {
    "end_masked": "stop masked",
    "end_missing": "stop missing",
    "stop_unknown": "stop unknown to the decoder",
}
NOT_CORRECTED = (
    "Differences are paired: same seeds, same held-out rows; intervals resample whole tasks and "
    "take the trained models as given: how far seeds differ is in the tables. Not corrected for "
    "the number of comparisons. NLL and KL are in nats a token of the reference turns, stop token "
    "included; turns are generated greedily."
)


def sweep_page(results: JSON) -> Page:
    """The page of a sweep's results."""
    n = f"{results['num_rows']:,} held-out rows of {results['num_tasks']:,} tasks"
    told = f"{results['num_cells']:,} trainings, each measured on the same {n}. {NOT_CORRECTED}"
    return Page(
        title="LoRA's scale: what garbles a generation",
        summary=[Findings(items=tuple(_verdicts(results))), Paragraph(text=told)],
        sections=[
            Section(title="The mundane cause first", blocks=list(_mundane(results))),
            Section(title="Scale, learning rate, weights", blocks=list(_maps(results))),
            Section(title="Every setting", blocks=[_table(results)]),
            Section(title="Differences", blocks=[_differences(results)]),
            *_examples(results),
            Section(title="How it was made", blocks=list(_made(results))),
        ],
    )


# Verdicts


def _verdicts(results: JSON) -> Iterator[Finding]:
    sound = [s["ends"] for s in results["settings"] if s["ends"] and s["fault"] not in END_FAULTS]
    if sound:
        yield Finding(
            status="note",
            claim="The mundane cause was looked for first, and is not there.",
            evidence=f"{sound[0]['in_words']} A training where this does not hold is not begun, "
            "unless the fault is put in on purpose.",
        )
    for fault in FAULTS:
        found = _contrasts(results, fault, "leaked" if fault == "stop_unknown" else "unfinished")
        if found:
            yield _fault_verdict(results, fault, found)
    yield from _range_verdicts(results)
    yield from _source_verdict(results)
    yield from _against_verdict(results, "nf4", "Over 4-bit weights")
    yield from _against_verdict(results, "rslora", "With rsLoRA at the same alpha")


def _fault_verdict(results: JSON, fault: str, found: Sequence[JSON]) -> Finding:
    most = max(found, key=lambda c: _value(c["difference"]))
    difference = metric(most, "difference")
    seen = direction(difference) == "above"
    effect = (
        "more turns show special tokens" if fault == "stop_unknown" else "more turns have no end"
    )
    claim = f"With the {FAULTS[fault]}, {'' if seen else 'it is not shown that '}{effect}."
    more = [
        f" {what}: {say(metric(c, 'difference'), unit, signed=True, **how)}."
        for column, what, unit, how in (
            ("leaked", "Turns with leaked special tokens", "points", {"scale": 100.0, "most": 1}),
            ("stop_nll", "NLL of the stop token where it is due", "nats", {"most": 3}),
        )
        for c in _contrasts(results, fault, column)
        if c["a"] == most["a"] and fault in END_FAULTS
    ]
    return Finding(
        status="shown" if seen else _status(difference),
        claim=claim,
        evidence=f"At {_setting_words(most['a'])}: {say_points(difference)} against the same "
        f"training without the fault, n = {_n(difference)}{_of(found)}."
        f"{''.join(more)}",
    )


def _range_verdicts(results: JSON) -> Iterator[Finding]:
    sound = [s for s in results["settings"] if s["fault"] == "none"]
    if not sound:
        return
    ratios = sorted({s["ratio"] for s in sound})
    span = f"alpha/r from {ratios[0]:g} to {ratios[-1]:g}"
    for name, some in (
        ("unparsed", "garble turns (no action can be read)"),
        ("unfinished", "leave turns without an end"),
        ("leaked", "leak special tokens"),
    ):
        told = [s for s in sound if s[name]["value"] is not None]
        if not told:
            continue
        worst = max(told, key=lambda s, name=name: _value(s[name]))  # type: ignore[misc]
        broken = [s for s in told if direction(metric(s["over_base"], name)) == "above"]
        yield Finding(
            status="shown" if broken else "against",
            claim=f"{len(broken)} of {len(told)} sound settings with {span} {some} more often than "
            "the base does."
            if broken
            else f"No sound setting with {span} is shown to {some} more often than the base does.",
            evidence=f"Largest share: {say_percent(metric(worst, name))}, at "
            f"{_setting_words(worst)}, n = {_n(metric(worst, name))}; over the base "
            f"{say_points(metric(worst['over_base'], name))}."
            f"{_least_broken(broken) if broken else ''}",
        )
    rate = _contrasts(results, "fixed_learning_rate", "nll")
    product = _contrasts(results, "fixed_product", "nll")
    if rate:
        yield _scale_verdict("At a fixed learning rate", rate)
    if product:
        yield _scale_verdict("At a fixed (alpha/r) x learning rate", product)


def _least_broken(broken: Sequence[JSON]) -> str:
    least = min(broken, key=lambda s: (s["scale"] * s["learning_rate"], s["scale"]))
    product = least["scale"] * least["learning_rate"]
    return (
        f" The smallest scale x learning rate among them is {product:g}, at "
        f"{_setting_words(least)}."
    )


def _scale_verdict(where: str, found: Sequence[JSON]) -> Finding:
    most = max(found, key=lambda c: abs(_value(c["difference"])))
    difference = metric(most, "difference")
    side = direction(difference)
    effect = {"above": "is worse", "below": "is better"}.get(
        side, "is not shown to be better or worse"
    )
    return Finding(
        status=_status(difference) if side == "open" else "shown",
        claim=f"{where}, alpha/r = {most['a']['ratio']:g} {effect} than {most['b']['ratio']:g}.",
        evidence=f"Held-out NLL {say(difference, 'nats', signed=True, most=4)}, "
        f"{_setting_words(most['a'])} against {_setting_words(most['b'])}, "
        f"n = {_n(difference)}{_of(found)}.",
    )


def _source_verdict(results: JSON) -> Iterator[Finding]:
    """The question that the sweep is made for: the largest alpha/r over 4-bit weights."""
    told = [
        s
        for s in results["settings"]
        if s["fault"] == "none" and s["weights"] == "nf4" and not s["rslora"]
    ]
    largest = max((s["ratio"] for s in told), default=None)
    told = sorted((s for s in told if s["ratio"] == largest), key=lambda s: s["learning_rate"])
    if not told:
        return
    bad = [s for s in told if direction(metric(s["over_base"], "unparsed")) == "above"]
    whole = [s for s in told if s not in bad]
    said = [
        f"{verb} at learning rate " + ", ".join(f"{s['learning_rate']:g}" for s in each)
        for verb, each in (("does not garble", whole), ("garbles", bad))
        if each
    ]
    yield Finding(
        status="note",
        claim=f"alpha/r = {largest:g} over 4-bit weights {' and '.join(said)}.",
        evidence=" ".join(
            f"Learning rate {s['learning_rate']:g}: {say_percent(metric(s, 'unparsed'))} of the "
            f"turns cannot be read, {say_percent(metric(s, 'leaked'))} leak, "
            f"n = {_n(metric(s, 'unparsed'))}."
            for s in told
        ),
    )


def _against_verdict(results: JSON, kind: str, what: str) -> Iterator[Finding]:
    """Of settings whose counterpart is whole: in ruins differences are large and mean nothing."""
    garbled = [
        _setting_words(s)
        for s in results["settings"]
        if direction(metric(s["over_base"], "unparsed")) == "above"
    ]
    found = [c for c in _contrasts(results, kind, "nll") if _setting_words(c["b"]) not in garbled]
    if not found:
        return
    most = max(found, key=lambda c: abs(_value(c["difference"])))
    difference = metric(most, "difference")
    side = direction(difference)
    effect = {"above": "worse", "below": "better"}.get(side, "not shown to be better or worse")
    ends = [
        f" Turns without an end: {say_points(metric(c, 'difference'))}."
        for c in _contrasts(results, kind, "unfinished")
        if c["a"] == most["a"]
    ]
    yield Finding(
        status=_status(difference) if side == "open" else "shown",
        claim=f"{what}, the held-out likelihood is {effect}.",
        evidence=f"NLL {say(difference, 'nats', signed=True, most=4)} at "
        f"{_setting_words(most['a'])}, n = {_n(difference)}{_of(found)}; counterparts "
        f"that are garbled are left out.{''.join(ends)}",
    )


def _status(value: MetricValue | None) -> Status:
    return {"above": "shown", "below": "against", "open": "open"}.get(direction(value), "unknown")  # type: ignore[return-value]


# Sections


def _mundane(results: JSON) -> Iterator[Block]:
    yield Paragraph(
        text="Turns without an end and leaked <|im_end|> most often mean that the stop token was "
        "masked or missing in the labels (a collator that masks padding by its id, with pad = "
        "stop), or that the decoder does not know it. Each is put in on purpose here, beside the "
        "same training without it. The base has seen ends in its own training, as pretrained chat "
        "models have: it takes more than one unseen end to lose them."
    )
    faulty = [s for s in results["settings"] if s["fault"] != "none"]
    shown = [s for s in results["settings"] if any(_same(s, f) for f in faulty)]
    shown.sort(key=lambda s: (s["product"], s["weights"], s["fault"] != "none", s["fault"]))
    rows = [_row(s, fault=True) for s in shown]
    if rows:
        yield table(["fault", *_HEADERS], rows, num_words=3)
    else:
        yield Paragraph(text="This sweep has no cell with a fault.")


def _same(a: JSON, b: JSON) -> bool:
    axes = ("ratio", "r", "learning_rate", "weights", "rslora")
    return all(a[axis] == b[axis] for axis in axes)


_HEADERS = [
    "setting", "trained over", "alpha/r", "learning rate", "seeds", "held-out NLL", "by seed",
    "of the stop token", "KL to base", "no end, %", "leaks, %", "repeated 4-grams, %",
    "distinct-2", "parsed, %", "type, %", "tool, %", "arguments, %", "acceptable, %",
]  # fmt: skip


def _row(s: JSON, *, fault: bool = False) -> tuple[Cell, ...]:
    if "ratio" not in s:
        head = [words("before training"), words(WEIGHTS[s["weights"]]), *[words("")] * 3]
    else:
        head = [
            words(f"{'rsLoRA' if s['rslora'] else 'LoRA'}, r = {s['r']}"),
            words(WEIGHTS[s["weights"]]),
            words(f"{s['ratio']:g}"),
            words(f"{s['learning_rate']:g}"),
            words(len(s["seeds"])),
        ]
    if fault:
        head = [words(_SHORT.get(s["fault"], "none")), *head]
    distinct = s["distinct"]
    return (
        *head,
        cell(metric(s, "nll"), most=4),
        words(
            ", ".join(fixed(v, 3) for v in s["nll_by_seed"]) if len(s["nll_by_seed"]) > 1 else ""
        ),
        cell(metric(s, "stop_nll"), most=4),
        cell(metric(s, "kl"), most=4),
        percent(metric(s, "unfinished")),
        percent(metric(s, "leaked")),
        percent(metric(s, "repeated")),
        words(DASH if distinct is None else fixed(distinct, 3)),
        *(
            percent(metric(s, name))
            for name in ("parsed", "type", "tool", "arguments", "acceptable")
        ),
    )


def _table(results: JSON) -> Block:
    sound = [s for s in results["settings"] if s["fault"] == "none"]
    rows = [_row(s) for s in (*results["bases"], *sound)]
    return table(
        _HEADERS,
        rows,
        caption="95 % intervals over tasks. Type, tool and arguments: share of the turns that "
        "agree with the expert's action at least so far. Distinct-2 is of all turns together and "
        "has no interval. Look at both beside the numbers before training.",
        num_words=2,
    )


def _differences(results: JSON) -> Block:
    names = {
        "fixed_learning_rate": "largest against smallest alpha/r, same learning rate",
        "fixed_product": "largest against smallest alpha/r, same (alpha/r) x learning rate",
        "nf4": "nf4 against unquantised",
        "rslora": "rsLoRA against LoRA, same alpha",
    } | {fault: f"{what}, against none" for fault, what in FAULTS.items()}
    columns = ("nll", "kl", "stop_nll", "unfinished", "leaked", "parsed", "arguments")
    found: dict[tuple[str, str, str], dict[str, JSON]] = {}
    for c in results["contrasts"]:
        key = (names[c["kind"]], _setting_words(c["a"]), _setting_words(c["b"]))
        found.setdefault(key, {})[c["column"]] = c
    rows = []
    for (kind, a, b), each in found.items():
        seeds = next(iter(each.values()))["num_seeds"]
        numbers = [
            cell(metric(each.get(c), "difference"), signed=True, most=4)
            if c in ("nll", "kl", "stop_nll")
            else cell(metric(each.get(c), "difference"), scale=100.0, signed=True, most=1)
            for c in columns
        ]
        rows.append((words(kind), Cell(main=a, below=f"less {b}"), words(seeds), *numbers))
    headers = ["contrast", "settings", "seeds", "NLL", "KL", "stop NLL", "no end, points"]
    headers += ["leaks, points", "parsed, points", "arguments, points"]
    return table(headers, rows, num_words=2)


def _maps(results: JSON) -> Iterator[Block]:
    settings = [s for s in results["settings"] if s["fault"] == "none"]
    ratios = sorted({s["ratio"] for s in settings})
    rows = list(_map_rows(settings))
    if not rows:
        return
    gaps = [i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]]

    def values(name: str) -> list[list[float | None]]:
        found = []
        for _, _, members in rows:
            by_ratio = {s["ratio"]: s for s in members}
            found.append([None if r not in by_ratio else _value(by_ratio[r][name]) for r in ratios])
        return found

    base = results["bases"][0]

    def panel(
        title: str, name: str, show: Callable[[float], str], *, best: float, worst: float
    ) -> HeatMap:
        return HeatMap(title=title, values=values(name), show=show, best=best, worst=worst)

    if all(s["nll"]["value"] is None for s in settings):
        yield Paragraph(text="Every training diverged.")
        return
    before = _value(base["nll"])
    panels = [
        panel(
            "Held-out NLL, nats a token",
            "nll",
            lambda v: fixed(v, 3),
            best=before,
            worst=3 * before,
        ),
        panel(
            "Same action as the expert's, %",
            "arguments",
            lambda v: fixed(100.0 * v, 0),
            best=max(_value(base["arguments"]), 0.01),
            worst=0.0,
        ),
        panel(
            "Turns without an end, %",
            "unfinished",
            lambda v: fixed(100.0 * v, 1),
            best=0.0,
            worst=0.5,
        ),
        panel("KL to the base, nats a token", "kl", lambda v: fixed(v, 3), best=0.0, worst=0.5),
    ]
    yield Picture(
        name="lora_scales",
        alt="Heat maps of four numbers over alpha/r and learning rate or their product",
        caption="Means over seeds; the palest colour is the base's own number. Above, each row has "
        "one learning rate; below, one (alpha/r) x learning rate, so that the learning rate falls "
        "as alpha/r grows: if the two could stand for each other, such a row would have one "
        f"colour. Before training: NLL {fixed(before, 3)}, same action "
        f"{fixed(100.0 * _value(base['arguments']), 0)} %.",
        draw=lambda: draw_heat_maps(
            panels, [name for _, name, _ in rows], [f"{r:g}" for r in ratios], "alpha/r", gaps
        ),
    )


def _map_rows(settings: Sequence[JSON]) -> Iterator[tuple[str, str, list[JSON]]]:
    """Block, name and settings of the rows: first those of one learning rate, then of a product."""
    by_product: dict[tuple[object, ...], list[JSON]] = {}
    by_rate: dict[tuple[object, ...], list[JSON]] = {}
    for s in settings:
        kind = (s["weights"], s["rslora"], s["r"])
        by_rate.setdefault((*kind, s["learning_rate"]), []).append(s)
        by_product.setdefault((*kind, s["product"]), []).append(s)
    products = {key: each for key, each in by_product.items() if len(each) > 1}
    in_products = [id(s) for each in products.values() for s in each]
    for block, groups in (("lr", by_rate), ("product", products)):
        for key in sorted(groups, key=str):
            each = groups[key]
            if block == "lr" and len(each) == 1 and id(each[0]) in in_products:
                continue  # stands in its product's row
            weights, rslora, r, value = key
            what = "lr" if block == "lr" else "(α/r)·lr"
            kind_name = f"{'rsLoRA' if rslora else 'LoRA'} {r}"
            yield block, f"{WEIGHTS[str(weights)]}, {kind_name}, {what} {value:g}", each


def _examples(results: JSON) -> list[Section]:
    garbled = sorted(
        (s for s in results["settings"] if s["examples"]),
        key=lambda s: -_value(s["unfinished"]) - _value(s["leaked"]),
    )
    blocks: list[Block] = [
        Example(
            verdict=f"{_setting_words(s)}",
            lines=tuple((e["step_id"], e["text"][:400] or "(nothing)") for e in s["examples"][:3]),
        )
        for s in garbled[:6]
    ]
    if not blocks:
        return []
    return [Section(title="What was written that is no action", blocks=blocks, folded=True)]


def _made(results: JSON) -> Iterator[Block]:
    yield Code(text=shlex.join(results["command"]))
    steps = sorted({s["num_steps"] for s in results["settings"]})
    seconds = sum(s["seconds"] for s in results["settings"])
    yield Paragraph(
        text=f"Base {results['origin']['base_model_id']}, {results['num_train_rows']:,} training "
        f"rows, {' or '.join(map(str, steps))} steps a cell, at most "
        f"{results['max_new_tokens']} tokens generated a turn; {seconds / 60:.0f} minutes in all. "
        "The adapter is measured over the weights that it was trained over, not merged."
    )


# Words


def _setting_words(s: JSON) -> str:
    kind = "rsLoRA" if s["rslora"] else "LoRA"
    fault = "" if s["fault"] == "none" else f", {FAULTS[s['fault']]}"
    return (
        f"{kind} r = {s['r']}, alpha/r = {s['ratio']:g}, learning rate {s['learning_rate']:g}, "
        f"{WEIGHTS[s['weights']]}{fault}"
    )


def _contrasts(results: JSON, kind: str, column: str) -> list[JSON]:
    return [
        c
        for c in results["contrasts"]
        if c["kind"] == kind and c["column"] == column and c["difference"]["value"] is not None
    ]


def _value(found: JSON) -> float:
    """A stored metric's value; NaN where the training diverged."""
    value = found["value"]
    return math.nan if value is None else float(value)


def _of(found: Sequence[JSON]) -> str:
    return f"; the largest of {len(found)}" if len(found) > 1 else ""


def _n(value: MetricValue | None) -> str:
    return "0" if value is None else f"{value.n:,} rows of {value.num_clusters} tasks"
