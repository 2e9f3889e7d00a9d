# SPDX-License-Identifier: Apache-2.0
"""Synthetic camera motion over a photograph: training clips whose every frame is made of real pixels.

A frame resampled at its own resolution is blurred, and a network trained on it learns nothing. So a clip either moves
by whole pixels (quarter pixels at low resolution), or is warped at twice its size and then reduced by two.

T frames of S×S px; positions are (y, x) px. Clips are uint8 RGB (T, S, S, 3); randomness is a NumPy generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from rvrt_cli.data.resize import imresize

MOTION_KINDS = ("shift", "warp", "layers", "tripod")
_MOTION_SHARES = (0.30, 0.25, 0.25, 0.20)

_SPEED_RANGE = (0.3, 14.0)  # px per frame, log-uniform
_ACCELERATION = 0.08  # standard deviation, as a share of the speed, per frame
_SHAKE = 0.5  # px, standard deviation; half of the clips shake
_MAX_ROTATION = 0.02  # rad per frame
_MAX_ZOOM = 0.02  # relative, per frame
_START_ZOOM = (0.85, 1.3)  # photo px per px of the doubled frame
_SHUTTER = (0.2, 0.6)  # exposure of clips with motion blur, as a share of the frame interval
_BLURRED_SHARE = 0.10  # of the shifted clips


@dataclass(frozen=True)
class Photo:
    """A photograph at its own size and halved, uint8 RGB (H, W, 3)."""

    full: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> Photo:
        """Keep the photo and its antialiased half."""
        return cls(pixels, imresize(pixels, 0.5))


def photo_clip(photo: Photo, frames: int, size: int, rng: np.random.Generator) -> tuple[str, np.ndarray] | None:
    """Draw a kind of motion and make a clip (T, S, S, 3); None if the motion does not fit into the photo."""
    kind = str(rng.choice(MOTION_KINDS, p=_MOTION_SHARES))
    if kind == "shift":
        clip = _shifted_clip(photo.half if rng.random() < 0.5 else photo.full, frames, size, rng)
    else:
        layered, still = kind in ("layers", "tripod"), kind == "tripod"
        clip = _warped_clip(photo.full, frames, size, rng, foreground=layered, still=still)
    return None if clip is None else (kind, clip)


def camera_path(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Offsets (T, 2) px of a camera that drifts, accelerates, and in half of the clips shakes; the first is 0."""
    speed = np.exp(rng.uniform(*np.log(_SPEED_RANGE)))
    angle = rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([np.sin(angle), np.cos(angle)])
    change = rng.normal(0, _ACCELERATION * speed, (frames - 1, 2)).cumsum(0)
    steps = velocity + change
    if rng.random() < 0.5:
        steps += rng.normal(0, _SHAKE, steps.shape)
    return np.concatenate([np.zeros((1, 2)), steps.cumsum(0)])


def _shifted_clip(image: np.ndarray, frames: int, size: int, rng: np.random.Generator) -> np.ndarray | None:
    """Crops of `image` along a path of whole pixels; some with motion blur, the mean of crops during the exposure."""
    path = camera_path(frames, rng)
    exposures = np.zeros((1, 1, 2))
    if rng.random() < _BLURRED_SHARE:
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


def _warped_clip(
    image: np.ndarray, frames: int, size: int, rng: np.random.Generator, foreground: bool, still: bool = False
) -> np.ndarray | None:
    """Pan, zoom and rotation, sampled at twice the size and reduced.

    Args:
        foreground: add a layer that moves independently.
        still: the camera stands on a tripod, so that only the foreground moves.
    """
    doubled = 2 * size
    background = _affine_path(1 if still else frames, doubled, image.shape, rng)
    if background is None:
        return None
    if still:
        background *= frames
    photo = Image.fromarray(image)
    shots = [_sample_affine(photo, matrix, doubled) for matrix in background]
    if foreground:
        layer = _affine_path(frames, doubled, image.shape, rng)
        if layer is None:
            return None
        mask = _random_blob(2 * doubled, rng)
        # The mask moves with its layer; it is centered in the view of the middle frame.
        middle = layer[frames // 2] @ np.array([doubled / 2, doubled / 2, 1])
        to_mask = np.array([[1, 0, doubled - middle[0]], [0, 1, doubled - middle[1]], [0, 0, 1]])
        for index, matrix in enumerate(layer):
            shape = Image.fromarray(mask).transform(
                (doubled, doubled),
                Image.Transform.AFFINE,
                tuple((to_mask @ matrix)[:2].ravel()),
                Image.Resampling.BILINEAR,
            )
            shots[index] = Image.composite(_sample_affine(photo, matrix, doubled), shots[index], shape)
    return imresize(np.stack([np.asarray(shot) for shot in shots]), 0.5)


def _affine_path(frames: int, side: int, shape: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray] | None:
    """3×3 matrices from (x, y, 1) of each frame, `side` px, to the photo's; None if the path does not fit into it."""
    path = 2 * camera_path(frames, rng)[:, ::-1]
    time = np.arange(frames)
    angle = rng.uniform(-np.pi / 12, np.pi / 12) + rng.uniform(-_MAX_ROTATION, _MAX_ROTATION) * time
    zoom = rng.uniform(*_START_ZOOM) * (1 + rng.uniform(-_MAX_ZOOM, _MAX_ZOOM)) ** time
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
    placement = np.eye(3)
    placement[:2, 2] = rng.uniform(0, room) - lowest
    return [placement @ matrix for matrix in matrices]


def _sample_affine(photo: Image.Image, matrix: np.ndarray, side: int) -> Image.Image:
    return photo.transform((side, side), Image.Transform.AFFINE, tuple(matrix[:2].ravel()), Image.Resampling.BICUBIC)


def _random_blob(side: int, rng: np.random.Generator) -> np.ndarray:
    """A random closed shape with a wavy outline near the center of a mask (side, side) uint8; 255 inside."""
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
