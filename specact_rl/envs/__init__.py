"""Environments to roll policies out in; `ENVIRONMENTS` names them."""

from collections.abc import Callable

from specact_rl.envs.base import Environment
from specact_rl.envs.workspace.environment import Workspace

ENVIRONMENTS: dict[str, Callable[..., Environment]] = {"workspace": Workspace}
