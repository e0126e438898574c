"""`specact run`, `report`, `repeats` and `recipes`: a preset from nothing, and what it left."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specact_rl.cli.shared import (
    EXIT_FINDINGS,
    EXIT_OK,
    add_role_server_arguments,
    role_arguments,
    role_options,
)
from specact_rl.errors import ConfigError

if TYPE_CHECKING:
    from specact_rl.cli.shared import Subparsers
    from specact_rl.pipeline.servers import Servers
    from specact_rl.presets import Preset


_PLAN_OPTIONS = ("json", "utilisation", "device_memory", "device_tflops")
_PRESET_OPTIONS = ("cheap_base", "strong_base", "verifier_base", "chat_template", "num_tasks")


def add_run(subparsers: Subparsers) -> None:
    """Declare `specact run`."""
    parser = subparsers.add_parser(
        "run",
        help="the whole path: tasks, training, gates, systems A-E, live episodes, report",
        description="Run a preset from nothing to a report. The same command goes on with a run "
        "that was stopped, and skips what is finished.",
    )
    parser.add_argument(
        "--preset",
        default="tiny",
        metavar="NAME",
        help="tiny (CPU, minutes), smoke (CPU, about a minute, numbers mean nothing) or qwen3 "
        "(GPU; Qwen3 1.7B, 4B, 8B) (default: tiny)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run, made if absent")
    parser.add_argument("--seed", type=int, default=0, help="of tasks, training and sampling")
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="pretrain the tiny bases first, instead of taking the shipped ones; not for qwen3",
    )
    bases = parser.add_argument_group(
        "in the place of what the preset says",
        "A base is a checkpoint folder, a hub id, or ID@REVISION; for cheap and strong also "
        "URL#NAME, a server's model. Nothing is fetched but the bases named here or by the preset.",
    )
    for role, what in (
        ("cheap", "what the cheap proposer starts from"),
        ("strong", "what the strong model starts from"),
        ("verifier", "what verifier and reward model start from"),
    ):
        bases.add_argument(f"--{role}-base", metavar="BASE", help=what)
    bases.add_argument(
        "--chat-template",
        metavar="NAME",
        help="what all models are trained with: own (that of their tokenizers), a name of TRL's, "
        "or a .jinja file (default of qwen3: qwen3_instruct_2507_training, else own)",
    )
    bases.add_argument(
        "--num-tasks",
        type=int,
        metavar="N",
        help="in-family tasks over all splits; the preset's other numbers of tasks go with it",
    )
    add_role_server_arguments(parser)
    plan = parser.add_argument_group(
        "plan",
        "What the run will take, stage by stage: rows, tokens, FLOPs, memory, hours, and whether "
        "it fits. Downloads nothing and loads no weights. Exit code 1 if a stage does not fit.",
    )
    plan.add_argument("--plan", action="store_true", help="print the plan and run nothing")
    plan.add_argument("--json", action="store_true", help="the plan as JSON")
    plan.add_argument(
        "--utilisation",
        type=float,
        metavar="SHARE",
        help="of the device's matrix product rate that trainings reach (default: 0.18; 0.18 to "
        "0.26 were measured on one H100, benchmarks/results/gpu-h100.json)",
    )
    plan.add_argument(
        "--device-memory",
        type=float,
        metavar="GB",
        help="of the device, 10^9 bytes (default: detected; 80 where the preset is for a GPU and "
        "there is none)",
    )
    plan.add_argument(
        "--device-tflops",
        type=float,
        metavar="TFLOPS",
        help="rate of a matrix product on the device (default: measured; 792, an H100's, where the "
        "preset is for a GPU and there is none)",
    )
    parser.set_defaults(run=run_run)


def run_run(args: argparse.Namespace) -> int:
    """Run the preset and end with its table, its verdicts and the report's path; or plan it."""
    if args.plan:
        return _run_plan(args)
    from specact_rl.presets import find_preset

    given = [name for name in _PLAN_OPTIONS if getattr(args, name)]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is of a plan; add --plan")
    if args.out is None:
        raise ConfigError("--out DIR must be given: the folder of the run")
    preset = find_preset(args.preset)  # before seconds of imports
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from specact_rl.eval.report import terminal_summary
    from specact_rl.pipeline.bases import adapted_preset
    from specact_rl.pipeline.run import run_preset
    from specact_rl.progress import progress_bars

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    changes = {name: getattr(args, name) for name in _PRESET_OPTIONS}
    preset = adapted_preset(preset, **changes)
    servers = _servers(preset, args)
    command = ["specact", "run", "--preset", args.preset, "--out", str(args.out)]
    command += ["--seed", str(args.seed), *(["--from-scratch"] if args.from_scratch else [])]
    for name, value in changes.items():
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    command += role_arguments(args)
    with progress_bars() as bar:
        results = run_preset(
            preset,
            args.out,
            seed=args.seed,
            progress=bar,
            command=command,
            from_scratch=args.from_scratch,
            servers=servers,
        )
    console = Console()
    terminal_summary(results, console)
    console.print(f"report: {args.out / 'report' / 'report.html'}", soft_wrap=True)
    return EXIT_OK


def _servers(preset: Preset, args: argparse.Namespace) -> Servers:
    from specact_rl.pipeline.servers import Servers

    bases = {"cheap": preset.cheap_base, "strong": preset.strong_base}
    return Servers.of(preset, role_options(bases, args))


def _run_plan(args: argparse.Namespace) -> int:
    """Print what the run will take."""
    import json

    from specact_rl.pipeline.bases import adapted_preset
    from specact_rl.pipeline.plan import plan_run
    from specact_rl.pipeline.plan_page import plan_page
    from specact_rl.presets import find_preset

    for name in ("utilisation", "device_memory", "device_tflops"):
        value = getattr(args, name)
        if value is not None and not 0.0 < value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value!r}")
    if args.utilisation is not None and args.utilisation > 1.0:
        raise ConfigError(f"--utilisation must be a share, at most 1, got {args.utilisation!r}")
    changes = {name: getattr(args, name) for name in _PRESET_OPTIONS}
    preset = adapted_preset(find_preset(args.preset), **changes)
    plan = plan_run(
        preset,
        seed=args.seed,
        servers=_servers(preset, args),
        utilisation=args.utilisation,
        device_memory=None if args.device_memory is None else round(args.device_memory * 1e9),
        device_rate=None if args.device_tflops is None else args.device_tflops * 1e12,
    )
    print(json.dumps(plan.to_json(), indent=2) if args.json else plan_page(plan))
    return EXIT_OK if plan.fits else EXIT_FINDINGS


def add_report(subparsers: Subparsers) -> None:
    """Declare `specact report`."""
    parser = subparsers.add_parser(
        "report",
        help="write the report of a finished run again, or compare two runs",
        description="Write report.html, report.md and figures from a run's results, which stay as "
        "they are; no model runs and nothing is measured again. With --compare, print how the "
        "systems of two runs differ, with paired tests on the test steps that both have.",
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="folder that `specact run` or `specact study` wrote",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("RUN1", "RUN2"),
        help="two such folders, instead of DIR",
    )
    parser.add_argument(
        "--unpaired",
        action="store_true",
        help="with --compare: compare runs with other test steps, too, as independent samples",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the report (default: DIR/report; with --compare: none, compare.html and "
        "compare.md are not written)",
    )
    parser.set_defaults(run=run_report)


def run_report(args: argparse.Namespace) -> int:
    """Write the files and print the page's path, or print the comparison."""
    from specact_rl.eval.report import write_report

    if (args.results is None) == (args.compare is None):
        raise ConfigError("give the folder of one run, or --compare with the folders of two")
    if args.compare is not None:
        return _compare(args.compare, args.out, unpaired=args.unpaired)
    if args.unpaired:
        raise ConfigError("--unpaired goes with --compare")
    print(write_report(_read_results(args.results), args.out or args.results / "report")[-1])
    return EXIT_OK


def _compare(runs: list[Path], out: Path | None, *, unpaired: bool) -> int:
    import numpy as np

    from specact_rl.eval.compare import compare_runs
    from specact_rl.eval.report.compare_page import compare_page
    from specact_rl.eval.report.markdown import page_markdown
    from specact_rl.eval.report.writing import write_page
    from specact_rl.eval.step_outcomes import read_step_outcomes

    results = (_read_results(runs[0]), _read_results(runs[1]))
    names = (str(runs[0]), str(runs[1]))
    compared = compare_runs(
        *map(read_step_outcomes, runs),
        names=names,
        unpaired=unpaired,
        rng=np.random.default_rng(0),
    )
    page = compare_page(compared, results, names)
    print(page_markdown(page), end="")
    if out is not None:
        print(write_page(page, out, "compare")[-1])
    return EXIT_OK


def add_repeats(subparsers: Subparsers) -> None:
    """Declare `specact repeats`."""
    parser = subparsers.add_parser(
        "repeats",
        help="which claims repeat over several runs of one preset",
        description="Hold finished runs of one preset with different seeds side by side: each "
        "declared claim in each run, its mean, and in how many runs it holds. Prints Markdown.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="DIR", help="folders of `specact run`"
    )
    parser.set_defaults(run=run_repeats)


def run_repeats(args: argparse.Namespace) -> int:
    """Print the page."""
    from specact_rl.eval.repeats import repeats_page

    print(repeats_page([_read_results(folder) for folder in args.runs]), end="")
    return EXIT_OK


def _read_results(run: Path) -> dict[str, Any]:
    from specact_rl.eval.results_schema import check_version
    from specact_rl.store import read_json

    path = run / "evaluation" / "results.json"
    if not path.is_file():
        raise ConfigError(f"{run} must be a finished run of `specact run`, but has no {path}")
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold a JSON object, got {type(found).__name__}")
    check_version(found, str(path))
    return found


def add_recipes(subparsers: Subparsers) -> None:
    """Declare `specact recipes`."""
    parser = subparsers.add_parser(
        "recipes", help="list the training recipes and data builders, or copy them out"
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--list", action="store_true", help="one line on each, with its path")
    action.add_argument(
        "--copy", type=Path, metavar="DIR", help="copy them with their configs to DIR"
    )
    parser.set_defaults(run=run_recipes)


def run_recipes(args: argparse.Namespace) -> int:
    """List the programs, or copy them."""
    from specact_rl.programs import copy_programs, list_programs

    if args.copy is not None:
        for folder in copy_programs(args.copy):
            print(folder)
        return EXIT_OK
    for program in list_programs():
        print(f"{program.kind}/{program.name}\t{program.summary}\t{program.path}")
    return EXIT_OK
