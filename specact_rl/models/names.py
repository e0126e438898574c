"""How models are named, everywhere: a checkpoint folder, a hub id, or `id@revision`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A name, taken apart; nothing is looked up but whether there is such a folder."""

    place: str
    """Folder or hub id, as `from_pretrained` takes it."""
    revision: str | None
    """Branch, tag or commit on the hub; None for its main branch, and for a folder."""
    is_folder: bool

    @classmethod
    def parse(cls, name: str | Path, revision: str | None = None) -> ModelName:
        """Take a name apart.

        Args:
            name: What the user wrote. A folder of that name is meant before the hub.
            revision: Of a hub id that does not say it itself.
        """
        text = str(name)
        if Path(text).is_dir():
            return cls(place=text, revision=None, is_folder=True)
        hub_id, _, own = text.partition("@")
        return cls(place=hub_id, revision=own or revision, is_folder=False)

    def __str__(self) -> str:
        """The name again."""
        return self.place if self.revision is None else f"{self.place}@{self.revision}"

    @property
    def options(self) -> dict[str, str]:
        """What `from_pretrained` is to be told beside the place."""
        return {} if self.revision is None else {"revision": self.revision}

    @property
    def short(self) -> str:
        """Last part of the folder's path or the hub id."""
        return (Path(self.place).resolve() if self.is_folder else Path(self.place)).name
