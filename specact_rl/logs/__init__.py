"""Foreign logs to rollouts: one module per format, listed in `IMPORTERS`."""

from specact_rl.logs.native import import_native
from specact_rl.logs.openai_chat import import_openai_chat
from specact_rl.logs.result import Importer, ImportResult

IMPORTERS: dict[str, Importer] = {
    "native": import_native,
    "openai_chat": import_openai_chat,
}

__all__ = ["IMPORTERS", "ImportResult", "Importer"]
