# SPDX-License-Identifier: Apache-2.0
"""Conversion of a published PyTorch checkpoint into a weights file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import BRANCHES, PRESETS, RVRTConfig
from rvrt_cli.position_index import relative_position_index
from rvrt_cli.weights.catalog import match_published
from rvrt_cli.weights.safe_pickle import sanitize
from rvrt_cli.weights.torch_checkpoint import read_checkpoint
from rvrt_cli.weights.weights_file import (
    NetworkWeights,
    check_names,
    check_plausible_size,
    refuse_existing,
    save_weights,
)

_SPYNET_CONSTANTS = {"spynet.mean": (0.485, 0.456, 0.406), "spynet.std": (0.229, 0.224, 0.225)}  # ImageNet, RGB
_POSITION_INDEX = ".relative_position_index"
_SIZED_PARTS = ("feat_extract", "backbone.backward_1", "reconstruction")  # the three entries of RVRTConfig.widths etc.


def convert_checkpoint(source: Path, target: Path, card: dict | None = None, overwrite: bool = False) -> NetworkWeights:
    """Convert a PyTorch checkpoint of RVRT into a weights file.

    Args:
        card: model card entries that replace those derived from the file name (see `save_weights`).
    Raises:
        WeightsError: `source` is not such a checkpoint, or `target` exists and `overwrite` is off.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise WeightsError(f"{target}: output and input are the same file; choose another output name")
    refuse_existing(target, overwrite)
    weights = read_published(source, card)
    save_weights(target, weights.arrays, weights.config, weights.card)
    return weights


def read_published(source: Path, card: dict | None = None) -> NetworkWeights:
    """The float32 weights of a PyTorch checkpoint, every name and shape checked. Arguments and errors as above."""
    from rvrt_cli.model import parameter_shapes  # MindSpore

    checkpoint = read_checkpoint(source)
    arrays = {name: array for name, array in checkpoint.arrays.items() if not _is_constant(name)}
    config = _infer_config(arrays, source)
    check_plausible_size(arrays, config, source)
    check_names(arrays, parameter_shapes(config), source)
    for name in checkpoint.arrays.keys() - arrays.keys():
        _check_constant(name, checkpoint.arrays[name], config, source)
    weights = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
    for name, array in weights.items():
        if checkpoint.arrays[name].dtype.kind != "f" or not np.isfinite(array).all():
            raise WeightsError(
                f"{source}: {sanitize(name)} holds values that are not finite floating-point numbers; "
                "damaged, or its training has diverged"
            )
    card, initial = card or {}, _are_initial(weights)
    entry = None if initial else match_published(source.name)
    if entry:
        known = entry.card(source.name, checkpoint.sha256)
    else:
        trained = True if {"data", "degradation"} & card.keys() else None
        known = _unknown_card(source, checkpoint.sha256, False if initial else trained)
    return NetworkWeights(weights, config, known | card)


def _are_initial(weights: dict[str, np.ndarray]) -> bool:
    """Whether no step of training can have been made: the scales of all LayerNorms are 1 and their offsets 0."""
    scales = [array for name, array in weights.items() if name.endswith(("norm1.weight", "norm2.weight"))]
    offsets = [array for name, array in weights.items() if name.endswith(("norm1.bias", "norm2.bias"))]
    return bool(scales) and all((array == 1).all() for array in scales) and not any(array.any() for array in offsets)


def _unknown_card(source: Path, sha256: str, trained: bool | None) -> dict:
    return {
        "name": source.stem,
        "trained": trained,
        "degradation": "none",
        "license": "unknown: see the publisher of the source",
        "source": source.name,
        "source_sha256": sha256,
    }


def _is_constant(name: str) -> bool:
    return name in _SPYNET_CONSTANTS or name.endswith(_POSITION_INDEX)


def _infer_config(arrays: dict[str, np.ndarray], source: Path) -> RVRTConfig:
    """The configuration that names and shapes suggest; `check_names` decides whether they match it."""
    restores = any(name.startswith(("feat_extract.1.", "feat_extract.6.")) for name in arrays)
    parts = ("feat_extract.6" if restores else "feat_extract", *_SIZED_PARTS[1:])
    if not all(any(name.startswith(f"{part}.main.") for name in arrays) for part in parts):
        names = ", ".join(sanitize(name) for name in list(arrays)[:4])
        raise WeightsError(f"{source}: not an RVRT network; it holds {names}. Use a published checkpoint, 001 to 006")
    base = PRESETS["rvrt" if any(name.startswith("spynet.") for name in arrays) else "rvrt-light"]
    if restores:
        noise_input = arrays.get("feat_extract.1.weight", np.zeros((0, 3))).shape[1:2] == (4,)
        base = replace(base, scale=1, noise_input=noise_input)
    group, layer = "{}.main.5.", "{}.main.5.0.residual_group.blocks."
    bias_table = layer + "0.attn.relative_position_bias_table"  # (pairs of pixels, heads)
    sizes: dict[str, Any] = {
        # One width: the branches are concatenated
        "widths": _length_per_part(arrays, parts, "backbone.backward_1.main.1.weight", 0, base.widths),
        "groups": _count_per_part(arrays, parts, group, base.groups),
        "depths": _count_per_part(arrays, parts, layer, base.depths),
        "heads": _length_per_part(arrays, parts, bias_table, 1, base.heads),
        "upsampler_width": _length_per_part(
            arrays, parts, "conv_before_upsampler.0.weight", 0, (base.upsampler_width,)
        )[0],
    }
    if restores:
        sizes["conv_groups"] = _conv_groups(arrays, sizes["widths"][0])
    try:
        return RVRTConfig.from_dict(base.to_dict() | sizes)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None


def _conv_groups(arrays: dict[str, np.ndarray], width: int) -> tuple[int, ...]:
    """Groups of the first convolution of each part, 1 where that does not divide its channels."""
    names = [f"backbone.{branch}" for branch in BRANCHES]
    channels = {"feat_extract.6": width, **{name: (2 + k) * width for k, name in enumerate(names)}}
    channels["reconstruction"] = (1 + len(names)) * width
    groups = []
    for name, total in channels.items():
        weight = arrays.get(f"{name}.main.1.weight")
        inputs = weight.shape[1] if weight is not None and weight.ndim > 1 else 0
        groups.append(total // inputs if inputs and total % inputs == 0 else 1)
    return tuple(groups)


def _length_per_part(
    arrays: dict[str, np.ndarray], parts: tuple[str, ...], name: str, axis: int, preset: tuple[int, ...]
) -> tuple[int, ...]:
    """Length of an axis in each part; the preset's if the array is absent (`check_names` will report it missing)."""
    found = (arrays.get(name.format(part)) for part in parts)
    return tuple(
        known if array is None or array.ndim <= axis else array.shape[axis]
        for array, known in zip(found, preset, strict=False)
    )


def _count_per_part(
    arrays: dict[str, np.ndarray], parts: tuple[str, ...], prefix: str, preset: tuple[int, ...]
) -> tuple[int, ...]:
    """Number of distinct indices that follow `prefix` in the names of each part."""
    starts = [prefix.format(part) for part in parts]
    indices = ({name[len(start) :].split(".")[0] for name in arrays if name.startswith(start)} for start in starts)
    return tuple(len(found) or known for found, known in zip(indices, preset, strict=True))


def _check_constant(name: str, array: np.ndarray, config: RVRTConfig, source: Path) -> None:
    """Constants are dropped, since the network computes its own; so the two must agree."""
    if name in _SPYNET_CONSTANTS:
        expected = np.reshape(_SPYNET_CONSTANTS[name], (1, 3, 1, 1))
        same = array.shape == expected.shape and np.allclose(array, expected, rtol=0, atol=1e-3)
    else:
        frames = config.clip_size if name.startswith("backbone.") else 1
        expected = relative_position_index((frames, config.window, config.window))
        same = np.array_equal(array, expected)
    if not same:
        raise WeightsError(
            f"{source}: {sanitize(name)} differs from the network's constant; damaged, or from a different network"
        )
