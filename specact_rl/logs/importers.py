"""A log to rollouts by the name of its format: known, described in a mapping, or a user's own."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from specact_rl.actions.taxonomy import ToolTable, builtin_table, read_tool_table
from specact_rl.errors import ConfigError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.mapping import read_mapping
from specact_rl.logs.result import Importer, ImportResult
from specact_rl.logs.sniff import sniff
from specact_rl.logs.tool_types import retyped
from specact_rl.user_code import named_in_file

logger = logging.getLogger(__name__)

_MAPPING_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedLog:
    """What a log holds, and how it was read."""

    result: ImportResult
    importer: str
    """Name, mapping file or function that read it."""
    reason: str
    """Why that one, in words."""


def read_log(
    path: Path, importer: str | None = None, *, tool_types: str | None = None
) -> LoadedLog:
    """The rollouts of a log.

    Args:
        path: File or folder.
        importer: As `find_importer` takes it; None looks at the log.
        tool_types: A tool table, built in or a file, that decides in place of the importer's own.

    Raises:
        ConfigError: No such log, importer or table, a log in no known format, or no rollout in it.
        RolloutFormatError: The log is not what its format says.
    """
    if importer is None:
        found = sniff(path)
        importer, reason = found.importer, found.reason
    else:
        reason = "as asked for"
    logger.info("%s: read as %s (%s)", path, importer, reason)
    result = find_importer(importer)[0](path)
    if not result.rollouts:
        raise ConfigError(f"{path} holds no rollout; dropped {result.dropped!r}")
    if tool_types is not None:
        table = find_tool_table(tool_types)
        # The importer's types would win over the table's; what a log says itself is lost with them.
        rollouts = [
            replace(rollout, tools=[replace(tool, action_type=None) for tool in rollout.tools])
            for rollout in result.rollouts
        ]
        result = replace(result, rollouts=[retyped(rollout, table) for rollout in rollouts])
    return LoadedLog(result=result, importer=importer, reason=reason)


def find_tool_table(name: str) -> ToolTable:
    """A tool table by its name or file.

    Raises:
        ConfigError: There is no such table, or the file is none.
    """
    return read_tool_table(Path(name)) if name.endswith(".toml") else builtin_table(name)


def find_importer(name: str) -> tuple[Importer, Path | None]:
    """An importer by its name, and the file that it comes from if it is not built in.

    Args:
        name: Name in `IMPORTERS`, `mapping.yaml` or `FILE.py:FUNCTION`.

    Raises:
        ConfigError: There is no such importer.
    """
    if name in IMPORTERS:
        return IMPORTERS[name], None
    path = Path(name)
    if path.suffix in _MAPPING_SUFFIXES and path.is_file():
        return read_mapping(path), path
    own = named_in_file(name, "the importer")
    if own is None:
        raise ConfigError(
            f"importer must be one of {list(IMPORTERS)!r}, a mapping.yaml or FILE.py:FUNCTION, a "
            f"file that exists, got {name!r}"
        )
    importer: Importer = own[0]
    return importer, own[1]
