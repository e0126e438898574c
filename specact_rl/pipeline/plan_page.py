"""A plan as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from specact_rl.pipeline.plan import SCORING, WRITING, Plan, PlannedStage

_MARK = {"exact": "", "about": "~", "at most": "<="}
_MEMORY = (
    ("weights", "weights"),
    ("adapters", "adapters"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("activations", "activ."),
    ("kv cache", "KV cache"),
    ("working", "working"),
    ("other models", "others"),
    ("kept prefixes", "kept"),
)


def plan_page(plan: Plan) -> str:
    """The plan: what it is about, a table of work, one of memory, and what the numbers stand on."""
    device = plan.device
    with_model = [stage for stage in plan.stages if stage.memory is not None]
    asked = [stage for stage in plan.stages if stage.server_tokens is not None]
    lines = [f"preset {plan.preset}, planned; nothing was downloaded or loaded"]
    lines += [f"  {role}: {base}" for role, base in plan.bases.items()]
    lines += [
        f"device: {device.name}, {device.memory / 1e9:.1f} GB ({device.memory_source}), "
        f"{device.rate / 1e12:.3g} TFLOP/s ({device.rate_source})",
        f"rows: {plan.counted}",
        "",
        *_table(
            ("stage", "", "rows", "tokens", "TFLOP", "hours", "GB", "fits"),
            [_work_row(stage) for stage in plan.stages],
        ),
        "",
        *_of_servers(plan, asked),
        "memory at the worst moment, GB",
        *_table(
            ("stage", "", *(title for _, title in _MEMORY), "all"),
            [_memory_row(stage) for stage in with_model],
        ),
        "",
        f"in all {plan.seconds / 3600:.2f} hours of computing; starts, loading and saving of "
        "models come on top",
        "rows: ~ extrapolated from the tasks above, <= at most (it depends on what a model writes)",
        f"hours: trainings at {100 * plan.utilisation:.3g} % of the device's rate, scoring at "
        f"{100 * SCORING:.3g} %, writing at {100 * WRITING:.3g} %",
        "  measured on one H100 at the shape of Qwen3-1.7B (benchmarks/results/gpu-h100.json): "
        "trainings 18-26 %, scoring 15-31 %, proposals 4 %",
        "fits: tight where what PyTorch holds in reserve (measured: up to 14 % more) may not fit",
        "memory of trainings is for a batch of the longest row; others: models loaded beside",
    ]
    if not plan.fits:
        lines.append(what_does_not_fit(plan))
    return "\n".join(lines)


def _of_servers(plan: Plan, asked: Sequence[PlannedStage]) -> list[str]:
    """What is left out, and requests, tokens and dollars of the servers; nothing without any."""
    lines = list(plan.notes)
    if not asked:
        return lines
    price = "not known" if plan.price is None else f"{plan.price:,.2f} dollars"
    return [
        *lines,
        "",
        "servers",
        *_table(
            ("stage", "", "requests", "tokens in", "tokens out", "dollars"),
            [_server_row(stage) for stage in asked],
        ),
        f"price: {price}, if no token is cached, no two requests are equal (which are asked once) "
        "and answers are as long as the expert's",
        "  tokens are the base's; a server has a tokenizer and a catalogue of tools of its own",
        "",
    ]


def _server_row(stage: PlannedStage) -> tuple[str, ...]:
    read, written = stage.server_tokens or (0, 0)
    dollars = "" if stage.price is None else f"{stage.price:,.2f}"
    rows = f"{_MARK[stage.bound]}{stage.rows:,}"
    return (stage.stage, stage.what, rows, f"{read:,}", f"{written:,}", dollars)


def _work_row(stage: PlannedStage) -> tuple[str, ...]:
    rows = f"{_MARK[stage.bound]}{stage.rows:,}"
    if stage.memory is None or stage.seconds is None or stage.flops is None:
        tokens = "" if stage.tokens is None else f"{stage.tokens:,}"
        where = "server" if stage.server_tokens is not None else ""
        return (stage.stage, stage.what, rows, tokens, "", "", "", where)
    return (
        stage.stage,
        stage.what,
        rows,
        f"{stage.tokens:,}",
        f"{stage.flops / 1e12:,.3g}" if stage.flops < 1e15 else f"{stage.flops / 1e12:,.0f}",
        f"{stage.seconds / 3600:.3f}",
        f"{stage.total_memory / 1e9:.2f}",
        str(stage.fits),
    )


def _memory_row(stage: PlannedStage) -> tuple[str, ...]:
    parts = stage.memory or {}
    shown = [f"{parts[name] / 1e9:.2f}" if name in parts else "" for name, _ in _MEMORY]
    return (stage.stage, stage.what, *shown, f"{stage.total_memory / 1e9:.2f}")


def what_does_not_fit(plan: Plan) -> str:
    """The stages that do not fit the device, with what each takes, and what would be smaller."""
    stages = [stage for stage in plan.stages if stage.fits == "no"]
    names = ", ".join(
        f"{stage.stage}: {stage.what} ({stage.total_memory / 1e9:.1f} GB)" for stage in stages
    )
    advice = f"does not fit: {names}. Smaller bases: --cheap-base, --strong-base, --verifier-base"
    if any("gradients" in (stage.memory or {}) for stage in stages):
        advice += (
            "; for trainings, in the recipes' configs: load_in_4bit: true, "
            "activation_checkpointing: true, or a smaller per_device_train_batch_size with more "
            "gradient_accumulation_steps"
        )
    return advice


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first two columns are words, the others numbers."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(head), *(line(row) for row in rows)]
