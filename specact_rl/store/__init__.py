"""Versioned rows on disk: JSONL and Parquet, data set folders, manifests, atomic and resumable.

The only place that reads or writes rows. What it writes either reads back equal or is refused,
and a process killed at any point leaves no file or folder that looks finished. Knows nothing of
what the records mean.
"""

from specact_rl.store.cache import RowCache
from specact_rl.store.files import (
    atomic_write,
    canonical_json,
    content_hash,
    file_hash,
    read_json,
    remove_temporaries,
    source_hash,
    sync,
    write_json,
)
from specact_rl.store.spool import RowSpool
from specact_rl.store.stages import (
    Manifest,
    Stage,
    folder_hash,
    input_hash,
    open_stage,
    read_manifest,
)
from specact_rl.store.tables import (
    JsonlRecords,
    append_jsonl,
    append_shard,
    done_shards,
    iter_columns,
    iter_jsonl,
    iter_shards,
    iter_table,
    read_jsonl,
    read_shards,
    read_table,
    recovered_jsonl,
    write_jsonl,
    write_table,
)
from specact_rl.store.training_rows import read_training_rows, write_training_rows

__all__ = [
    "JsonlRecords",
    "Manifest",
    "RowCache",
    "RowSpool",
    "Stage",
    "append_jsonl",
    "append_shard",
    "atomic_write",
    "canonical_json",
    "content_hash",
    "done_shards",
    "file_hash",
    "folder_hash",
    "input_hash",
    "iter_columns",
    "iter_jsonl",
    "iter_shards",
    "iter_table",
    "open_stage",
    "read_json",
    "read_jsonl",
    "read_manifest",
    "read_shards",
    "read_table",
    "read_training_rows",
    "recovered_jsonl",
    "remove_temporaries",
    "source_hash",
    "sync",
    "write_json",
    "write_jsonl",
    "write_table",
    "write_training_rows",
]
