# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels of optical flow and of the fusion of neighboring frames against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.comparison import assert_all_close, assert_within
from helpers.flow_reference import fuse_frames, lucas_kanade, moved_texture, waves
from helpers.kernel_calls import Kernels, attributes
from helpers.kernel_checks import doubles

SIZES = [(1, 24, 24), (2, 9, 13), (3, 1, 5), (1, 70, 273)]


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("size", SIZES)
def test_flow_matches_its_formulas(kernels: Kernels, size: tuple, levels: int) -> None:
    views = moved_texture(*size)
    found = kernels("lucas_kanade_forward", *views, attributes(levels, 2), like=[(*size, 2), size])
    references = [lucas_kanade(*pair, levels, 2) for pair in zip(*doubles(*views), strict=True)]
    expected = [np.stack(results) for results in zip(*references, strict=True)]
    assert np.abs(expected[0]).max() > 0.5
    # 5e-5, not 1e-5: each iteration starts from the rounding errors of the previous one
    assert_all_close(found, expected, "flow match", 5e-5)


ROWS, COLUMNS = np.mgrid[:48, :64]


def gray_frame(luma: np.ndarray) -> np.ndarray:
    """(H, W) as (1, H, W, 3)."""
    return np.repeat(luma[None, ..., None], 3, -1).astype(np.float32)


def full(*shape: int) -> np.ndarray:
    """Matches of neighbors that are to be trusted."""
    return np.ones(shape, np.float32)


def lengths(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[..., 0], vectors[..., 1])


@pytest.mark.parametrize(("gain", "offset"), [(1.04, 0), (1, 0.03), (1.03, 0.02)])
def test_a_change_of_exposure_is_no_motion(kernels: Kernels, gain: float, offset: float) -> None:
    """If the local mean were not subtracted, the flow would change by 0.2 to 0.6 px on average."""
    motion = 2.5, 1.0
    first, second = gray_frame(waves(3, ROWS, COLUMNS)), gray_frame(waves(3, ROWS - motion[1], COLUMNS - motion[0]))
    same, changed = (
        kernels("lucas_kanade_forward", first, view, attributes(4, 2), like=[(*first.shape[:3], 2), first.shape[:3]])[0]
        for view in (second, np.float32(gain) * second + np.float32(offset))
    )
    assert lengths(same - motion)[:, 8:-8, 8:-8].mean() < 0.03, "the motion is found"
    change = lengths(changed - same)
    assert change.mean() < 0.03, f"mean {change.mean():.3f} px"
    assert change.max() < 0.2, f"largest {change.max():.3f} px"


@pytest.mark.parametrize(("object_motion", "motion"), [((2, 1), (-1, 0)), ((1.5, 1), (-1, -0.5)), ((0, 0), (2, -1))])
def test_at_the_edge_of_an_object_pixels_move_with_their_side(
    kernels: Kernels, object_motion: tuple[float, float], motion: tuple[float, float]
) -> None:
    """Many more of them, within 6 px: of the background that gets covered, and right at the edge, not all can."""

    def scene(time: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame, and the distance from the edge of a disc in front of the background."""
        places = [(ROWS - time * y, COLUMNS - time * x) for x, y in (object_motion, motion)]
        distance = np.hypot(places[0][0] - 23.5, places[0][1] - 31.5) - 13
        return gray_frame(np.where(distance < 0, waves(2, *places[0]), waves(1, *places[1]))), distance

    (first, distance), (second, _) = scene(0), scene(1)
    truth = np.where((distance < 0)[..., None], object_motion, motion)
    shape = first.shape[:3]
    [flow], _ = kernels("lucas_kanade_forward", first, second, attributes(4, 2), like=[(*shape, 2), shape])
    plain, _ = lucas_kanade(*doubles(first[0], second[0]), 4, 2, trying_levels=0)
    wrong, plainly_wrong = (np.mean(lengths(one - truth)[abs(distance) < 6] > 0.5) for one in (flow, plain))
    assert plainly_wrong > 0.4
    assert wrong < 0.6 * plainly_wrong, f"{wrong:.0%}, without trying the flows around {plainly_wrong:.0%}"


def test_what_gets_covered_does_not_match_and_what_only_moves_does(kernels: Kernels) -> None:
    """A square stands in front of a background that moves by 3 px to the right, both with a fine texture."""
    texture = 0.08 * np.random.default_rng(0).standard_normal((2, 48, 80))
    texture = sum(np.roll(texture, by, (1, 2)) for by in ((0, 0), (0, 1), (1, 0), (1, 1))) / 2
    square = (abs(ROWS - 23.5) < 10) & (abs(COLUMNS - 31.5) < 10)
    front = waves(2, ROWS, COLUMNS) + texture[1, :, :64]
    first, second = (
        gray_frame(np.where(square, front, waves(1, ROWS, COLUMNS - move) + texture[0, :, 8 - move : 72 - move]))
        for move in (0, 3)
    )
    shape = first.shape[:3]
    _, [match] = kernels("lucas_kanade_forward", first, second, attributes(4, 2), like=[(*shape, 2), shape])
    covered = (abs(ROWS - 23.5) < 8) & (COLUMNS >= 19) & (COLUMNS < 22)
    background = (COLUMNS < 12) | ((COLUMNS > 46) & (COLUMNS < 58))
    assert np.median(match[covered]) < 0.4
    assert np.median(match[background]) > 0.9
    assert np.median(match[(abs(ROWS - 23.5) < 5) & (abs(COLUMNS - 31.5) < 5)]) > 0.9
    assert match[:, 61:].max() < 0.05, "leaves the frame"


@pytest.mark.parametrize("size", SIZES)
def test_fusion_matches_its_formulas(kernels: Kernels, size: tuple) -> None:
    rng = np.random.default_rng(3)
    frame, neighbors = rng.uniform(0.4, 0.7, (*size, 3)), rng.uniform(0.4, 0.7, (size[0], 3, *size[1:], 3))
    flows = 2 * rng.standard_normal((size[0], 3, *size[1:], 2))
    flows[0, 0, 0, :2] = [[3e9, -1e4], [np.inf, 0.5]]  # far outside
    matches = rng.uniform(0, 1, (size[0], 3, *size[1:]))
    values = [value.astype(np.float32) for value in (frame, neighbors, flows, matches)]
    [fused] = kernels("fuse_frames_forward", *values, like=[(*size, 64)])
    assert_all_close([fused], [np.stack([fuse_frames(*one) for one in zip(*doubles(*values), strict=True)])], "fused")


def test_fusion_is_continuous_where_a_flow_crosses_a_whole_number(kernels: Kernels) -> None:
    """There one sample of the neighbor takes the place of another; a rounding error of the flow must not show as a step."""
    rng = np.random.default_rng(2)
    frame, neighbor = rng.uniform(0.4, 0.6, (2, 1, 12, 15, 3)).astype(np.float32)
    fused = []
    for error in (-1e-6, 1e-6):
        flows = np.broadcast_to(np.float32([1 + error, -2 - error]), (1, 1, 12, 15, 2)).copy()
        fused += kernels(
            "fuse_frames_forward", frame, neighbor[:, None], flows, full(1, 1, 12, 15), like=[(1, 12, 15, 64)]
        )
    assert_within(fused[1], fused[0], 2e-5)


def test_a_missing_neighbor_has_no_weight(kernels: Kernels) -> None:
    """A missing neighbor is filled with `rvrt_cli.model.optical_flow.MISSING_FRAME`, which resembles no frame."""
    frame = moved_texture(1, 12, 15)[0]
    absent = np.full((1, 2, 12, 15, 3), -8, np.float32)
    flows = np.random.default_rng(0).standard_normal((1, 2, 12, 15, 2)).astype(np.float32)
    [fused] = kernels("fuse_frames_forward", frame, absent, flows, full(1, 2, 12, 15), like=[(1, 12, 15, 64)])
    none = np.zeros((0, 12, 15, 3))
    alone = fuse_frames(frame[0].astype(np.float64), none, none[..., :2], none[..., 0])
    assert_within(fused[0], alone, 1e-6)


def test_nan_and_infinity_do_not_spread_to_other_items(kernels: Kernels) -> None:
    views = moved_texture(2, 9, 13)
    views[1][0, 4, 5] = [np.nan, np.inf, -np.inf]
    flow, match = kernels("lucas_kanade_forward", *views, attributes(4, 2), like=[(2, 9, 13, 2), (2, 9, 13)])
    assert np.isfinite(flow[1]).all()
    assert np.isfinite(match[1]).all()
    flows, neighbors = np.full((2, 1, 9, 13, 2), np.nan, np.float32), views[1][:, None].copy()
    [fused] = kernels("fuse_frames_forward", views[0], neighbors, flows, full(2, 1, 9, 13), like=[(2, 9, 13, 64)])
    assert np.isfinite(fused).all()


@pytest.mark.parametrize("missing", [[], [0, 1, 5], [2]])
@pytest.mark.parametrize("size", [(9, 13), (70, 90)])
def test_fusion_of_a_clip_is_flow_and_fusion(cpu_kernels: Kernels, size: tuple, missing: list[int]) -> None:
    """Two frames and two neighbors on either side, some of which are missing; in the last case one of the two."""
    texture = moved_texture(12, *size)[0].reshape(2, 6, *size, 3)
    texture[:, missing] = -8
    middle = texture[:, 2:4].reshape(4, *size, 3)
    neighbors = np.stack([texture[:, i : i + 2].reshape(4, *size, 3) for i in (0, 1, 3, 4)], 1)
    repeated = np.repeat(middle[:, None], 4, 1).reshape(-1, *size, 3)
    pairs = repeated, neighbors.reshape(-1, *size, 3)
    found = cpu_kernels("lucas_kanade_forward", *pairs, attributes(4, 2), like=[(16, *size, 2), (16, *size)])
    flows, matches = found[0].reshape(4, 4, *size, 2), found[1].reshape(4, 4, *size)
    [expected] = cpu_kernels("fuse_frames_forward", middle, neighbors, flows, matches, like=[(4, *size, 64)])
    [fused] = cpu_kernels("fuse_clip_forward", texture, attributes(4, 2), like=[(2, 2, *size, 64)])
    np.testing.assert_array_equal(fused.reshape(expected.shape), expected)


@pytest.mark.parametrize("size", [(3, 20, 30), (1, 80, 70)])
def test_results_do_not_depend_on_the_number_of_threads(library: Kernels, size: tuple) -> None:
    views = moved_texture(*size)
    try:
        results = []
        for threads in (1, 2, 5):
            library.limit(threads=threads)
            results.append(library("lucas_kanade_forward", *views, attributes(4, 2), like=[(*size, 2), size]))
        for result in results[1:]:
            for found, expected in zip(result, results[0], strict=True):
                np.testing.assert_array_equal(found, expected)
    finally:
        library.limit()


def test_wrong_calls_are_refused_and_write_nothing(library: Kernels) -> None:
    first, second = moved_texture(1, 9, 13)
    shape = 1, 9, 13
    for inputs, flow_shape, match_shape in (
        ([first, second[:, 1:], attributes(4, 2)], (*shape, 2), shape),
        ([first, second, attributes(0, 2)], (*shape, 2), shape),
        ([first, second, attributes(9, 2)], (*shape, 2), shape),
        ([first, second, attributes(4, -1)], (*shape, 2), shape),
        ([first, second, attributes(4, 2)], (*shape, 3), shape),
        ([first, second, attributes(4, 2)], (*shape, 2), (1, 9, 12)),
        ([first.astype(np.float64), second, attributes(4, 2)], (*shape, 2), shape),
    ):
        outputs = [np.full(size, 7, np.float32) for size in (flow_shape, match_shape)]
        assert library.status("lucas_kanade_forward", inputs, outputs) != 0
        assert all((out == 7).all() for out in outputs)
