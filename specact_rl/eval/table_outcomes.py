"""From an evaluation table to what `calibrate` and `evaluate` take, as array operations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.columns import (
    LEVELS,
    NO_ACTION,
    MadeOnDemand,
    ProposalColumns,
    StepTable,
    first_of_their_kind,
)
from specact_rl.eval.evaluate import FREE_VERIFIERS
from specact_rl.eval.evaluation_table import EvaluationTable, first_rows
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.replay import Judged
from specact_rl.eval.step_outcomes import StepNames
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.types import ACTION_TYPES, Action, Proposal, SplitName, Step, proposal_id

logger = logging.getLogger(__name__)

JUDGE = "strong_judge"
"""Verifier that is the strong model itself."""
DERIVED = ("proposer_logprob", "sample_agreement")
"""Verifiers that follow from the proposals, where the table has no column of their own."""
UNKNOWN_TYPE = "unknown"
"""Of reference actions whose type the table does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """Who is who in a table."""

    models: Mapping[str, str]
    """Name in the table by role: cheap and strong, and cheap_dpo where there is one."""
    verifier: str | None = None
    """The one of D and E; None takes the first that is neither free nor the judge."""
    judge: str | None = JUDGE
    """The strong model as verifier, of C, if the table has it; None: no verifier is that."""
    sizes: Mapping[str, ModelSize] = field(default_factory=dict)
    """Of models by role and of verifiers by name, where they are others than the table has; FLOPs
    are counted where they are known."""
    calibration_share: float = 0.4
    """Share of the tasks that gates are fitted on, where the table has no split."""
    seed: int = 0


class TableOutcomes:
    """The outcomes of a table's splits, and the systems that they can be joined to.

    Raises:
        ConfigError: A model or verifier is not there, or the models' samples do not fit.
    """

    def __init__(self, table: EvaluationTable, plan: TablePlan, table_hash: str) -> None:
        """Find each model's rows; nothing is joined yet."""
        self.table, self.plan, self.table_hash = table, plan, table_hash
        words = table.words["model"]
        self.rows: dict[str, IntArray] = {}
        for role, name in plan.models.items():
            if name not in words.values:
                raise ConfigError(
                    f"{table.path} must have rows of the {role} model {name!r}; its models: "
                    f"{words.values.tolist()}"
                )
            self.rows[role] = np.flatnonzero(words.codes == np.searchsorted(words.values, name))
        if len(set(plan.models.values())) < len(plan.models):
            raise ConfigError(f"each role must have a model of its own, got {dict(plan.models)}")
        named = [name for name in (plan.verifier, plan.judge) if name not in (None, JUDGE)]
        for name in [*named, *plan.sizes]:
            if name in table.log_odds or name in DERIVED:
                continue
            if name not in plan.sizes:
                raise ConfigError(
                    f"{name!r} must be a verifier of {table.path}, one of {list(table.log_odds)}"
                )
            if name not in plan.models:
                raise ConfigError(
                    f"parameters must be of a role ({', '.join(plan.models)}) or of a verifier of "
                    f"{table.path} ({', '.join(table.log_odds)}), got {name!r}"
                )
        proposals = np.concatenate([rows for role, rows in self.rows.items() if role != "strong"])
        for name, values in table.log_odds.items():
            if np.isnan(values[proposals]).all():
                raise ConfigError(
                    f"{table.path}: the column of scores of {name!r} is empty in every row of the "
                    "proposer; fill it, or leave the column out"
                )

    @cached_property
    def verifier(self) -> str:
        """Name of the verifier of D and E."""
        if self.plan.verifier is not None:
            return self.plan.verifier
        names = [name for name in self.table.log_odds if name != self.plan.judge]
        trained = [name for name in names if name not in FREE_VERIFIERS]
        if "classifier" in trained:
            return "classifier"
        if not names:
            raise ConfigError(f"{self.table.path} must have a verifier that is not the judge")
        return (trained or names)[0]

    @cached_property
    def rivals(self) -> tuple[str, ...]:
        """Verifiers that others are held against: free ones, and those of no system of ours."""
        ours = {s.verifier for s in SYSTEMS.values()} - set(FREE_VERIFIERS) | {self.verifier}
        theirs = {name for name in self.all_verifiers if name not in ours}
        free = tuple(name for name in FREE_VERIFIERS if name in theirs)
        return (*free, *sorted(theirs.difference(free)))

    @cached_property
    def all_verifiers(self) -> tuple[str, ...]:
        """By the names that systems know them by; the judge is `JUDGE`."""
        found = [JUDGE if name == self.plan.judge else name for name in self.table.log_odds]
        return tuple(dict.fromkeys((*found, *self._derived)))

    @cached_property
    def _derived(self) -> tuple[str, ...]:
        known = {
            "proposer_logprob": "logprob" in self.table.numbers,
            "sample_agreement": self.num_samples > 1 and self.keys is not None,
        }
        return tuple(n for n in DERIVED if known[n] and n not in self.table.log_odds)

    @cached_property
    def num_samples(self) -> int:
        """Of the cheap model at each step."""
        return int(self.table.counts["sample"][self.rows["cheap"]].max()) + 1

    @cached_property
    def keys(self) -> IntArray | None:
        """Equal for the same actions of one step, per row; None where nothing tells."""
        for name in ("action_hash", "text"):
            if name in self.table.words:
                return self.table.words[name].codes
            if name in self.table.texts:
                encoded = self.table.texts[name].combine_chunks().dictionary_encode()
                codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
                return np.asarray(codes, dtype=np.int64)
        return None

    @cached_property
    def systems(self) -> dict[str, System]:
        """A to E with the table's verifiers, by name, and a D and an E of each further one."""
        k = self.num_samples
        found: dict[str, System] = {}
        for system in SYSTEMS.values():
            several = system.num_proposals > 1 or system.num_compared > 1
            verifier = self.verifier if system.verifier == "classifier" else system.verifier
            known = verifier in (None, *self.all_verifiers)
            if not known or (several and k < 2) or system.proposer not in (None, *self.rows):
                continue
            found[system.name] = replace(
                system,
                title=system.title.replace(f"{SYSTEMS['E'].num_proposals} ", f"{k} "),
                verifier=verifier,
                num_proposals=k if system.num_proposals > 1 else 1,
                num_compared=k if system.num_compared > 1 else 1,
            )
        have = {(s.verifier, s.num_proposals > 1) for s in found.values()}
        for name in (n for n in self.rivals if n not in DERIVED):
            for letter in ("D", "E") if self._chooses(name) else ("D",):
                if (name, letter == "E") not in have:
                    title = f"cheap + {name}" if letter == "D" else f"{k} proposals + {name} picks"
                    found[f"{letter}-{name}"] = replace(
                        found[letter], name=f"{letter}-{name}", title=title, verifier=name
                    )
        return found

    def _chooses(self, verifier: str) -> bool:
        """Whether it has judged further samples than the first."""
        rows = self.rows["cheap"]
        scored = ~np.isnan(self.table.log_odds[verifier][rows])
        return bool((scored & (self.table.counts["sample"][rows] > 0.0)).any())

    @cached_property
    def split(self) -> IntArray:
        """0: calibration, 1: test, 2: another split, per row."""
        if "split" in self.table.words:
            words = self.table.words["split"]
            places = [{"calibration": 0, "test": 1}.get(w, 2) for w in words.values.tolist()]
            return np.array(places, dtype=np.int64)[words.codes]
        tasks = self.table.words["task_id"]
        share = self.plan.calibration_share
        drawn = np.random.default_rng(self.plan.seed).permutation(tasks.values.size)
        of_task = (drawn >= round(share * tasks.values.size)).astype(np.int64)
        return of_task[tasks.codes]

    def size(self, *names: str) -> ModelSize | None:
        """What the plan says of any of the names, or the table; None where neither does."""
        known = (sizes.get(name) for sizes in (self.plan.sizes, self.table.sizes) for name in names)
        return next((size for size in known if size is not None), None)

    def outcomes(self, split: SplitName) -> Outcomes:
        """All of one split, joined.

        Raises:
            ConfigError: No steps, or a step without a model's rows.
        """
        joined = _Joined(self, self.split == {"calibration": 0, "test": 1}[split], split)
        columns = {role: joined.columns(role) for role in self.rows}
        judged = {
            (name, role): found
            for role in self.rows
            if role != "strong"
            for name in self.all_verifiers
            if (found := joined.judged(name, role, columns[role])) is not None
        }
        if not any(role == "cheap" for _, role in judged):
            raise ConfigError(
                f"{self.table.path} must have scores of the {split} proposals of "
                f"{self.plan.models['cheap']!r}, but every score there is empty"
            )
        return Outcomes(
            table=joined.step_table,
            columns=columns,
            judged=judged,
            sizes={role: self.size(role, name) for role, name in self.plan.models.items()},
        )

    def names(self, table: StepTable) -> StepNames:
        """Which steps those of an outcome table are."""
        assert isinstance(table.steps, MadeOnDemand)  # of this class
        rows, words = table.steps.numbers, self.table.words
        return StepNames(
            step_ids=words["step_id"].of(rows),
            task_ids=words["task_id"].of(rows),
            out_of_family=table.out_of_family,
        )


class _Joined:
    """One split under way: which row is which sample of which step."""

    def __init__(self, outcomes: TableOutcomes, here: BoolArray, split: SplitName) -> None:
        self.outcomes, self.table, self.split = outcomes, outcomes.table, split
        self.rows = {role: rows[here[rows]] for role, rows in outcomes.rows.items()}
        steps = self.table.words["step_id"]
        used = np.unique(np.concatenate([steps.codes[rows] for rows in self.rows.values()]))
        if not used.size:
            raise ConfigError(f"{self.table.path} must have steps in the {split} split, got none")
        first = first_rows(steps.codes, steps.values.size)[used]
        by = [used]
        if "step_index" in self.table.counts:
            by.append(self.table.counts["step_index"][first])
        if "rollout_id" in self.table.words:
            by.append(self.table.words["rollout_id"].codes[first])
        if "step_order" in self.table.counts:
            by.append(self.table.counts["step_order"][first])
        order = np.lexsort(by)
        self.first = first[order]
        """A row of each step, in the order of the steps."""
        self.place = np.full(steps.values.size, -1, dtype=np.int64)
        self.place[used[order]] = np.arange(used.size)
        self.at = {role: self._matrix_of_rows(role) for role in self.rows}

    def _matrix_of_rows(self, role: str) -> IntArray:
        """Row of each step and sample, shape (n, k)."""
        rows = self.rows[role]
        sample = self.table.counts["sample"][rows].astype(np.int64)
        n, k = self.first.size, int(sample.max(initial=0)) + 1
        at = np.full((n, k), -1, dtype=np.int64)
        at[self.place[self.table.words["step_id"].codes[rows]], sample] = rows
        if (at < 0).any():
            step, missing = (int(i[0]) for i in np.nonzero(at < 0))
            steps = self.table.words["step_id"]
            raise ConfigError(
                f"{self.table.path}: {self.outcomes.plan.models[role]!r} must have the samples 0 "
                f"to {k - 1} at every {self.split} step, but sample {missing} is missing at step "
                f"{str(steps.of(self.first[step : step + 1])[0])!r} "
                f"({int((at < 0).any(axis=1).sum())} such steps)"
            )
        return at

    def words(self, name: str, rows: IntArray, missing: str = "") -> np.ndarray:
        words = self.table.words.get(name)
        return np.full(rows.shape, missing) if words is None else words.of(rows, missing)

    @cached_property
    def step_table(self) -> StepTable:
        first, n = self.first, self.first.size
        rollouts = self.table.words.get("rollout_id")
        held_out = self.table.flags.get("out_of_family")
        indices = self.table.counts.get("step_index")
        types = self.words("reference_type", first)
        if "reference_type" not in self.table.words and self.table.levels:
            types = np.full(n, UNKNOWN_TYPE)
        return StepTable(
            steps=MadeOnDemand(self.step, first),
            task_ids=self.table.words["task_id"].codes[first],
            rollouts=np.arange(n) if rollouts is None else rollouts.codes[first],
            out_of_family=(
                np.zeros(n, dtype=np.bool_) if held_out is None else held_out[first] == 1.0
            ),
            reference_types=types,
            families=self.words("family", first),
            indices=(
                np.zeros(n, dtype=np.int64) if indices is None else indices[first].astype(np.int64)
            ),
            num_out_of_reach=0,
        )

    def columns(self, role: str) -> ProposalColumns:
        at = self.at[role]
        flags, numbers, counts = self.table.flags, self.table.numbers, self.table.counts

        def floats(columns: Mapping[str, FloatArray], name: str) -> FloatArray:
            return columns[name][at] if name in columns else np.full(at.shape, np.nan)

        parsed = self.parsed(at)
        keys = self.keys(at, parsed)
        prompt = floats(counts, "num_prompt_tokens")
        completion = floats(counts, "num_completion_tokens")
        known = not (np.isnan(prompt).any() or np.isnan(completion).any())
        first_of_its_kind = first_of_their_kind(keys)
        levels = self.table.levels
        return ProposalColumns(
            model_id=self.outcomes.plan.models[role],
            proposals=MadeOnDemand(self.proposals(role), np.arange(at.shape[0])),
            acceptable=flags["acceptable"][at],
            parsed=parsed,
            same_state=floats(flags, "same_state"),
            levels={
                level: (
                    levels[level][at] == 1.0 if level in levels else np.zeros(at.shape, np.bool_)
                )
                for level in LEVELS
            },
            keys=keys,
            first_of_its_kind=first_of_its_kind,
            num_distinct=first_of_its_kind.sum(axis=1),
            action_types=self.words("action_type", at),
            tools=self.words("tool", at),
            effects=self.words("effect", at),
            logprob=floats(numbers, "logprob"),
            tokens_known=known,
            prompt_tokens=(prompt[:, 0] if known else np.zeros(at.shape[0])).astype(np.int64),
            completion_tokens=(completion if known else np.zeros(at.shape)).astype(np.int64),
            seconds=floats(numbers, "seconds"),
            price=floats(numbers, "price"),
            tool_seconds=floats(numbers, "tool_seconds"),
        )

    def parsed(self, at: IntArray) -> BoolArray:
        """As the table says; else what has an action's hash, else all."""
        if "parsed" in self.table.flags:
            return np.asarray(self.table.flags["parsed"][at] == 1.0)
        if "action_hash" in self.table.words:
            return self.table.words["action_hash"].codes[at] >= 0
        return np.ones(at.shape, dtype=np.bool_)

    def keys(self, at: IntArray, parsed: BoolArray) -> IntArray:
        """Of the actions; each is one of its own where nothing tells."""
        own, keys = -1 - at, self.outcomes.keys
        found = own if keys is None else np.where(keys[at] < 0, own, 1 + keys[at])
        return np.where(parsed, found, NO_ACTION)

    def judged(self, name: str, role: str, columns: ProposalColumns) -> Judged | None:
        """A verifier's view of a model; None where it has not judged it."""
        at, is_judge = self.at[role], name == JUDGE
        column = self.outcomes.plan.judge if is_judge and self.outcomes.plan.judge else name
        seconds = np.zeros(at.shape)
        if column in self.table.log_odds:
            log_odds = self.table.log_odds[column][at]
            seconds = np.full(at.shape, np.nan)
            if column in self.table.judge_seconds:
                seconds = self.table.judge_seconds[column][at]
        elif name == "proposer_logprob":
            log_p = columns.logprob
            log_odds = log_p - np.log(-np.expm1(np.minimum(log_p, -1e-9)))
        else:
            log_odds = _agreement(columns.keys)
        # What cannot be executed may have a score; no gate accepts it.
        log_odds = np.where(columns.parsed, log_odds, np.nan)
        if np.isnan(log_odds).all():
            return None
        # The judge is the strong model itself.
        strong = ("strong", self.outcomes.plan.models["strong"]) if is_judge else ()
        size = self.outcomes.size(column, *strong)
        return Judged(
            verifier_id=f"{column}@{self.outcomes.table_hash[:16]}",
            size=NO_MODEL if size is None and name in FREE_VERIFIERS else size,
            shares_strong=is_judge,
            log_odds=log_odds,
            seconds=seconds,
        )

    # What is looked at one by one, for examples.

    def text(self, name: str, row: int) -> str | None:
        texts = self.table.texts.get(name)
        value = None if texts is None else texts[row].as_py()
        return None if value is None else str(value)

    def word(self, name: str, row: int) -> str:
        return str(self.words(name, np.array([row]))[0])

    def step(self, row: int) -> Step:
        """The step of a row."""
        last, reference = self.text("last_message", row), self.text("reference", row)
        history = [{"role": "user", "content": self.text("request", row) or ""}]
        if last is not None:
            history.append({"role": "tool", "content": last})
        index = self.table.counts.get("step_index")
        return Step(
            step_id=self.word("step_id", row),
            rollout_id=self.word("rollout_id", row),
            task_id=self.word("task_id", row),
            family=self.word("family", row),
            split=self.split,
            index=0 if index is None else int(index[row]),
            history=history,
            tools=[],
            executed=None,
            reference=None if reference is None else _action(reference, "", ""),
        )

    def proposals(self, role: str) -> Callable[[int], list[Proposal]]:
        """What makes all samples of a model at a step, from the step's place."""
        model = self.outcomes.plan.models[role]

        def proposal(row: int, sample: int) -> Proposal:
            one = np.array([[row]])
            parsed = bool(self.parsed(one)[0, 0])
            step, text = self.word("step_id", row), self.text("text", row) or ""
            kind, tool = self.word("action_type", row), self.word("tool", row)
            reached = [level for level, values in self.table.levels.items() if values[row] == 1.0]
            return Proposal(
                proposal_id=proposal_id(step, model, "generate", sample),
                step_id=step,
                task_id=self.word("task_id", row),
                model_id=model,
                sample=sample,
                mode="generate",
                text=text,
                action=_action(text, kind, tool) if parsed else None,
                parse_error=None if parsed else "the table says that it does not parse",
                match_level=reached[-1] if reached else "none",
                same_state=_known_flag(self.table.flags, "same_state", row),
                acceptable=_known_flag(self.table.flags, "acceptable", row),
                label_source="table",
                logprob=_known_number(self.table.numbers, "logprob", row),
                num_candidates=None,
                num_prompt_tokens=_known_count(self.table.counts, "num_prompt_tokens", row),
                num_cached_tokens=0,
                num_completion_tokens=_known_count(self.table.counts, "num_completion_tokens", row),
                seconds=_known_number(self.table.numbers, "seconds", row),
                price=_known_number(self.table.numbers, "price", row),
                tool_seconds=_known_number(self.table.numbers, "tool_seconds", row),
            )

        def make(place: int) -> list[Proposal]:
            return [proposal(row, k) for k, row in enumerate(self.at[role][place].tolist())]

        return make


def _action(text: str, kind: str, tool: str) -> Action:
    """An action as far as a table tells it."""
    known = next((name for name in ACTION_TYPES if name == kind), None)
    if tool:
        return Action(type=known or "tool_call", tool=tool)
    return Action(type=known or "final_answer", text=text)


def _agreement(keys: IntArray) -> FloatArray:
    """Log-odds of the share of the samples that are the same action, with half a count each."""
    same = (keys[:, :, None] == keys[:, None, :]).sum(axis=2)
    log_odds = np.log((same + 0.5) / (keys.shape[1] - same + 0.5))
    return np.where(keys == NO_ACTION, np.nan, log_odds)


def _known_number(columns: Mapping[str, FloatArray], name: str, row: int) -> float | None:
    value = columns[name][row] if name in columns else np.nan
    return None if np.isnan(value) else float(value)


def _known_count(columns: Mapping[str, FloatArray], name: str, row: int) -> int | None:
    value = _known_number(columns, name, row)
    return None if value is None else int(value)


def _known_flag(columns: Mapping[str, FloatArray], name: str, row: int) -> bool | None:
    value = _known_number(columns, name, row)
    return None if value is None else bool(value)
