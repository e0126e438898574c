"""Values of arguments against the words and numbers of the request."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers.features.catalogue import Leaf, form, is_default, leaves_of, ratio
from specact_rl.verifiers.features.words import (
    Reading,
    knows_number,
    read,
    spaced,
    stems_of,
    words_of,
)

_EXAMPLE = re.compile(r"(?:e\.g\.?|example|such as|like|format|i\.e\.?)(.*)", re.I | re.S)
_PLACEHOLDER = re.compile(
    r"<[^>]*>|\byour\b|\bunknown\b|\bplaceholder\b|\bexample\b|\btbd\b|\bn/?a\b|path/to|^none$|^null$"
    r"|^string$|\bundefined\b|\.\.\.",
    re.I,
)
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?|true|false|null|none", re.I)
_CONVERSIONS = (60, 3600, 1000, 1e6, 0.001, 1e-6, 100, 7, 12, 24, 1 / 60)
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_STATE = re.compile(r", [A-Z]{2}\b")
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
_NAMES = (
    "strings strings_unsaid strings_partly words_unsaid longest_string_unsaid case_changed "
    "numbers numbers_unsaid numbers_default booleans true_values unnamed_booleans placeholders "
    "encoded_json quotes_within years_unsaid comma_added comma_missing example_copied "
    "unlike_example only_common_words depth empty_values date_like said_in_description "
    "negative_values snake_added percent_whole percent_share "
    "percent_undescribed converted exact_said name_cut state_added state_missing "
    "date_unlike number_in_string same_values order_broken lists longest_list_value "
    "list_excess uneven_lists lists_repeated"
).split()


def value_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    """Counts over all values of all calls; NaN without any call."""
    if not calls:
        return dict.fromkeys([*_NAMES, "strings_said_share", "words_per_string"], math.nan)
    found = dict.fromkeys([*_NAMES, "string_words"], 0.0)
    for leaf in leaves_of(calls, tools):
        found["depth"] = max(found["depth"], leaf.depth)
        if isinstance(leaf.value, bool):
            found["booleans"] += 1
            found["true_values"] += leaf.value
            found["unnamed_booleans"] += not stems_of(leaf.parameter) & request.stems
        elif isinstance(leaf.value, int | float):
            _add_number(found, leaf.value, leaf, request)
        elif isinstance(leaf.value, str):
            _add_string(found, leaf.value, request)
            if not leaf.schema.get("enum"):  # options need not be the user's words
                _add_words(found, leaf.value, leaf, request)
        elif leaf.value is None:
            found["empty_values"] += 1
    for call in calls:
        _add_call(found, call, request)
    found["lists_repeated"] = _repeated_lists(calls)
    found["strings_said_share"] = ratio(found["exact_said"], found["strings"])
    found["words_per_string"] = ratio(found.pop("string_words"), found["strings"])
    return found


def _add_number(found: dict[str, float], value: float, leaf: Leaf, request: Reading) -> None:
    percent = value in request.percents
    described = re.search(r"%|percent", str(leaf.schema.get("description", "")), re.I)
    found["numbers"] += 1
    found["negative_values"] += value < 0
    found["percent_whole"] += percent
    found["percent_undescribed"] += percent and not described
    found["percent_share"] += any(
        abs(value * 100 - said) < 1e-6 for said in request.percents if value != said
    )
    if not knows_number(request, value):
        default = is_default(value, leaf.schema)
        found["numbers_unsaid"] += not default
        found["numbers_default"] += default
        found["converted"] += any(knows_number(request, value / by) for by in _CONVERSIONS)


def _add_string(found: dict[str, float], value: str, request: Reading) -> None:
    found["strings"] += 1
    found["string_words"] += len(words_of(value))
    found["empty_values"] += not value.strip()
    found["placeholders"] += bool(_PLACEHOLDER.search(value))
    found["encoded_json"] += value.lstrip()[:1] in ("[", "{")
    found["quotes_within"] += value[:1] in "'\"" and len(value) > 1
    found["date_like"] += bool(re.search(r"\d[-/]\d", value))
    found["number_in_string"] += bool(_PLAIN.fullmatch(value.strip()))
    found["exact_said"] += value in request.text
    found["years_unsaid"] += any(
        not knows_number(request, float(year)) for year in _YEAR.findall(value)
    )


def _add_words(found: dict[str, float], value: str, leaf: Leaf, request: Reading) -> None:
    description = str(leaf.schema.get("description", ""))
    stems = stems_of(value)
    unsaid = stems - request.stems
    said, exactly = spaced(value) in request.spaced, value in request.text
    state = bool(_STATE.search(value))
    found["strings_unsaid"] += bool(stems) and unsaid == stems
    found["strings_partly"] += bool(unsaid) and unsaid != stems
    found["words_unsaid"] += len(unsaid)
    if unsaid:
        found["longest_string_unsaid"] = max(found["longest_string_unsaid"], len(value))
    found["only_common_words"] += bool(words_of(value)) and not stems
    found["name_cut"] += bool(stems) and any(
        stems < stems_of(name) for name in (*request.names, *request.quoted)
    )
    found["case_changed"] += said and not exactly
    found["snake_added"] += "_" in value and not exactly
    found["comma_added"] += "," in value and value.casefold() not in request.text.casefold()
    found["state_added"] += state and not exactly
    found["state_missing"] += bool(_STATE.search(description)) and not state
    found["date_unlike"] += "YYYY" in description.upper() and not _DATE.fullmatch(value)
    found["said_in_description"] += bool(unsaid) and spaced(value) in spaced(description)
    example = _EXAMPLE.search(description)
    if example:
        shown = read(example[1])
        with_comma = any("," in text for text in shown.quoted) or "state" in shown.spaced
        found["example_copied"] += not said and spaced(value) in shown.spaced
        found["comma_missing"] += with_comma and "," not in value
        found["unlike_example"] += bool(shown.quoted) and all(
            _shape(value) != _shape(text) for text in shown.quoted
        )


def _add_call(found: dict[str, float], call: Action, request: Reading) -> None:
    """What shows in the values of one call beside each other."""
    values = list(call.arguments.values())
    forms = [form(v) for v in values if not isinstance(v, bool) and v is not None]
    found["same_values"] += len(forms) - len(set(forms))
    lists = [len(v) for v in values if isinstance(v, list)]
    found["lists"] += len(lists)
    if lists:
        found["longest_list_value"] = max(found["longest_list_value"], *lists)
        found["list_excess"] = max(lists) - request.longest_list
        found["uneven_lists"] += len(set(lists)) > 1
    places = [
        request.numbers.index(v)
        for v in values
        if isinstance(v, int | float) and not isinstance(v, bool) and v in request.numbers
    ]
    found["order_broken"] += sum(b < a for a, b in pairwise(places))


def _repeated_lists(calls: Sequence[Action]) -> float:
    """Lists of several entries that more than one call has."""
    forms = [
        form([call.tool, name, value])
        for call in calls
        for name, value in call.arguments.items()
        if isinstance(value, list) and len(value) > 1
    ]
    return float(len(forms) - len(set(forms)))


def _shape(text: str) -> str:
    """The kinds of its characters, runs as one: "San Jose, CA" is "Aa Aa, A"."""
    return re.sub(r"[a-z]+", "a", re.sub(r"\d+", "9", re.sub(r"[A-Z]+", "A", text)))
