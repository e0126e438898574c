"""What the objects of results.json are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A JSON object of results.json."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)


class Nothing(Part):
    """An empty object, which stands where a section could not be computed."""

    model_config = ConfigDict(extra="forbid")


class Metric(Part):
    """A number with its error bar, or the reason why there is none."""

    value: float | None
    """null: undefined on these rows; `note` says why."""
    low: float | None = None
    """Lower end of the 95 % interval; null: no interval."""
    high: float | None = None
    """Upper end; null with a lower end: above all bounds."""
    n: int
    """Rows the value was computed from."""
    num_clusters: int | None = None
    """Tasks behind the rows; null: rows were taken as independent."""
    note: str | None = None
    """What a reader must know of the value; null: nothing."""


class NullBand(Part):
    """What a calibration error would be if the probabilities were exactly right."""

    observed: float | None
    """The statistic itself; null: undefined."""
    mean: float | None
    """Over draws of labels from the probabilities; null as `observed`, likewise below."""
    low: float | None
    """2.5 % quantile of the draws."""
    high: float | None
    """97.5 % quantile of the draws."""
    p_value: float | None
    """Share of draws at least as large as observed."""
    num_draws: int
    """Draws."""
    note: str | None = None
    """How labels were drawn if not one by one, or why there is no band; null: nothing to say."""
