"""What a model's card says of its settings."""

from dataclasses import dataclass, field
from typing import Any

from specact_rl.models.cards import changed_settings


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
