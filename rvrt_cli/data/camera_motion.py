"""Camera motion over a photograph: training clips whose every frame is made of real pixels.

A frame resampled at its own resolution is blurred, and a network trained on it learns nothing. So a clip either moves
by whole pixels (quarter pixels once reduced four times), or is warped at twice its size and then reduced by two.

T frames of S×S px; positions are (y, x) px. Clips are uint8 RGB (T, S, S, 3); randomness is a NumPy generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from rvrt_cli.data.resize import imresize

KINDS = ("shift", "warp", "layers", "tripod")
_SHARES = (0.30, 0.25, 0.25, 0.20)

_SPEED = (0.3, 14.0)  # px per frame, log-uniform
_ACCELERATION = 0.08  # of the speed, per frame
_SHAKE = 0.5  # px, share of clips that shake: half
_ROTATION = 0.02  # rad per frame, at most
_ZOOM = 0.02  # per frame, at most
_START_ZOOM = (0.85, 1.3)  # photo px per px of the doubled frame
_SHUTTER = (0.2, 0.6)  # of a frame's time, for clips with motion blur
_BLURRED = 0.10  # share of the shifted clips


@dataclass(frozen=True)
class Photo:
    """A photograph at its own size and halved, uint8 RGB (H, W, 3)."""

    full: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> Photo:
        """The photo and its antialiased half."""
        return cls(pixels, imresize(pixels, 0.5))


def photo_clip(photo: Photo, frames: int, size: int, rng: np.random.Generator) -> tuple[str, np.ndarray] | None:
    """The kind of motion and one clip (T, S, S, 3), or None if that motion does not fit in the photo."""
    kind = str(rng.choice(KINDS, p=_SHARES))
    if kind == "shift":
        clip = _shifted(photo.half if rng.random() < 0.5 else photo.full, frames, size, rng)
    else:
        layered, still = kind in ("layers", "tripod"), kind == "tripod"
        clip = _warped(photo.full, frames, size, rng, foreground=layered, still=still)
    return None if clip is None else (kind, clip)


def camera_path(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Offsets (T, 2) px of a camera that drifts, speeds up or slows down, and in half the clips shakes; starts at 0."""
    speed = np.exp(rng.uniform(*np.log(_SPEED)))
    angle = rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([np.sin(angle), np.cos(angle)])
    change = rng.normal(0, _ACCELERATION * speed, (frames - 1, 2)).cumsum(0)
    steps = velocity + change
    if rng.random() < 0.5:
        steps += rng.normal(0, _SHAKE, steps.shape)
    return np.concatenate([np.zeros((1, 2)), steps.cumsum(0)])


def _shifted(image: np.ndarray, frames: int, size: int, rng: np.random.Generator) -> np.ndarray | None:
    """Crops of `image` along a path of whole pixels; some with motion blur, a mean of crops within the shutter time."""
    path = camera_path(frames, rng)
    exposures = np.zeros((1, 1, 2))
    if rng.random() < _BLURRED:
        velocity = np.gradient(path, axis=0)
        times = np.linspace(-0.5, 0.5, 7)[:, None, None] * rng.uniform(*_SHUTTER)
        exposures = times * velocity
    corners = np.rint(path + exposures).astype(int)  # (exposures, T, 2)
    lowest, highest = corners.min((0, 1)), corners.max((0, 1)) + size
    room = np.array(image.shape[:2]) - (highest - lowest)
    if room.min() < 0:
        return None
    corners += rng.integers(0, room, endpoint=True) - lowest
    shots = [[image[y : y + size, x : x + size] for y, x in moment] for moment in corners]
    if len(shots) == 1:
        return np.array(shots[0])
    return np.rint(np.mean(shots, axis=0)).astype(np.uint8)


def _warped(
    image: np.ndarray, frames: int, size: int, rng: np.random.Generator, foreground: bool, still: bool = False
) -> np.ndarray | None:
    """Pan, zoom and rotation, sampled at twice the size and reduced.

    `foreground` adds a layer that moves by itself; of a `still` clip the camera stands on a tripod, so that only the
    foreground moves.
    """
    doubled = 2 * size
    background = _affine_path(1 if still else frames, doubled, image.shape, rng)
    if background is None:
        return None
    if still:
        background *= frames
    picture = Image.fromarray(image)
    shots = [_sample(picture, matrix, doubled) for matrix in background]
    if foreground:
        layer = _affine_path(frames, doubled, image.shape, rng)
        if layer is None:
            return None
        mask = _blob(2 * doubled, rng)
        # The mask travels with its layer: it lies centered on what the middle frame's camera sees.
        middle = layer[frames // 2] @ np.array([doubled / 2, doubled / 2, 1])
        to_mask = np.array([[1, 0, doubled - middle[0]], [0, 1, doubled - middle[1]], [0, 0, 1]])
        for index, matrix in enumerate(layer):
            shape = Image.fromarray(mask).transform(
                (doubled, doubled),
                Image.Transform.AFFINE,
                tuple((to_mask @ matrix)[:2].ravel()),
                Image.Resampling.BILINEAR,
            )
            shots[index] = Image.composite(_sample(picture, matrix, doubled), shots[index], shape)
    return imresize(np.stack([np.asarray(shot) for shot in shots]), 0.5)


def _affine_path(frames: int, side: int, shape: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray] | None:
    """3×3 matrices per frame, from its (x, y, 1) to the photo's; frames of `side` px. None if the path does not fit."""
    path = 2 * camera_path(frames, rng)[:, ::-1]
    time = np.arange(frames)
    angle = rng.uniform(-np.pi / 12, np.pi / 12) + rng.uniform(-_ROTATION, _ROTATION) * time
    zoom = rng.uniform(*_START_ZOOM) * (1 + rng.uniform(-_ZOOM, _ZOOM)) ** time
    matrices = []
    for (x, y), turn, scale in zip(path, angle, zoom, strict=True):
        about = np.array([[1, 0, -side / 2], [0, 1, -side / 2], [0, 0, 1]])
        cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
        matrices.append(np.array([[cosine, -sine, x], [sine, cosine, y], [0, 0, 1]]) @ about)
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]).T
    seen = np.stack([matrix @ corners for matrix in matrices])[:, :2]  # (T, xy, corner)
    lowest, highest = np.floor(seen.min((0, 2))) - 2, np.ceil(seen.max((0, 2))) + 2  # 2 px for the bicubic kernel
    room = np.array(shape[1::-1]) - (highest - lowest)
    if room.min() < 0:
        return None
    move = np.eye(3)
    move[:2, 2] = rng.uniform(0, room) - lowest
    return [move @ matrix for matrix in matrices]


def _sample(picture: Image.Image, matrix: np.ndarray, side: int) -> Image.Image:
    return picture.transform((side, side), Image.Transform.AFFINE, tuple(matrix[:2].ravel()), Image.Resampling.BICUBIC)


def _blob(side: int, rng: np.random.Generator) -> np.ndarray:
    """A random closed shape with a wavy outline near the middle of (side, side) uint8, 255 inside."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radius = np.full(180, rng.uniform(0.08, 0.2))
    for harmonic in range(1, 9):
        radius += rng.normal(0, 0.05 / harmonic) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.02) * side
    center = side / 2 + rng.uniform(-0.15, 0.15, 2) * side
    outline = center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle) * rng.uniform(0.5, 1.5)], 1)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).polygon([tuple(point) for point in outline], fill=255)
    return np.asarray(image)
