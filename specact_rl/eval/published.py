"""Published tables of systems: accuracies, costs and accept rates as somebody printed them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from specact_rl.errors import ConfigError
from specact_rl.metrics.cost import AssumedCosts

COLUMNS = (
    "config",
    "accuracy",
    "cost",
    "accept_rate",
    "accepted_accuracy",
    "n",
    "num_proposals",
)
NEEDED = ("config", "accuracy")
TOP_LEVEL = ("title", "n", "unit_costs", "shares", "systems")
UNIT_COSTS = ("cheap", "verifier", "strong")

Role = Literal["strong", "cheap", "gated", "picks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A share as it was printed."""

    value: float
    places: int
    """Decimals that were printed; the true share lies within half a unit of the last one."""

    @property
    def half_unit(self) -> float:
        """How far rounding may have moved it."""
        return float(0.5 * 10.0**-self.places)

    def count_of(self, n: int) -> int | None:
        """A count over n items that rounds to it; None where there is none."""
        nearest = round(self.value * n)
        return nearest if abs(nearest / n - self.value) <= self.half_unit + 1e-12 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A row of the table."""

    config: str
    place: str
    """File and line."""
    accuracy: Published
    cost: Published | None = None
    accept_rate: Published | None = None
    accepted_accuracy: Published | None = None
    """Of the proposals that were accepted."""
    n: int | None = None
    num_proposals: int = 1

    @property
    def role(self) -> Role:
        """What kind of system it is: no proposal, or an accept rate, tell."""
        if self.num_proposals == 0:
            return "strong"
        if self.accept_rate is not None:
            return "gated"
        return "cheap" if self.num_proposals == 1 else "picks"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """All of it."""

    path: Path
    title: str
    rows: tuple[PublishedRow, ...]
    costs: AssumedCosts
    shares: Mapping[str, Published] = field(default_factory=dict)
    """Other published shares of the same items, by name."""

    def of_role(self, role: Role) -> PublishedRow | None:
        """The first row of a kind."""
        return next((row for row in self.rows if row.role == role), None)

    @property
    def n(self) -> int | None:
        """Published number of items, the smallest of several."""
        return min((row.n for row in self.rows if row.n is not None), default=None)

    def printed(self) -> dict[str, Published]:
        """Every share of the items, by what it is."""
        found = {f"accuracy of {row.config}": row.accuracy for row in self.rows}
        found |= {
            f"accept rate of {row.config}": row.accept_rate
            for row in self.rows
            if row.accept_rate is not None
        }
        return found | dict(self.shares)


def read_published(path: Path, unit_costs: Mapping[str, float] | None = None) -> PublishedTable:
    """Read a table of aggregates.

    Args:
        path: A CSV with a header, or a YAML file with a list of `systems` and perhaps `title`,
            `n`, `unit_costs` and `shares`. Columns: config, accuracy, and as far as known cost,
            accept_rate, accepted_accuracy, n, num_proposals (1; 0 for the strong model alone).
            Shares are numbers in [0, 1] or percentages with their sign, written as printed, for
            the decimals count.
        unit_costs: Of one call, by `UNIT_COSTS`; these come before those of the file.

    Raises:
        ConfigError: With file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} must be a CSV or YAML file: {error}") from error
    if path.suffix.lower() in (".yaml", ".yml"):
        return _read_yaml(path, text, unit_costs or {})
    rows = tuple(_row(line, cells, path) for line, cells in _csv_lines(path, text))
    return _table(path, path.stem, rows, unit_costs or {}, {})


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(reader, [])]
    for name in NEEDED:
        if name not in header:
            raise ConfigError(f"{path}:1: needs a column {name!r}, got {header!r}")
    _only(header, COLUMNS, f"{path}:1")
    for cells in reader:
        if not any(text.strip() for text in cells):
            continue
        if len(cells) != len(header):
            raise ConfigError(
                f"{path}:{reader.line_num}: must have {len(header)} cells, got {len(cells)}"
            )
        yield reader.line_num, {k: v.strip() for k, v in zip(header, cells, strict=True)}


def _read_yaml(path: Path, text: str, unit_costs: Mapping[str, float]) -> PublishedTable:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} must be YAML: {error}") from error
    top = _mapping(root, path)
    _only(top, TOP_LEVEL, f"{path}:1")
    if "systems" not in top or not isinstance(top["systems"], yaml.SequenceNode):
        raise ConfigError(f"{path}:1: needs a list of systems")
    shared = {"n": _text(top["n"], path)} if "n" in top else {}
    rows = []
    for node in top["systems"].value:
        cells = {key: _text(value, path) for key, value in _mapping(node, path).items()}
        _only(cells, COLUMNS, _place(node, path))
        rows.append(_row(_line(node), {**shared, **cells}, path))
    costs = {
        key: _number(_text(value, path), key, _place(value, path))
        for key, value in _mapping(top.get("unit_costs"), path).items()
    }
    _only(costs, UNIT_COSTS, _place(top.get("unit_costs", root), path))
    shares = {
        key: _share(_text(value, path), key, _place(value, path))
        for key, value in _mapping(top.get("shares"), path).items()
    }
    title = _text(top["title"], path) if "title" in top else path.stem
    return _table(path, title, tuple(rows), {**costs, **unit_costs}, shares)


def _table(
    path: Path,
    title: str,
    rows: tuple[PublishedRow, ...],
    unit_costs: Mapping[str, float],
    shares: Mapping[str, Published],
) -> PublishedTable:
    if not rows:
        raise ConfigError(f"{path} must have at least one system, got none")
    seen: dict[str, str] = {}
    for row in rows:
        if row.config in seen:
            raise ConfigError(
                f"{row.place}: {row.config!r} stands at {seen[row.config]} already; name each once"
            )
        seen[row.config] = row.place
    _only(unit_costs, UNIT_COSTS, str(path))
    try:
        costs = AssumedCosts(**unit_costs)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if costs.strong <= 0.0:
        raise ConfigError(f"{path}: the strong model's cost must be above 0, got {costs.strong}")
    return PublishedTable(path=path, title=title, rows=rows, costs=costs, shares=shares)


def _row(line: int, cells: Mapping[str, str], path: Path) -> PublishedRow:
    place = f"{path}:{line}"
    for name in NEEDED:
        if not cells.get(name):
            raise ConfigError(f"{place}: needs {name}, and has none")

    def share(name: str) -> Published | None:
        return _share(cells[name], name, place) if cells.get(name) else None

    def whole(name: str, least: int) -> int | None:
        if not cells.get(name):
            return None
        value = _number(cells[name], name, place)
        if value != round(value) or value < least:
            raise ConfigError(
                f"{place}: {name} must be a whole number from {least} on, got {cells[name]!r}"
            )
        return int(value)

    cost = None
    if cells.get("cost"):
        number = _number(cells["cost"], "cost", place)
        if number < 0.0:
            raise ConfigError(f"{place}: cost must not be negative, got {cells['cost']!r}")
        cost = Published(value=number, places=_places(cells["cost"]))
    num_proposals = whole("num_proposals", 0)
    row = PublishedRow(
        config=cells["config"],
        place=place,
        accuracy=_share(cells["accuracy"], "accuracy", place),
        cost=cost,
        accept_rate=share("accept_rate"),
        accepted_accuracy=share("accepted_accuracy"),
        n=whole("n", 1),
        num_proposals=1 if num_proposals is None else num_proposals,
    )
    if row.num_proposals == 0 and row.accept_rate is not None:
        raise ConfigError(f"{place}: without proposals there is no accept rate; leave it empty")
    return row


def _share(text: str, name: str, place: str) -> Published:
    in_percent = text.endswith("%")
    value = _number(text.removesuffix("%").strip(), name, place)
    places = _places(text.removesuffix("%").strip())
    if in_percent:
        value, places = value / 100.0, places + 2
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{place}: {name} must be in [0, 1] or a percentage, got {text!r}")
    return Published(value=value, places=places)


def _number(text: str, name: str, place: str) -> float:
    try:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
    except ValueError:
        raise ConfigError(f"{place}: {name} must be a number, got {text!r}") from None
    return value


def _places(text: str) -> int:
    return len(text.partition(".")[2])


def _only(found: Collection[str], known: tuple[str, ...], place: str) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ConfigError(f"{place}: {unknown!r} are not known; known are {list(known)!r}")


def _mapping(node: yaml.Node | None, path: Path) -> dict[str, yaml.Node]:
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{_place(node, path)}: must be a table of names")
    return {_text(key, path): value for key, value in node.value}


def _text(node: yaml.Node, path: Path) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{_place(node, path)}: must be a single value")
    value: str = node.value
    return "" if node.tag.endswith(":null") else value.strip()


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _place(node: yaml.Node, path: Path) -> str:
    return f"{path}:{_line(node)}"
