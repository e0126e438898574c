"""What an environment must offer to be rolled out, branched and scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from specact_rl.types import Action, Message, ToolSpec


@dataclass(frozen=True, slots=True)
class Observation:
    """What comes back from one action."""

    content: str
    role: Literal["tool", "user"]
    """"user" for a reply to a question, "tool" for a call's result."""
    done: bool


class Environment(Protocol):
    """A deterministic task that can be put back to any earlier state."""

    tools: list[ToolSpec]
    """The task's tools, undocumented ones included."""

    @property
    def task_id(self) -> str:
        """Id of the current task."""

    @property
    def family(self) -> str:
        """Template the current task was drawn from."""

    @property
    def initial_state(self) -> str:
        """Hash of the state that the task starts in."""

    def outcome(self) -> tuple[Any, ...]:
        """What two actions must agree in to count as having the same effect."""

    def first_messages(self) -> list[Message]:
        """System message and request."""

    def step(self, action: Action | None) -> Observation:
        """Execute an action; None stands for text that could not be parsed."""

    def snapshot(self) -> object:
        """An opaque copy of the state."""

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot, which stays usable."""

    def legal_actions(self) -> list[Action]:
        """At least 16 distinct candidate actions in a seeded order, right and wrong ones."""

    def expert_action(self) -> Action:
        """What the scripted expert does in this state, whatever led here."""

    def cost_to_go(self) -> int | None:
        """Expert steps left; 0 after success, None after failure."""

    @property
    def done(self) -> bool:
        """Whether the episode is over."""

    @property
    def success(self) -> bool:
        """The checker's verdict; False while the episode runs."""
