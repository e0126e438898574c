"""What a model's card says of its settings."""

from dataclasses import dataclass, field
from typing import Any

from specact_rl.models.cards import changed_settings, measured_card


@dataclass
class Settings:
    min_reward: float | None = None
    warmup: float = 0.1
    report_to: list[str] | None = None
    optim_args: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)
    hub_token: str | None = None


def test_a_setting_of_zero_is_a_change_and_another_way_to_say_nothing_is_none():
    values = {"min_reward": 0.0, "warmup": 0, "report_to": [], "optim_args": None, "kwargs": None}
    assert changed_settings(values, Settings) == {"min_reward": 0.0, "warmup": 0}


def test_a_token_is_never_shown():
    assert changed_settings({"hub_token": "secret"}, Settings) == {}


CARD = "---\nx: 1\n---\n\n# cheap\n\n## How good it is\n\nWas not measured.\n\n## Limits\n\nMany.\n"


def test_what_was_measured_takes_the_place_of_what_was_not_and_again_of_itself():
    measured = measured_card(CARD, "| a | 0.5 |\n\nBy a run.")
    assert measured == CARD.replace("Was not measured.", "| a | 0.5 |\n\nBy a run.")
    assert measured_card(measured, "Was not measured.") == CARD


def test_a_card_that_says_nothing_of_it_says_it_at_its_end():
    assert measured_card("# cheap\n", "| a |") == "# cheap\n\n## How good it is\n\n| a |\n"
