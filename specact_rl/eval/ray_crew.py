"""Workers of a Ray cluster that share the chunks of a stage, each with the models loaded.

A chunk is made whole by one worker, by what makes it in one process, so that its rows do not
depend on who that is. Only this process writes: a worker that dies takes nothing with it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from specact_rl.cluster import TOLD, pack, ray_cluster, unpack
from specact_rl.errors import ConfigError, ModelError, SpecActError
from specact_rl.eval.outcomes import Chunks, Crew, Row, Work
from specact_rl.models.language_model import LanguageModel
from specact_rl.models.names import ModelName
from specact_rl.verifiers.models import ClassifierVerifier

logger = logging.getLogger(__name__)

_NUM_RETRIES = 3
"""How often a chunk is tried again whose worker died: one that kills its workers must come to an
end."""

_LOADERS: dict[str, Callable[[str], LanguageModel | ClassifierVerifier]] = {
    "proposer": LanguageModel.load,
    "verifier": ClassifierVerifier.load,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which weights, in which numbers, on which texts: what rows depend on beside their chunk."""

    model_id: str
    origin: dict[str, Any]
    template_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """A checkpoint that workers have loaded, and this process has not."""

    role: str
    identity: Identity
    crew: RayCrew

    def made_by(self, make: Callable[[Any, Sequence[Work]], list[list[Row]]]) -> Crew[Row]:
        """The workers, as who makes rows.

        Args:
            make: Of the loaded model and the pieces of work of a chunk; picklable.
        """
        return lambda chunks: self.crew.over(chunks, self.role, self.identity, make)


@contextmanager
def ray_crew(names: Mapping[str, str | Path], *, at_most: int) -> Iterator[dict[str, RemoteModel]]:
    """Models that workers load and keep until the end, by their role.

    There is a worker for each GPU of the cluster; where it has none, for as many CPUs as this
    process has threads, so that a worker computes as this process would.

    Args:
        names: Of the checkpoints, by role: "proposer", "verifier". A hub id each node fetches.
        at_most: So many workers: more would have nothing to do.

    Raises:
        ConfigError: Ray is not installed, or its cluster has neither GPU nor CPU.
        SpecActError: A model cannot be loaded, as its loader says.
    """
    with ray_cluster() as ray:
        crew = RayCrew(ray, {role: named_for_all(n) for role, n in names.items()}, at_most)
        try:
            yield {
                role: RemoteModel(role=role, identity=identity, crew=crew)
                for role, identity in crew.identities().items()
            }
        finally:
            crew.dismiss()


def named_for_all(name: str | Path) -> str:
    """The name of a model as other nodes have to read it: a folder by its whole path."""
    found = ModelName.parse(name)
    return str(Path(found.place).resolve()) if found.is_folder else str(found)


class RayCrew:
    """The workers, and who of them is doing what."""

    def __init__(self, ray: Any, names: Mapping[str, str], at_most: int) -> None:
        """Start them; none is waited for."""
        self._ray = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        number, places = places_on(nodes)
        number = min(number, at_most)
        remote = ray.remote(**places, max_restarts=-1, max_task_retries=_NUM_RETRIES)(_Worker)
        self._workers = [remote.remote(names, int(places["num_cpus"])) for _ in range(number)]
        self._busy: dict[Any, tuple[Any, int | None, str]] = {
            worker.identities.remote(): (worker, None, "loading the models")
            for worker in self._workers
        }
        """Worker, number of its chunk (None while it loads) and what it does, by its answer."""
        self._idle: list[Any] = []
        logger.info("%d workers on Ray, each with %r", number, places)

    def identities(self) -> dict[str, Identity]:
        """Of the models, as the first worker says that has loaded them."""
        found: dict[str, Identity] = self._next()[1]
        return found

    def over(
        self,
        chunks: Chunks,
        role: str,
        identity: Identity,
        make: Callable[[Any, Sequence[Work]], list[list[Row]]],
    ) -> Iterator[tuple[int, list[list[Row]]]]:
        """As a `Crew`."""
        for index, chunk in chunks:
            if not chunk:
                yield index, []
                continue
            while not self._idle:
                finished, made = self._next()
                if finished is not None:
                    yield finished, made
            worker = self._idle.pop()
            answer = worker.work.remote(role, identity, make, chunk)
            self._busy[answer] = worker, index, f"the rollouts from {chunk[0].rollout.rollout_id!r}"
        while any(index is not None for _, index, _ in self._busy.values()):
            finished, made = self._next()
            if finished is not None:
                yield finished, made

    def dismiss(self) -> None:
        """End the workers, whatever they are doing."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _next(self) -> tuple[int | None, Any]:
        """Number of the chunk that is finished next, None for no chunk, and what was answered."""
        [answer], _ = self._ray.wait(list(self._busy), num_returns=1)
        worker, index, what = self._busy.pop(answer)
        try:
            made = unpack(self._ray.get(answer))
        except self._ray.exceptions.RayActorError as error:
            cause = str(error).partition("\n")[0]
            raise SpecActError(
                f"{what}: the worker died {_NUM_RETRIES + 1} times ({cause}). Does it have the "
                "memory? What was finished is kept: the same command goes on from there"
            ) from error
        self._idle.append(worker)
        return index, made


class _Worker:
    """An actor. A new one stands in for it when it dies, and loads the models again."""

    def __init__(self, names: Mapping[str, str], num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._names = names
        self._loaded: dict[str, LanguageModel | ClassifierVerifier] = {}

    def identities(self) -> bytes:
        """Load all models; their identities by role, or an error, packed."""
        try:
            return pack({role: _identity(self._model(role)) for role in self._names})
        except TOLD as error:
            return pack(error)

    def work(
        self,
        role: str,
        identity: Identity,
        make: Callable[[Any, Sequence[Work]], list[list[Row]]],
        chunk: Sequence[Work],
    ) -> bytes:
        """The rows of a chunk, or an error, packed."""
        try:
            model = self._model(role)
            if _identity(model) != identity:
                raise ConfigError(
                    f"all workers must compute the same, but {self._names[role]} on node "
                    f"{socket.gethostname()} is {_identity(model)}, and elsewhere {identity}; copy "
                    "the same weights to all nodes, and take nodes of one kind"
                )
            return pack(make(model, chunk))
        except TOLD as error:
            return pack(error)

    def _model(self, role: str) -> LanguageModel | ClassifierVerifier:
        if role not in self._loaded:
            name = self._names[role]
            if Path(name).is_absolute() and not Path(name).is_dir():
                raise ModelError(
                    f"{name} must be a checkpoint folder that every node of the cluster sees, "
                    f"but node {socket.gethostname()} has no such folder; put it on a file system "
                    "that all share, or copy it to the same path of each node"
                )
            self._loaded[role] = _LOADERS[role](name)
        return self._loaded[role]


def _identity(model: LanguageModel | ClassifierVerifier) -> Identity:
    return Identity(
        model_id=model.model_id if isinstance(model, LanguageModel) else model.verifier_id,
        origin=dict(model.origin),
        template_hash=model.renderer.template_hash,
    )


def places_on(nodes: Sequence[Mapping[str, float]]) -> tuple[int, dict[str, int]]:
    """How many workers there is room for, and what each of them takes.

    Args:
        nodes: Resources of each node, "CPU" and "GPU".

    Raises:
        ConfigError: There are none.
    """
    gpus = sum(int(resources.get("GPU", 0)) for resources in nodes)
    if gpus:
        return gpus, {"num_cpus": 1, "num_gpus": 1}
    cpus = [number for resources in nodes if (number := int(resources.get("CPU", 0)))]
    if not cpus:
        raise ConfigError(
            "the Ray cluster must have nodes with GPUs or CPUs, but has none now; start some"
        )
    each = min(torch.get_num_threads(), *cpus)
    return sum(number // each for number in cpus), {"num_cpus": each}
