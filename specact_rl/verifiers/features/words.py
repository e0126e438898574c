"""What a text names: words, numbers, quoted and capitalised things."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NUMBER = re.compile(
    r"(?<![\w.])[-\u2212]?\$?(\d[\d,]*(?:\.\d+)?|\.\d+)\s*(%|percent|thousand|million|billion|k\b)?",
    re.IGNORECASE,
)
_ANY_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)")
_NAMED = re.compile(r"(?<![.?!]\s)(?<!^)\b[A-Z][\w'&-]*(?:\s+(?:of\s+)?[A-Z][\w'&-]*)*")
_LISTED = re.compile(r"[^,;.?!:]+(?:,[^,;.?!:]+)*,?\s+(?:and|or|&)\s+[^,;.?!:]+")
_BETWEEN = re.compile(r",|\s(?:and|or|&)\s")
_JOINED = re.compile(
    r"([\w-]+)(?=['\"`]?(?:,|,?\s+(?:and|or|vs\.?|versus))\s+"
    r"(?:the\s+|an?\s+)?['\"`]?(?!and\b|or\b)([\w-]+))"
)
_SCALES = {"thousand": 1e3, "k": 1e3, "million": 1e6, "billion": 1e9}
_NUMBER_WORDS = {
    word: float(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
} | {"a": 1.0, "an": 1.0, "single": 1.0, "once": 1.0, "twice": 2.0, "both": 2.0, "pair": 2.0}
_NUMBER_WORDS |= {"dozen": 12.0, "half": 0.5, "thirty": 30.0, "fifty": 50.0, "hundred": 100.0}
_NUMBER_WORDS |= {"first": 1.0, "second": 2.0, "third": 3.0, "fourth": 4.0, "fifth": 5.0}
COMMON = frozenset(
    "a an the of in on at to for from by with and or is are was were be been this that these those "
    "it its as i me my we our you your he she his her they them their what which who whom when "
    "where how why do does did can could would should will shall may might please find get give "
    "tell show want need like using use used if not no than then also between into over under "
    "about up out so any some all each have has had provide help".split()
)
"""Words that say nothing about the subject."""
GENERIC = frozenset(
    "default specific name calculate given based number retrieve specified e g optional type "
    "function value current data list object search provided information two array details within "
    "format etc true false info certain return fetch locate calculates defaults start whether "
    "initial particular parameter retrieves include set total one per new end criteria such empty "
    "preferred required including returns id field level starting result check create values key "
    "range s returned returning use used using user input output string integer float int boolean "
    "find determine compute computes generate perform performs get gets".split()
)
"""Words of any tool's documentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One text, taken apart."""

    text: str
    spaced: str
    """Its words in lower case with single spaces between and around them."""
    stems: frozenset[str]
    """Stems of the words that say something about the subject."""
    numbers: tuple[float, ...]
    """Numbers written in digits, scaled by their word ("2 million"), in order."""
    known_numbers: frozenset[float]
    """All that the text may mean: those in digits, per cent as shares, digits within words, and
    number words."""
    percents: frozenset[float]
    """Numbers followed by a per cent sign or word."""
    quoted: tuple[str, ...]
    names: tuple[str, ...]
    """Capitalised words and phrases within a sentence, outside quotes."""
    joined: tuple[tuple[str, str], ...]
    """Neighbours with "and", "or" or a comma between them."""
    longest_list: int
    """Entries of the longest enumeration ("a, b and c" has three); 1 without one."""


@lru_cache(maxsize=8192)
def read(text: str) -> Reading:
    """The reading of a text."""
    numbers, known, percents = [], set(), set()
    for match in _NUMBER.finditer(text):
        value = _float(match[1].replace(",", ""))
        unit = (match[2] or "").casefold()
        scaled = value * _SCALES.get(unit, 1.0)
        numbers.append(scaled)
        known |= {value, scaled}
        if unit in ("%", "percent"):
            known.add(value / 100)
            percents.add(value)
    known |= {_float(digits) for digits in _ANY_DIGITS.findall(text)}
    words = words_of(text)
    known |= {_NUMBER_WORDS[word] for word in words if word in _NUMBER_WORDS}
    quoted = tuple(next(part for part in match if part) for match in _QUOTED.findall(text))
    names = tuple(_NAMED.findall(_QUOTED.sub(" ", text)))
    lists = [
        sum(bool(entry.strip()) for entry in _BETWEEN.split(match))
        for match in _LISTED.findall(text)
    ]
    return Reading(
        text=text,
        spaced=spaced(text),
        stems=stems_of(text),
        numbers=tuple(numbers),
        known_numbers=frozenset(known),
        percents=frozenset(percents),
        quoted=quoted,
        names=names,
        joined=tuple(_JOINED.findall(text)),
        longest_list=max(lists, default=1),
    )


def words_of(text: str) -> list[str]:
    """Words in lower case; snake_case and camelCase are taken apart."""
    return _WORD.findall(_CAMEL.sub(" ", text).casefold())


def spaced(text: str) -> str:
    """The words with single spaces between and around them, for finding phrases by `in`."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


@lru_cache(maxsize=65536)
def stems_of(text: str) -> frozenset[str]:
    """Stems of the words that say something about the subject."""
    return frozenset(_stem(word) for word in words_of(text) if word not in COMMON)


@lru_cache(maxsize=65536)
def subject_stems(text: str) -> frozenset[str]:
    """Stems of the words that could belong to one subject only."""
    return frozenset(
        _stem(word) for word in words_of(text) if word not in COMMON and word not in GENERIC
    )


def _stem(word: str) -> str:
    """A word without a plural or verbal ending, crudely: enough to match "prices" and "price"."""
    for ending in ("ing", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def knows_number(reading: Reading, value: float) -> bool:
    """Whether the text has the number, in digits or in words."""
    try:
        size = abs(float(value))
    except OverflowError:  # an integer of hundreds of digits
        return False
    return any(abs(known - size) <= 1e-6 * max(1.0, known) for known in reading.known_numbers)


def _float(digits: str) -> float:
    # Digits of scripts other than ours, or too many of them, are no number to look for.
    try:
        return float(digits)
    except ValueError:
        return -1.0
