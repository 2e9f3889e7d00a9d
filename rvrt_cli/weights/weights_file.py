# SPDX-License-Identifier: Apache-2.0
"""The project's weights files: safetensors that carry the network's configuration and a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvrt_cli.errors import WeightsError
from rvrt_cli.files import write_atomically
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.weights.safe_pickle import sanitize

# Bicubic; blur, then decimation; compressed video; motion blur; noise; untrained or unknown
TRAINED_DEGRADATIONS = ("bi", "bd", "video", "real", "blur", "noise", "none")
_METADATA_KEY = "rvrt"  # a single metadata entry: safetensors writes several in an order that varies between runs
_WEIGHT_DTYPES = {"F32": np.float32, "F16": np.float16}
_MAX_LISTED_NAMES = 4  # of each kind in an error message


@dataclass(frozen=True)
class NetworkWeights:
    """A network's arrays by parameter name, its configuration, and its model card (see `save_weights`)."""

    arrays: dict[str, np.ndarray]
    config: RVRTConfig
    card: dict


class WeightsHeader(NamedTuple):
    """What a weights file says about itself; `parameters` is the number of weights."""

    config: RVRTConfig
    card: dict
    parameters: int


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise a WeightsError where `path` exists and `overwrite` is off."""
    if path.exists() and not overwrite:
        raise WeightsError(f"{path}: already exists; give --overwrite to replace it")


def save_weights(path: Path, arrays: dict[str, np.ndarray], config: RVRTConfig, card: dict) -> None:
    """Write a weights file atomically; equal input gives equal bytes.

    Args:
        arrays: float32 or float16, any strides.
        card: the model card as plain values: "name" (text), "trained" (bool, or None where it is unknown), "degradation"
            (one of TRAINED_DEGRADATIONS) and, where known, "data", "license", "scores", "source", "source_sha256".
    Raises:
        WeightsError: invalid card, unsupported array type, or `path` cannot be written.
    """
    _check_card(card, path)
    for name, array in arrays.items():
        if array.dtype not in _WEIGHT_DTYPES.values():
            raise WeightsError(f"{path}: {sanitize(name)} is {array.dtype}; weights must be float32 or float16")
    about = json.dumps({"config": config.to_dict(), "card": card}, sort_keys=True, ensure_ascii=True)
    contiguous = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    data = save(contiguous, metadata={_METADATA_KEY: about})
    write_atomically(path, data, error=WeightsError, shared=True)


def read_about(path: Path) -> WeightsHeader:
    """Read the header of a weights file, without its arrays.

    Raises:
        WeightsError: as `load_weights`.
    """
    with _open_safetensors(path) as file:
        config, card = _parse_metadata(file.metadata(), path)
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  not a mapping
        return WeightsHeader(config, card, sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes))


def load_weights(path: Path) -> NetworkWeights:
    """Read a file that `save_weights` wrote. `check_names` then checks that it fits a network.

    Raises:
        WeightsError: no such file, damaged, not a weights file of this project, or an invalid configuration.
    """
    arrays: dict[str, np.ndarray] = {}
    with _open_safetensors(path) as file:
        config, card = _parse_metadata(file.metadata(), path)
        for name in file.keys():  # noqa: SIM118  not a mapping
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _WEIGHT_DTYPES:
                raise WeightsError(f"{path}: {sanitize(name)} is {dtype}; weights must be float32 or float16")
            arrays[name] = file.get_tensor(name)
            if not np.isfinite(arrays[name]).all():
                raise WeightsError(
                    f"{path}: {sanitize(name)} is not finite (its training has diverged); choose other weights"
                )
    check_plausible_size(arrays, config, path)
    return NetworkWeights(arrays, config, card)


def check_plausible_size(arrays: dict[str, np.ndarray], config: RVRTConfig, where: object) -> None:
    """Reject a configuration of a far larger network than `arrays` can fill, before that network is built.

    Raises:
        WeightsError: the layers of the network's bodies alone have more weights than all the arrays.
    """
    layers = [groups * depth for groups, depth in zip(config.groups, config.depths, strict=True)]
    # Weights of one layer over its squared width: qkv, projection and MLP; or two 3x3 convolutions
    per_layer = {"attention": 4 + 2 * config.mlp_ratio, "convolution": 2 * 9}
    parts = zip((1, config.passes, 1), layers, config.bodies, config.widths, strict=True)
    lower_bound = sum(copies * count * per_layer[body] * width**2 for copies, count, body, width in parts)
    if lower_bound > sum(array.size for array in arrays.values()):
        raise WeightsError(
            f"{where}: its configuration describes a far larger network than it holds weights for; damaged or malicious"
        )


def check_names(arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]], where: object) -> None:
    """Check that `arrays` are exactly the parameters that a network expects.

    Args:
        expected: shape by name, from `rvrt_cli.model.parameter_shapes`.
        where: origin of the arrays, for the message.
    Raises:
        WeightsError: missing or unexpected names, or mismatched shapes; the message counts and lists them.
    """
    missing = [sanitize(name) for name in expected if name not in arrays]
    unexpected = [sanitize(name) for name in arrays if name not in expected]
    mismatched = [
        f"{sanitize(name)} {_format_shape(arrays[name].shape)} instead of {_format_shape(shape)}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != tuple(shape)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("with mismatched shape", mismatched))
    found = [f"{len(names)} {kind} ({_shorten(names)})" for kind, names in kinds if names]
    if found:
        raise WeightsError(
            f"{where}: weights of a different network: {'; '.join(found)}; choose weights made for this one"
        )


def _shorten(names: list[str]) -> str:
    rest = len(names) - _MAX_LISTED_NAMES
    return ", ".join(names[:_MAX_LISTED_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _format_shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


@contextmanager
def _open_safetensors(path: Path) -> Iterator[safe_open]:
    """`safe_open`, with every error on opening and reading turned into a WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; `rvrt weights list` shows the weights available")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, MemoryError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"{path}: not a weights file, or a damaged one ({sanitize(error)}); "
            "convert a published .pth with `rvrt weights convert`"
        ) from None


def _parse_metadata(metadata: dict[str, str] | None, path: Path) -> tuple[RVRTConfig, dict]:
    try:
        about = json.loads((metadata or {})[_METADATA_KEY])
        config, card = about["config"], about["card"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise WeightsError(
            f"{path}: a safetensors file without an rvrt network configuration; "
            "convert a published checkpoint with `rvrt weights convert`"
        ) from None
    try:
        parsed = RVRTConfig.from_dict(config)
    except WeightsError as error:
        raise WeightsError(f"{path}: {sanitize(error, 300)}") from None
    if isinstance(card, dict) and "licence" in card:  # files of version 0.1
        card = {"license": card["licence"], **{key: value for key, value in card.items() if key != "licence"}}
    _check_card(card, path)
    return parsed, card


def _check_card(card: object, path: Path) -> None:
    """Validate the entries that commands rely on."""
    trained = card.get("trained", "") if isinstance(card, dict) else ""
    if not isinstance(card, dict) or not isinstance(card.get("name"), str) or not isinstance(trained, bool | None):
        raise WeightsError(
            f'{path}: its model card needs "name" (text) and "trained" (true, false or null); damaged, or not written by rvrt'
        )
    if card.get("degradation") not in TRAINED_DEGRADATIONS:
        names = ", ".join(TRAINED_DEGRADATIONS)
        raise WeightsError(f'{path}: its model card needs "degradation", one of {names}')
