"""Our weights files: safetensors that carry the network's configuration and a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvrt_cli.errors import WeightsError
from rvrt_cli.files import write_atomically
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.weights.safe_pickle import shown

DEGRADATIONS = ("bi", "bd", "video", "none")  # bicubic; blur, then decimation; compressed video; untrained or unknown
_KEY = "rvrt"  # one metadata entry: safetensors writes several in an order that changes from run to run
_DTYPES = {"F32": np.float32, "F16": np.float16}
_LISTED = 4  # names that a message shows of each kind


@dataclass(frozen=True)
class Weights:
    """A network's arrays by parameter name, what sizes it, and its model card (see `save_weights`)."""

    arrays: dict[str, np.ndarray]
    config: RVRTConfig
    card: dict


def save_weights(path: Path, arrays: dict[str, np.ndarray], config: RVRTConfig, card: dict) -> None:
    """Write a weights file; equal input gives equal bytes, and the file appears only when complete.

    Args:
        arrays: float32 or float16, any strides.
        card: the model card's facts as plain values: "name" (text), "trained" (bool), "degradation" (one of
            DEGRADATIONS) and, where known, "data", "license", "scores", "source", "source_sha256".
    Raises:
        WeightsError: the card or an array cannot be stored, or `path` cannot be written.
    """
    _check_card(card, path)
    for name, array in arrays.items():
        if array.dtype not in _DTYPES.values():
            raise WeightsError(f"{path}: {shown(name)} is {array.dtype}; weights are float32 or float16")
    about = json.dumps({"config": config.to_dict(), "card": card}, sort_keys=True, ensure_ascii=True)
    data = save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}, metadata={_KEY: about})
    write_atomically(path, data, error=WeightsError, shared=True)


def read_about(path: Path) -> tuple[RVRTConfig, dict, int]:
    """Configuration, card and number of weights of a weights file; reads its head alone.

    Raises:
        WeightsError: as `load_weights`.
    """
    with _open(path) as file:
        config, card = _parse(file.metadata(), path)
        counts = (int(np.prod(file.get_slice(name).get_shape(), dtype=np.int64)) for name in file.keys())  # noqa: SIM118
        return config, card, sum(counts)


def load_weights(path: Path) -> Weights:
    """Read a file that `save_weights` wrote. Whether it fits the network is for `check_names` to say.

    Raises:
        WeightsError: no such file, damaged, foreign, or its configuration is none.
    """
    arrays: dict[str, np.ndarray] = {}
    with _open(path) as file:
        config, card = _parse(file.metadata(), path)
        for name in file.keys():  # noqa: SIM118  no mapping
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise WeightsError(f"{path}: {shown(name)} is {dtype}; weights are float32 or float16")
            arrays[name] = file.get_tensor(name)
            if not np.isfinite(arrays[name]).all():
                raise WeightsError(f"{path}: {shown(name)} is not finite: a training that failed; choose other weights")
    check_size(arrays, config, path)
    return Weights(arrays, config, card)


def check_size(arrays: dict[str, np.ndarray], config: RVRTConfig, where: object) -> None:
    """Refuse a configuration of a far larger network than `arrays` can fill, before anyone builds it.

    Raises:
        WeightsError: the matrices of its bodies alone are more than all the arrays.
    """
    layers = [groups * depth for groups, depth in zip(config.groups, config.depths, strict=True)]
    each = {"attention": 4 + 2 * config.mlp_ratio, "convolution": 2 * 9}  # of a layer, times its width squared
    parts = zip((1, config.passes, 1), layers, config.bodies, config.widths, strict=True)
    least = sum(count * number * each[body] * width**2 for count, number, body, width in parts)
    if least > sum(array.size for array in arrays.values()):
        raise WeightsError(f"{where}: describes a far larger network than it holds weights for; damaged or foreign")


def check_names(arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]], where: object) -> None:
    """Make sure that `arrays` are exactly the parameters that a network expects.

    Args:
        expected: shape by name, from `rvrt_cli.model.parameter_shapes`.
        where: what the arrays come from, for the message.
    Raises:
        WeightsError: a name is missing, unexpected or has another shape; the message counts and lists them.
    """
    missing = [shown(name) for name in expected if name not in arrays]
    extra = [shown(name) for name in arrays if name not in expected]
    misshaped = [
        f"{shown(name)} {_shape(arrays[name].shape)} instead of {_shape(shape)}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != tuple(shape)
    ]
    kinds = (("missing", missing), ("unexpected", extra), ("of another shape", misshaped))
    found = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names]
    if found:
        raise WeightsError(f"{where}: weights of another network: {'; '.join(found)}; choose weights made for this one")


def _some(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    """`safe_open` whose errors, on the way in and inside, are ours."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; see `rvrt weights list` for what is there")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, MemoryError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"{path}: no weights file, or a damaged one ({shown(error)}); a published .pth needs `rvrt weights convert`"
        ) from None


def _parse(metadata: dict[str, str] | None, path: Path) -> tuple[RVRTConfig, dict]:
    try:
        about = json.loads((metadata or {})[_KEY])
        config, card = about["config"], about["card"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise WeightsError(
            f"{path}: a safetensors file that says nothing of an rvrt network; make one with `rvrt weights convert`"
        ) from None
    try:
        sizes = RVRTConfig.from_dict(config)
    except WeightsError as error:
        raise WeightsError(f"{path}: {shown(error, 300)}") from None
    _check_card(card, path)
    return sizes, card


def _check_card(card: object, path: Path) -> None:
    """Hold the facts that commands rely on to their types."""
    if not isinstance(card, dict) or not isinstance(card.get("name"), str) or not isinstance(card.get("trained"), bool):
        raise WeightsError(f"{path}: its model card must give a name and whether it is trained; damaged or foreign")
    if card.get("degradation") not in DEGRADATIONS:
        raise WeightsError(f"{path}: its model card must give a degradation out of {', '.join(DEGRADATIONS)}")
