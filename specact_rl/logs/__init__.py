"""Foreign logs to rollouts: one module per format, listed in `IMPORTERS`."""

from specact_rl.logs.anthropic import import_anthropic
from specact_rl.logs.bfcl import import_bfcl
from specact_rl.logs.hf_chat import import_hf_chat
from specact_rl.logs.inspect_eval import import_inspect
from specact_rl.logs.native import import_native
from specact_rl.logs.openai_chat import import_openai_chat
from specact_rl.logs.result import Flag, Importer, ImportResult
from specact_rl.logs.swe_bench import import_swe_bench
from specact_rl.logs.tau_bench import import_tau_bench
from specact_rl.logs.tinyagent import import_tinyagent

IMPORTERS: dict[str, Importer] = {
    "native": import_native,
    "openai_chat": import_openai_chat,
    "anthropic": import_anthropic,
    "hf_chat": import_hf_chat,
    "inspect": import_inspect,
    "bfcl": import_bfcl,
    "tau_bench": import_tau_bench,
    "swe_bench": import_swe_bench,
    "tinyagent": import_tinyagent,
}

__all__ = ["IMPORTERS", "Flag", "ImportResult", "Importer"]
