"""Where labels go so that they cover neither each other nor the points they name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUM_DIRECTIONS = 16
NUM_RINGS = 12
LOOKS_LIKE_ANOTHERS = 300.0
"""Square pixels covered that are as bad as a label that seems to name another point."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def nearest(self, point: Point) -> Point:
        """The place in the box, edges included, that is nearest to a point."""
        return (
            min(max(point[0], self.left), self.right),
            min(max(point[1], self.bottom), self.top),
        )

    def outside(self, bounds: Box) -> float:
        """Area that lies out of bounds."""
        area = (self.right - self.left) * (self.top - self.bottom)
        return area - self.overlap(bounds)


def place_labels(
    anchors: Sequence[Point],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    bounds: Box,
    gap: float = 7.0,
) -> list[Box]:
    """A box for each label, near its anchor and free of the others where there is room.

    Labels are placed in turn, those with the most crowded anchors first, each at the nearest of
    the positions on rings around its anchor that covers least and names no other point.

    Args:
        anchors: Points to be named, in pixels.
        sizes: Width and height of each label.
        obstacles: What must not be covered; the anchors need not be among it.
        bounds: Boxes stay within these.
        gap: Pixels between an anchor and its label.
    """
    points = [Box(left=x - 4, bottom=y - 4, right=x + 4, top=y + 4) for x, y in anchors]
    crowd = [sum(math.dist(a, b) < 80.0 for b in anchors) for a in anchors]
    placed: dict[int, Box] = {}
    for i in sorted(range(len(anchors)), key=lambda i: -crowd[i]):
        taken = [*obstacles, *points, *placed.values()]
        best, least = _around(anchors[i], sizes[i], 0.0, gap), math.inf
        for ring in range(NUM_RINGS):
            for turn in range(NUM_DIRECTIONS):
                angle = 2.0 * math.pi * turn / NUM_DIRECTIONS
                box = _around(anchors[i], sizes[i], angle, gap + 9.0 * ring)
                covered = sum(map(box.overlap, taken)) + 10.0 * box.outside(bounds)
                if _names_another(box, anchors[i], anchors):
                    covered += LOOKS_LIKE_ANOTHERS
                if covered < least - 1e-6:
                    best, least = box, covered
            if least == 0.0:
                break
        placed[i] = best
    return [placed[i] for i in range(len(anchors))]


def _names_another(box: Box, own: Point, anchors: Sequence[Point]) -> bool:
    """Whether the label is nearer to another point, or its leader runs over one."""
    end = box.nearest(own)
    length = math.dist(own, end)
    for other in anchors:
        if math.dist(other, own) < 1.0:
            continue
        if math.dist(other, box.nearest(other)) < length:
            return True
        along = (other[0] - own[0]) * (end[0] - own[0]) + (other[1] - own[1]) * (end[1] - own[1])
        share = min(1.0, max(0.0, along / max(length**2, 1e-9)))
        foot = (own[0] + share * (end[0] - own[0]), own[1] + share * (end[1] - own[1]))
        if share > 0.0 and math.dist(other, foot) < 6.0:
            return True
    return False


def _around(anchor: Point, size: tuple[float, float], angle: float, gap: float) -> Box:
    """A box whose nearest edge is about `gap` from the anchor in the given direction."""
    x = anchor[0] + math.cos(angle) * (gap + size[0] / 2.0)
    y = anchor[1] + math.sin(angle) * (gap + size[1] / 2.0)
    return Box(
        left=x - size[0] / 2.0,
        bottom=y - size[1] / 2.0,
        right=x + size[0] / 2.0,
        top=y + size[1] / 2.0,
    )
