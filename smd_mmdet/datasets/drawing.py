"""Draws textured shapes on a cluttered background, with their masks.

Shapes are turned and scaled at random, and later ones lie in front of earlier ones.
Colour, texture, size and angle are drawn without regard to the class: only the outline
tells it. A mask is what can be seen of a shape, so it may have holes or several pieces.

Picture i of a split depends on (seed, split, i, size) and nothing else: a smaller data
set is the beginning of a larger one. The pixels are the same on every machine. To that
end the code keeps to arithmetic whose results IEEE 754 or OpenCV's 8-bit routines fix
exactly; it fills polygons itself, since OpenCV's differ from version to version; and it
takes only uniform numbers from the random generator. The bytes of the PNG files are
those of the installed OpenCV's encoder.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ['CLASSES', 'SPLITS', 'Shape', 'draw_scene', 'draw_single']

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring')
SPLITS = ('train', 'val')

MAX_OBJECTS = 4
# How often to try to place a shape in a scene.
PLACEMENTS = 40
# Bounds of a shape's side as a share of the picture's: in a scene, and alone.
SIDES = (0.2, 0.5)
SINGLE_SIDES = (0.45, 0.8)
MIN_SIDE_PIXELS = 14
# What must be seen of a shape: a share of its area, and a number of pixels.
MIN_VISIBLE = 0.4
MIN_VISIBLE_PIXELS = 30
# A pixel is divided into this many cells in each direction, for smooth outlines.
SUPERSAMPLING = 4


@dataclass
class Shape:
    """A placed shape: how to draw it, and what can be seen of it.

    Every shape has a core, the disc in its middle that is the hole of a ring. It must
    not be hidden either: a ring could then be taken for a circle, and a star for loose
    triangles.

    Args:
        label: Place of the class in ``CLASSES``.
        window: Rows and columns of the picture that hold the shape.
        coverage: Share of each pixel in the window that the shape covers, from 0 to 1.
        visible: Mask of the picture's size: where the shape can be seen.
        core: Mask of the picture's size: where its core can be seen.
        area: Area of the shape with nothing in front of it, pixels.
        core_area: Area of the core, pixels.
    """

    label: int
    window: tuple[slice, slice]
    coverage: np.ndarray
    visible: np.ndarray
    core: np.ndarray
    area: float
    core_area: float

    def stays_clear(self, hidden: np.ndarray) -> bool:
        """Whether the shape can still be told where a mask hides what is below it."""
        body = np.count_nonzero(self.visible & ~hidden)
        core = np.count_nonzero(self.core & ~hidden)
        return bool(
            body >= max(MIN_VISIBLE * self.area, MIN_VISIBLE_PIXELS)
            and core >= MIN_VISIBLE * self.core_area
        )

    def hide(self, hidden: np.ndarray) -> None:
        """Take what a mask hides out of what can be seen."""
        self.visible &= ~hidden
        self.core &= ~hidden


def draw_scene(
    seed: int, split: str, index: int, size: int
) -> tuple[np.ndarray, list[Shape]]:
    """Draw one to four shapes on a background.

    Args:
        seed: Seed of the data set.
        split: 'train' or 'val'.
        index: Number of the picture in the split, from 0.
        size: Height and width of the picture, pixels.

    Returns:
        The picture, shape (size, size, 3) of bytes in OpenCV's order of colours, and
        its shapes from back to front.

    Example:
        >>> picture, shapes = draw_scene(seed=0, split='train', index=0, size=64)
        >>> picture.shape
        (64, 64, 3)
        >>> [CLASSES[shape.label] for shape in shapes]
        ['ring', 'circle', 'ring']
    """
    rng = _generator(SPLITS.index(split), index, size, seed)
    objects = _place(rng, size)
    return _painted(rng, size, objects), objects


def draw_single(seed: int, split: str, index: int, size: int, label: int) -> np.ndarray:
    """Draw one shape on a background.

    Args:
        seed: Seed of the data set.
        split: 'train' or 'val'.
        index: Number of the picture in the split, from 0.
        size: Height and width of the picture, pixels.
        label: Place of the shape's class in ``CLASSES``.

    Returns:
        The picture, shape (size, size, 3) of bytes in OpenCV's order of colours.

    Example:
        >>> draw_single(seed=0, split='val', index=0, size=32, label=3).shape
        (32, 32, 3)
    """
    rng = _generator(len(SPLITS) + SPLITS.index(split), index, size, seed)
    return _painted(rng, size, [_random_shape(rng, size, label, SINGLE_SIDES)])


def _generator(*entropy: int) -> np.random.Generator:
    # The seed comes last, as it alone may be above 2³² and so become several words.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _painted(rng: np.random.Generator, size: int, objects: list[Shape]) -> np.ndarray:
    ground = _color(rng)
    picture = _background(rng, size, ground)
    taken = [ground]
    for shape in objects:
        _paint(rng, picture, shape, taken)
    return _noisy(rng, picture)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _below(rng: np.random.Generator, count: int) -> int:
    return int(rng.random() * count)


def _turn(rng: np.random.Generator) -> tuple[float, float]:
    """Cosine and sine of a random angle."""
    angle = _between(rng, 0, 2 * math.pi)
    # The last digits of sin and cos differ between mathematical libraries.
    return round(math.cos(angle), 9), round(math.sin(angle), 9)


# ------------------------------------------------------------------ geometry


def _polygon(*radii: float, corners: int) -> np.ndarray:
    """Corners at equal angles; the radii are taken in turn, one per corner.

    Returns:
        Points (x, y) around the origin, shape (corners, 2).
    """
    points = []
    for corner in range(corners):
        angle = 2 * math.pi * corner / corners
        radius = radii[corner % len(radii)]
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return np.round(points, 9)


_CIRCLE = _polygon(1.0, corners=128)
_RECTANGLE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])

# Contours of each class, filled by the even-odd rule: what two contours enclose is
# outside. Lengths are in units of half the shape's side. The radii are such that all
# classes are about equally wide.
_CORE = [0.52 * _CIRCLE]
_CONTOURS = {
    'circle': [_CIRCLE],
    'square': [_polygon(1.25, corners=4)],
    'triangle': [_polygon(1.2, corners=3)],
    'star': [_polygon(1.15, 0.48, corners=10)],
    'ring': [_CIRCLE, *_CORE],
}


def _place(rng: np.random.Generator, size: int) -> list[Shape]:
    """Choose shapes such that each can still be told when all are drawn.

    A shape that would hide too much of another is not drawn at all: everything in the
    picture has an annotation.
    """
    wanted = 1 + _below(rng, MAX_OBJECTS)
    objects: list[Shape] = []
    # The first placement always succeeds, as the bounds on side and position leave
    # enough of the shape inside. So no picture is empty.
    for _ in range(PLACEMENTS):
        if len(objects) == wanted:
            break
        shape = _random_shape(rng, size, _below(rng, len(CLASSES)), SIDES)
        body = shape.visible
        if not shape.stays_clear(np.zeros_like(body)):
            continue
        if all(other.stays_clear(body) for other in objects):
            for other in objects:
                other.hide(body)
            objects.append(shape)
    return objects


def _random_shape(
    rng: np.random.Generator, size: int, label: int, sides: tuple[float, float]
) -> Shape:
    smallest = max(sides[0] * size, MIN_SIDE_PIXELS)
    side = _between(rng, smallest, sides[1] * size)
    margin = 0.42 * side
    center = np.array([_between(rng, margin, size - margin) for _ in range(2)])
    turn = _turn(rng)

    def drawn(contours: list[np.ndarray]) -> tuple:
        placed = [_moved(contour, side / 2, turn, center) for contour in contours]
        window, coverage = _rasterize(placed, size)
        mask = np.zeros((size, size), bool)
        mask[window] = coverage >= 0.5
        return window, coverage, mask, _area(placed)

    window, coverage, visible, area = drawn(_CONTOURS[CLASSES[label]])
    _, _, core, core_area = drawn(_CORE)
    return Shape(label, window, coverage, visible, core, area, core_area)


def _moved(
    contour: np.ndarray,
    scale: float | tuple[float, float],
    turn: tuple[float, float],
    center: np.ndarray,
) -> np.ndarray:
    """A contour that is scaled, then turned, then moved from the origin to a point."""
    (cos, sin), (x, y) = turn, (contour * scale).T
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1) + center


def _area(contours: list[np.ndarray]) -> float:
    """Area that the first contour encloses, less what the others do.

    The shoelace formula: |Σ x_i y_{i+1} − y_i x_{i+1}| / 2.
    """
    areas = []
    for x, y in (contour.T for contour in contours):
        areas.append(abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2)
    return areas[0] - sum(areas[1:])


def _rasterize(
    contours: list[np.ndarray], size: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Fill contours by the even-odd rule, with smooth edges.

    Returns:
        Rows and columns of the picture that hold the contours, and the share of each
        pixel in there that they cover.
    """
    low = np.clip(np.floor(contours[0].min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(contours[0].max(axis=0)), 0, size).astype(int)
    width, height = high - low
    fine = [(contour - low) * SUPERSAMPLING for contour in contours]
    inside = _fill(fine, width * SUPERSAMPLING, height * SUPERSAMPLING)
    cells = inside.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING)
    counts = cells.sum(axis=1, dtype=np.uint8).sum(axis=2, dtype=np.uint8)
    return (slice(low[1], high[1]), slice(low[0], high[0])), counts / SUPERSAMPLING**2


def _fill(contours: list[np.ndarray], width: int, height: int) -> np.ndarray:
    """One where the centre of a cell lies inside the contours, zero elsewhere.

    Along a row, every crossing of a contour flips inside and outside.
    """
    # The last column takes the crossings to the right of all centres.
    flips = np.zeros((height, width + 1), np.uint8)
    centers = np.arange(height)[:, None] + 0.5
    for contour in contours:
        (x, y), (next_x, next_y) = contour.T, np.roll(contour, -1, axis=0).T
        rows, edges = np.nonzero((y <= centers) != (next_y <= centers))
        run = (rows + 0.5 - y[edges]) / (next_y - y)[edges]
        crossings = x[edges] + run * (next_x - x)[edges]
        columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)
        np.bitwise_xor.at(flips, (rows, columns), 1)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width]


# ------------------------------------------------------------------ paint


def _color(rng: np.random.Generator) -> np.ndarray:
    return rng.random(3) * 215 + 20


def _shifted(rng: np.random.Generator, color: np.ndarray, by: float) -> np.ndarray:
    return np.clip(color + (rng.random(3) * 2 - 1) * by, 0, 255)


def _distinct_color(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
    """The colour, of a dozen random ones, that differs most from those in use."""
    candidates = [_color(rng) for _ in range(12)]
    return max(candidates, key=lambda color: _distance(color, taken))


def _distance(color: np.ndarray, others: list[np.ndarray]) -> float:
    return min(np.abs(color - other).sum() for other in others)


def _background(rng: np.random.Generator, size: int, ground: np.ndarray) -> np.ndarray:
    slope = _gradient(rng, size, size)[..., None]
    other = _shifted(rng, ground, 45)
    picture = _to_bytes(ground * (1 - slope) + other * slope)
    for _ in range(3 + _below(rng, 5)):
        _blob(rng, picture, _shifted(rng, ground, 60))
    # Blobs are long and blurred, so that none can be taken for a shape.
    blur = 2 * (size // 32) + 1
    picture = cv2.GaussianBlur(picture, (blur, blur), 0)
    for _ in range(2 + _below(rng, 5)):
        _line(rng, picture, _shifted(rng, ground, 130))
    return picture


def _blob(rng: np.random.Generator, picture: np.ndarray, color: np.ndarray) -> None:
    long = _between(rng, 0.08, 0.2)
    _clutter(rng, picture, _CIRCLE, (long, long * _between(rng, 0.3, 0.6)), color)


def _line(rng: np.random.Generator, picture: np.ndarray, color: np.ndarray) -> None:
    scale = _between(rng, 0.1, 1), _between(rng, 0.006, 0.02)
    _clutter(rng, picture, _RECTANGLE, scale, color)


def _clutter(
    rng: np.random.Generator,
    picture: np.ndarray,
    contour: np.ndarray,
    scale: tuple[float, float],
    color: np.ndarray,
) -> None:
    """Paint a contour somewhere; the scale is a share of the picture's side."""
    size = len(picture)
    center = rng.random(2)
    placed = _moved(contour, scale, _turn(rng), center) * size
    window, coverage = _rasterize([placed], size)
    _blend(picture, window, coverage, color)


def _blend(
    picture: np.ndarray,
    window: tuple[slice, slice],
    coverage: np.ndarray,
    color: np.ndarray,
) -> None:
    """Paint with a colour, or one per pixel, where there is coverage."""
    alpha = coverage[..., None]
    picture[window] = _to_bytes(picture[window] * (1 - alpha) + color * alpha)


def _paint(
    rng: np.random.Generator,
    picture: np.ndarray,
    shape: Shape,
    taken: list[np.ndarray],
) -> None:
    """Paint a shape with two shades of a colour that is not taken, in a pattern."""
    first = _distinct_color(rng, taken)
    shades = [first * 0.5, first * 0.5 + 127]
    second = max(shades, key=lambda shade: _distance(shade, taken))
    taken.append(first)
    pattern = _PATTERNS[_below(rng, len(_PATTERNS))]
    height, width = shape.coverage.shape
    mix = pattern(rng, height, width, len(picture))[..., None]
    surface = first * (1 - mix) + second * mix
    _blend(picture, shape.window, shape.coverage, surface)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _noisy(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    strength = _between(rng, 3, 12)
    grain = rng.random((*picture.shape[:2], 1), dtype=np.float32) * 2 - 1
    return _to_bytes(picture + grain * np.float32(strength))


# ------------------------------------------------------------------ patterns
#
# Each gives a number from 0 to 1 for every pixel of a window: how much there is of the
# second colour.


def _axes(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of every pixel along two axes that are turned at random."""
    cos, sin = _turn(rng)
    y, x = np.ogrid[:height, :width]
    return cos * x + sin * y, cos * y - sin * x


def _cells(
    rng: np.random.Generator, height: int, width: int, size: int
) -> tuple[float, list[np.ndarray]]:
    """A random period in pixels, and the place of every pixel within its period.

    The places, one array for each of two axes, are shares of the period from -0.5 to
    0.5.
    """
    period = max(_between(rng, 0.05, 0.1) * size, 4)
    axes = _axes(rng, height, width)
    return period, [(axis / period + rng.random()) % 1 - 0.5 for axis in axes]


def _stripes(
    rng: np.random.Generator, height: int, width: int, size: int
) -> np.ndarray:
    period, (across, _) = _cells(rng, height, width, size)
    return np.clip((np.abs(across) - 0.25) * period + 0.5, 0, 1)


def _dots(rng: np.random.Generator, height: int, width: int, size: int) -> np.ndarray:
    period, (x, y) = _cells(rng, height, width, size)
    return np.clip((0.3 - np.sqrt(x * x + y * y)) * period + 0.5, 0, 1)


def _gradient(
    rng: np.random.Generator, height: int, width: int, size: int | None = None
) -> np.ndarray:
    along, _ = _axes(rng, height, width)
    return (along - along.min()) / (along.max() - along.min())


def _speckle(
    rng: np.random.Generator, height: int, width: int, size: int
) -> np.ndarray:
    grain = max(size // 40, 2)
    coarse = _to_bytes(rng.random((height // grain + 2, width // grain + 2)) * 255)
    shape = (width, height)
    return cv2.resize(coarse, shape, interpolation=cv2.INTER_LINEAR_EXACT) / 255


_PATTERNS = (_stripes, _dots, _gradient, _speckle)
