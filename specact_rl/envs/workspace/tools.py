"""The workspace's tools: what each does to which service, and the names it may go by.

A table, not code: every tool is one of a dozen operations on one service. Names differ from task
to task (`catalogue_names`), so a policy has to read its catalogue. Families that are held out of
training draw from names that no training family uses.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from specact_rl.types import ActionType, Effect, ToolSpec

Operation = Literal[
    "find", "list", "day", "read", "check", "set", "effect", "may", "calc", "tool_find"
]

PRIORITIES = ("low", "normal", "high", "urgent")
INTEGER_PARAMETERS = frozenset({"hour", "a", "b"})
OPTIONAL_PARAMETERS = frozenset({"rev"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDef:
    """One tool of the workspace, independent of what a task calls it."""

    key: str
    """Name inside the workspace's code; agents see one of `names`."""
    operation: Operation
    service: str
    parameters: tuple[str, ...]
    effect: Effect
    action_type: ActionType
    description: str
    names: tuple[str, ...]
    """What training families call it."""
    held_out_names: tuple[str, ...]
    """What held-out families call it; disjoint from `names`."""
    field: str | None = None
    """Field that a `set` writes; None when the `key` parameter names it."""
    constant: str | None = None
    """Value that a `set` or `effect` writes; None when a parameter gives it."""


def _tool(
    key: str,
    operation: Operation,
    service: str,
    parameters: str,
    action_type: ActionType,
    description: str,
    names: str,
    held_out_names: str,
    *,
    effect: Effect = "read",
    field: str | None = None,
    constant: str | None = None,
) -> ToolDef:
    return ToolDef(
        key=key,
        operation=operation,
        service=service,
        parameters=tuple(parameters.split()),
        effect=effect,
        action_type=action_type,
        description=description,
        names=tuple(names.split()),
        held_out_names=tuple(held_out_names.split()),
        field=field,
        constant=constant,
    )


# fmt: off
_TABLE = (
    _tool("file_find", "find", "file", "query", "retrieval", "search files",
          "find_file file_search search_files", "locate_file files_matching"),
    _tool("file_list", "list", "file", "", "retrieval", "all files",
          "list_files all_files files", "show_files dir"),
    _tool("file_read", "read", "file", "file", "file_read", "read a file",
          "read_file open_file cat", "view_file file_text"),
    _tool("file_set", "set", "file", "file key value rev", "file_write", "set a key in a file",
          "write_file set_key edit_file", "file_put put_key", effect="write"),
    _tool("file_rename", "set", "file", "file name", "file_write", "rename a file",
          "rename_file mv file_rename", "retitle_file name_file", effect="write", field="title"),
    _tool("file_delete", "effect", "file", "file", "file_write", "delete a file",
          "delete_file rm remove_file", "erase_file file_drop", effect="irreversible"),
    _tool("kb_find", "find", "article", "query", "retrieval", "search the handbook",
          "kb_search search_handbook find_article", "handbook_lookup topics"),
    _tool("kb_list", "list", "article", "", "retrieval", "all articles",
          "kb_list list_articles handbook", "article_index toc"),
    _tool("kb_read", "read", "article", "article", "file_read", "read an article",
          "kb_read read_article open_article", "article_text view_article"),
    _tool("ticket_find", "find", "ticket", "query", "retrieval", "search tickets",
          "find_ticket ticket_search search_tickets", "locate_ticket tickets_matching"),
    _tool("ticket_list", "list", "ticket", "", "retrieval", "all tickets",
          "list_tickets all_tickets tickets", "show_tickets queue"),
    _tool("ticket_read", "read", "ticket", "ticket", "file_read", "read a ticket",
          "read_ticket open_ticket get_ticket", "view_ticket ticket_details"),
    _tool("ticket_assign", "set", "ticket", "ticket person rev", "file_write", "set the owner",
          "assign_ticket set_owner ticket_owner", "hand_ticket give_ticket",
          effect="write", field="owner"),
    _tool("ticket_rank", "set", "ticket", "ticket priority rev", "file_write", "set the priority",
          "set_priority rank_ticket prioritize", "ticket_level weigh_ticket",
          effect="write", field="priority"),
    _tool("ticket_close", "set", "ticket", "ticket rev", "file_write", "close a ticket",
          "close_ticket ticket_close resolve_ticket", "finish_ticket shut_ticket",
          effect="write", field="status", constant="closed"),
    _tool("ticket_archive", "set", "ticket", "ticket rev", "file_write", "archive a ticket",
          "archive_ticket ticket_archive shelve_ticket", "store_ticket ticket_away",
          effect="write", field="status", constant="archived"),
    _tool("order_find", "find", "order", "query", "retrieval", "search orders",
          "find_order order_search search_orders", "locate_order orders_matching"),
    _tool("order_list", "list", "order", "", "retrieval", "all orders",
          "list_orders all_orders orders", "show_orders order_book"),
    _tool("order_read", "read", "order", "order", "file_read", "read an order",
          "read_order open_order get_order", "view_order order_details"),
    _tool("order_refund", "effect", "order", "order", "tool_call", "pay an order back",
          "refund_order refund order_refund", "pay_back reimburse",
          effect="irreversible", field="status", constant="refunded"),
    _tool("order_cancel", "effect", "order", "order", "tool_call", "cancel an order",
          "cancel_order cancel order_cancel", "call_off void_order",
          effect="irreversible", field="status", constant="cancelled"),
    _tool("day_view", "day", "event", "day", "retrieval", "events of a day",
          "day_view view_day calendar_day", "agenda day_plan"),
    _tool("event_read", "read", "event", "event", "file_read", "read an event",
          "read_event open_event get_event", "view_event event_details"),
    _tool("event_move", "set", "event", "event hour rev", "file_write", "set the hour",
          "move_event event_move reschedule", "shift_event retime",
          effect="write", field="hour"),
    _tool("event_book", "effect", "event", "day hour", "tool_call", "book a room",
          "book_room book reserve", "room_booking take_room", effect="irreversible"),
    _tool("event_drop", "effect", "event", "event", "tool_call", "cancel an event",
          "cancel_event drop_event event_cancel", "call_off_event remove_event",
          effect="irreversible"),
    _tool("mail_find", "find", "mail", "query", "retrieval", "search mail",
          "find_mail mail_search search_mail", "locate_mail mail_matching"),
    _tool("mail_read", "read", "mail", "mail", "file_read", "read a mail",
          "read_mail open_mail get_mail", "view_mail mail_text"),
    _tool("mail_send", "effect", "mail", "person text", "tool_call", "send a mail",
          "send_mail mail_send mail", "write_to post_mail", effect="irreversible"),
    _tool("mail_flag", "set", "mail", "mail flag rev", "file_write", "flag a mail",
          "flag_mail mail_flag mark_mail", "tag_mail mail_tag", effect="write", field="flag"),
    _tool("code_find", "find", "program", "query", "retrieval", "search programs",
          "find_program code_search grep", "locate_module programs_matching"),
    _tool("code_read", "read", "program", "program", "file_read", "read a program",
          "read_program open_program code_read", "view_program program_text"),
    _tool("code_patch", "set", "program", "program value rev", "file_write", "patch a program",
          "patch_program code_patch fix_program", "amend_program program_put",
          effect="write", field="setting"),
    _tool("check_run", "check", "program", "program", "verifier", "run the checks",
          "run_checks check_program run_tests", "test_program checks"),
    _tool("tool_find", "tool_find", "catalogue", "query", "retrieval", "find more tools",
          "find_tool tool_search more_tools", "tool_lookup other_tools"),
    _tool("may", "may", "permission", "action record", "tool_call", "ask the permission table",
          "may is_allowed check_permission", "permitted rights"),
    _tool("add", "calc", "math", "a b", "tool_call", "add two numbers",
          "add sum plus", "total add_up"),
    _tool("subtract", "calc", "math", "a b", "tool_call", "b less than a",
          "subtract minus difference", "take_away less"),
    _tool("larger", "calc", "math", "a b", "tool_call", "the larger number",
          "larger max max_of", "greater higher"),
)
# fmt: on
TOOLS: dict[str, ToolDef] = {tool.key: tool for tool in _TABLE}


def catalogue_names(keys: Iterable[str], *, held_out: bool, rng: random.Random) -> dict[str, str]:
    """Name of each tool (by key) in one task, drawn from the training or the held-out names."""
    tools = {key: TOOLS[key] for key in keys}
    pools = {key: t.held_out_names if held_out else t.names for key, t in tools.items()}
    # One dialect a task, as one vendor's tools are named alike.
    dialect = rng.randrange(min(map(len, pools.values())))
    return {key: pool[dialect] for key, pool in pools.items()}


def _parameter_schema(parameter: str) -> dict[str, Any]:
    if parameter in INTEGER_PARAMETERS:
        return {"type": "integer"}
    if parameter == "priority":
        return {"type": "string", "enum": list(PRIORITIES)}
    return {"type": "string"}


@cache
def tool_spec(key: str, name: str, described: bool, documented: bool) -> ToolSpec:
    """The record an agent's catalogue is made from; shared between tasks, so do not mutate it."""
    tool = TOOLS[key]
    return ToolSpec(
        name=name,
        description=tool.description if described else "",
        parameters={
            "type": "object",
            "properties": {p: _parameter_schema(p) for p in tool.parameters},
            "required": [p for p in tool.parameters if p not in OPTIONAL_PARAMETERS],
            "additionalProperties": False,
        },
        effect=tool.effect,
        action_type=tool.action_type,
        documented=documented,
    )
