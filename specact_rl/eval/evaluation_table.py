"""Reading the evaluation table: one row per proposal, with a column of scores for each verifier.

Columns are read and checked as columns; no loop runs over rows. Which columns there are and what
they mean is in `docs/data-formats.md`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.eval.columns import EFFECTS, LEVELS
from specact_rl.eval.score_table import as_log_odds
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.types import MATCH_LEVELS, SPLITS, MatchLevel

logger = logging.getLogger(__name__)

REQUIRED = ("step_id", "task_id", "model", "acceptable")
IDS = ("step_id", "task_id", "rollout_id", "model")
WORDS = (
    "split",
    "family",
    "reference_type",
    "action_type",
    "tool",
    "effect",
    "match_level",
    "action_hash",
)
TEXTS = ("text", "request", "last_message", "reference")
"""Shown in examples, and not looked at otherwise."""
COUNTS = ("sample", "step_index", "step_order", "num_prompt_tokens", "num_completion_tokens")
LEVEL_COLUMNS = {f"level_{level}": level for level in LEVELS}
FLAGS = ("acceptable", "parsed", "same_state", "out_of_family", *LEVEL_COLUMNS)
NUMBERS = ("seconds", "tool_seconds", "price", "logprob")
TIMES = ("seconds", "tool_seconds")
OF_STEP = ("task_id", "rollout_id", "split", "family", "reference_type")
"""Of a step, and so the same in all its rows."""
OF_VERIFIER = ("log_odds_", "p_", "seconds_")
"""Prefixes of a verifier's columns; what follows is its name."""
SIZES_KEY = "specact_sizes"
"""Key of a Parquet file's metadata that holds sizes, by name of the model or verifier, as JSON."""
KNOWN = (*IDS, *WORDS, *TEXTS, *COUNTS, *FLAGS, *NUMBERS)

FLAG_WORDS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
FLAG_WORDS |= dict.fromkeys(("", "null", "none", "nan"), float("nan"))
EMPTY = ("", "null", "none", "None", "NULL", "nan", "NaN")
"""What a CSV file has where nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A column of words, each word stored once."""

    codes: IntArray
    """Number of each row's word, -1 where there is none, shape (rows,)."""
    values: np.ndarray
    """The words in sorted order; strings."""

    def of(self, rows: IntArray, missing: str = "") -> np.ndarray:
        """Words of some rows, of their shape."""
        return np.append(self.values, missing)[self.codes[rows]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTable:
    """The columns of a table that has passed all checks; arrays have shape (rows,)."""

    path: Path
    num_rows: int
    words: dict[str, Words]
    """Of IDS and WORDS, by name; those that the table lacks are not there, here and below."""
    counts: dict[str, FloatArray]
    """NaN where there is none."""
    flags: dict[str, FloatArray]
    """1 or 0, NaN where unknown."""
    numbers: dict[str, FloatArray]
    texts: dict[str, pa.ChunkedArray]
    log_odds: dict[str, FloatArray]
    """By verifier; NaN where it could not judge."""
    judge_seconds: dict[str, FloatArray]
    """By verifier, for those whose seconds the table has."""
    sizes: dict[str, ModelSize] = field(default_factory=dict)
    """By name of the model or verifier; {} where the file says nothing."""
    ignored: tuple[str, ...] = ()
    """Columns that mean nothing here."""

    @property
    def levels(self) -> dict[MatchLevel, FloatArray]:
        """Whether each level of the matching ladder is reached; {} where the table has none."""
        return {level: self.flags[n] for n, level in LEVEL_COLUMNS.items() if n in self.flags}


def read_evaluation_table(path: str | Path) -> EvaluationTable:
    """Read and check a CSV or Parquet file.

    Raises:
        ConfigError: No such file, a column missing, or another kind of file.
        RolloutFormatError: A value that does not fit, with its column and row (from 0 on).
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"evaluation table {path} does not exist or is not a file")
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"evaluation table must end in .csv or .parquet, got {str(path)!r}")
    table, ignored = readers[path.suffix.lower()](path)
    if not table.num_rows:
        raise RolloutFormatError(f"{path}: no rows")
    column = _Columns(path, table)
    found = EvaluationTable(
        path=path,
        num_rows=table.num_rows,
        words={name: column.words(name) for name in (*IDS, *WORDS) if name in column},
        counts={name: column.counts(name) for name in COUNTS if name in column},
        flags={name: column.flags(name) for name in FLAGS if name in column},
        numbers={name: column.numbers(name) for name in NUMBERS if name in column},
        texts={name: table.column(name) for name in TEXTS if name in column},
        log_odds=_log_odds(column),
        judge_seconds={
            name.removeprefix("seconds_"): column.numbers(name)
            for name in table.column_names
            if name.startswith("seconds_")
        },
        sizes=_sizes(path, table),
        ignored=ignored,
    )
    _check(found)
    _add_levels(found)
    return found


def _read_parquet(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    try:
        wanted, ignored = _wanted(path, pq.read_schema(path).names)
        return pq.read_table(path, columns=wanted), ignored
    except (pa.ArrowInvalid, OSError) as error:
        raise RolloutFormatError(f"{path}: not a Parquet file: {error}") from error


def _read_csv(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline().rstrip("\r\n")
        wanted, ignored = _wanted(path, [name.strip().strip('"') for name in header.split(",")])
        types = {
            name: pa.float64()
            if name in (*COUNTS, *NUMBERS) or name.startswith(OF_VERIFIER)
            else pa.string()
            for name in wanted
        }
        table = pa_csv.read_csv(
            path,
            # One thread, so that an error knows its row.
            read_options=pa_csv.ReadOptions(use_threads=False),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                include_columns=wanted,
                null_values=list(EMPTY),
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        raise RolloutFormatError(f"{path}: cannot be read: {error}") from error
    return table, ignored


def _wanted(path: Path, names: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Columns to read, and those that mean nothing."""
    twice = sorted({name for name in names if names.count(name) > 1})
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ConfigError(
            f"{path} must have the columns {', '.join(REQUIRED)}; missing: {missing}; "
            f"its columns: {names}"
        )
    if twice:
        raise ConfigError(f"{path} must have each column once; twice: {', '.join(twice)}")
    if not any(name.startswith(("log_odds_", "p_")) for name in names):
        raise ConfigError(
            f"{path} must have a column of scores for each verifier, log_odds_NAME or p_NAME, got "
            f"none; its columns: {names}"
        )
    wanted = [name for name in names if name in KNOWN or name.startswith(OF_VERIFIER)]
    return wanted, tuple(name for name in names if name not in wanted)


class _Columns:
    """One column of a table at a time, as an array, or an error that names its place."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self.path, self.table = path, table

    def __contains__(self, name: str) -> bool:
        return name in self.table.column_names

    def words(self, name: str) -> Words:
        column = self._cast(name, pa.string())
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        if name in REQUIRED or name in IDS or name == "split":
            self.refuse(name, pc.is_null(column).to_numpy(), "must not be empty")
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
        words = encoded.dictionary
        order = pc.array_sort_indices(words).to_numpy()
        rank = np.empty(order.size, dtype=np.int64)
        rank[order] = np.arange(order.size)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return Words(
            codes=np.where(codes >= 0, np.append(rank, -1)[codes], -1),
            values=np.array(words.take(pa.array(order)).to_pylist(), dtype=np.str_),
        )

    def numbers(self, name: str) -> FloatArray:
        values = self._floats(name)
        self.refuse(name, np.isinf(values), "must be finite, or empty where it is not known")
        return values

    def counts(self, name: str) -> FloatArray:
        values = self._floats(name)
        fits = np.isnan(values) | ((values >= 0.0) & (values == np.floor(values)))
        self.refuse(name, ~fits, "must be a whole number of at least 0")
        return values

    def flags(self, name: str) -> FloatArray:
        kind = self.table.schema.field(name).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            words = self.words(name) if name not in REQUIRED else self._flag_words(name)
            known = [FLAG_WORDS.get(word.strip().lower(), np.inf) for word in words.values]
            values: FloatArray = np.array([*known, np.nan])[words.codes]
        else:
            values = self._floats(name)
        fits = np.isnan(values) | (values == 0.0) | (values == 1.0)
        self.refuse(name, ~fits, "must be 0/1, true/false, or empty where it is not known")
        return values

    def _flag_words(self, name: str) -> Words:
        renamed = self.table.select([name]).rename_columns(["flag"])
        return _Columns(self.path, renamed).words("flag")

    def _floats(self, name: str) -> FloatArray:
        return np.asarray(self._cast(name, pa.float64()).to_numpy(), dtype=np.float64)

    def _cast(self, name: str, kind: pa.DataType) -> pa.ChunkedArray:
        column = self.table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_boolean(column.type) and kind == pa.float64():
            column = column.cast(pa.int8())
        try:
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise RolloutFormatError(
                f"{self.path}, column {name!r}: {column.type} cannot be read as {kind}: {error}"
            ) from error

    def refuse(self, name: str, bad: BoolArray, must: str) -> None:
        """Raise the first of the bad rows."""
        if bad.any():
            row = int(np.argmax(bad))
            raise RolloutFormatError(
                f"{self.path}: row {row}: column {name!r} {must}, got "
                f"{self.table.column(name)[row].as_py()!r} ({int(bad.sum())} such rows; rows count "
                "from 0)"
            )


def _sizes(path: Path, table: pa.Table) -> dict[str, ModelSize]:
    text = (table.schema.metadata or {}).get(SIZES_KEY.encode())
    if text is None:
        return {}
    try:
        return {name: ModelSize(**size) for name, size in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise RolloutFormatError(f"{path}: its sizes cannot be read: {error}") from error


def _log_odds(column: _Columns) -> dict[str, FloatArray]:
    found: dict[str, FloatArray] = {}
    for name in column.table.column_names:
        if name.startswith("log_odds_"):
            verifier, values = name.removeprefix("log_odds_"), column.numbers(name)
            if _like_probabilities(values):
                logger.warning(
                    "%s: all values of column %r lie in [0, 1]; if they are probabilities, call it "
                    "p_%s",
                    column.path,
                    name,
                    verifier,
                )
        elif name.startswith("p_"):
            verifier, values = name.removeprefix("p_"), column.numbers(name).copy()
            column.refuse(name, (values < 0.0) | (values > 1.0), "must lie in [0, 1]")
            judged = ~np.isnan(values)
            if judged.any():
                values[judged] = as_log_odds(values[judged], "probability")
        else:
            continue
        if verifier in found or not verifier:
            raise ConfigError(
                f"{column.path} must have one column of scores for each verifier, got {name!r} "
                "with no name, or beside another of that name"
            )
        found[verifier] = values
    return found


def _like_probabilities(values: FloatArray) -> bool:
    """Real log-odds seldom keep to [0, 1]; 0 and 1 alone may be votes."""
    known = values[~np.isnan(values)]
    inside = bool(known.size) and bool(((known >= 0.0) & (known <= 1.0)).all())
    return inside and bool(((known > 0.0) & (known < 1.0)).any())


def _check(table: EvaluationTable) -> None:
    """What holds between columns: whose rows are whose, and what occurs once."""
    table.counts.setdefault("sample", np.zeros(table.num_rows))
    _refuse(table, np.isnan(table.counts["sample"]), "must have a sample number")
    closed = {"split": SPLITS, "match_level": MATCH_LEVELS, "effect": EFFECTS}
    for name, allowed in closed.items():
        if name in table.words:
            unknown = [word not in (*allowed, "") for word in table.words[name].values]
            bad = np.array([*unknown, False])[table.words[name].codes]
            _refuse(table, bad, f"must have a {name} of {', '.join(allowed)}")
    for name in TIMES:
        if name in table.numbers:
            _refuse(table, table.numbers[name] < 0.0, f"must have {name} of at least 0")
    steps = table.words["step_id"]
    first = first_rows(steps.codes, steps.values.size)[steps.codes]
    for name in OF_STEP:
        if name in table.words:
            codes = table.words[name].codes
            _refuse(table, codes != codes[first], f"must have the {name} of its step's first row")
    for name in ("step_index", "step_order"):
        if name in table.counts:
            values = table.counts[name]
            _refuse(table, np.isnan(values), f"must have a {name}, as others have")
            _refuse(table, values != values[first], f"must have its step's {name}")
    if "split" in table.words:
        tasks, split = table.words["task_id"], table.words["split"].codes
        of_task = split[first_rows(tasks.codes, tasks.values.size)][tasks.codes]
        _refuse(table, split != of_task, "is of a task that is in another split, too")
    sample = table.counts["sample"].astype(np.int64)
    models = table.words["model"]
    key = (steps.codes * models.values.size + models.codes) * (int(sample.max()) + 1) + sample
    order = np.argsort(key, kind="stable")
    repeats = np.zeros(table.num_rows, dtype=np.bool_)
    repeats[order[1:]] = key[order[1:]] == key[order[:-1]]
    _refuse(table, repeats, "repeats the step, model and sample of an earlier row")


def _refuse(table: EvaluationTable, bad: BoolArray, why: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        step = str(table.words["step_id"].of(np.array(row)))
        raise RolloutFormatError(
            f"{table.path}: row {row} (step {step!r}) {why} ({int(bad.sum())} such rows; rows "
            "count from 0)"
        )


def first_rows(codes: IntArray, num_codes: int) -> IntArray:
    """The first row of each code, shape (num_codes,); every code occurs."""
    first = np.empty(num_codes, dtype=np.int64)
    first[codes[::-1]] = np.arange(codes.size)[::-1]
    return first


def _add_levels(table: EvaluationTable) -> None:
    """The levels that a match level includes."""
    if "match_level" not in table.words:
        return
    words = table.words["match_level"]
    reached = np.array(
        [*(MATCH_LEVELS.index(word) if word else 0 for word in words.values.tolist()), 0]
    )[words.codes]
    for name, level in LEVEL_COLUMNS.items():
        table.flags[name] = (reached >= MATCH_LEVELS.index(level)).astype(np.float64)
