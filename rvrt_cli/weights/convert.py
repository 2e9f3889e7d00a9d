"""From a published PyTorch checkpoint to a weights file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.weights.catalog import published
from rvrt_cli.weights.safe_pickle import shown
from rvrt_cli.weights.torch_checkpoint import read_checkpoint
from rvrt_cli.weights.weights_file import Weights, check_names, check_size, save_weights

_SPYNET_CONSTANTS = {"spynet.mean": (0.485, 0.456, 0.406), "spynet.std": (0.229, 0.224, 0.225)}  # ImageNet's, RGB
_INDEX = ".relative_position_index"
_PARTS = ("feat_extract", "backbone.backward_1", "reconstruction")  # whose sizes the configuration gives


def convert(source: Path, target: Path, card: dict | None = None, overwrite: bool = False) -> Weights:
    """Convert a PyTorch checkpoint of an x4 RVRT into a weights file.

    Args:
        card: facts that replace those known from the file's name (see `save_weights`).
    Raises:
        WeightsError: `source` is no such checkpoint, or `target` exists and `overwrite` is off.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise WeightsError(f"{target}: is the source itself; give the output another name")
    if target.exists() and not overwrite:
        raise WeightsError(f"{target}: exists already; give --overwrite to replace it")
    weights = read_published(source, card)
    save_weights(target, weights.arrays, weights.config, weights.card)
    return weights


def read_published(source: Path, card: dict | None = None) -> Weights:
    """The weights in a PyTorch checkpoint, float32, every name and shape checked. Arguments and errors as `convert`."""
    from rvrt_cli.model import parameter_shapes  # MindSpore

    checkpoint = read_checkpoint(source)
    arrays = {name: array for name, array in checkpoint.arrays.items() if not _constant(name)}
    config = _config_of(arrays, source)
    check_size(arrays, config, source)
    check_names(arrays, parameter_shapes(config), source)
    for name in checkpoint.arrays.keys() - arrays.keys():
        _check_constant(name, checkpoint.arrays[name], config, source)
    weights = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
    for name, array in weights.items():
        if checkpoint.arrays[name].dtype.kind != "f" or not np.isfinite(array).all():
            raise WeightsError(f"{source}: {shown(name)} holds what is no finite number; damaged or badly trained")
    entry = published(source.name)
    known = entry.card(source.name, checkpoint.sha256) if entry else _unknown_card(source, checkpoint.sha256)
    return Weights(weights, config, known | (card or {}))


def _unknown_card(source: Path, sha256: str) -> dict:
    return {
        "name": source.stem,
        "trained": True,
        "degradation": "none",
        "license": "unknown: whatever the source's publisher says",
        "source": source.name,
        "source_sha256": sha256,
    }


def _constant(name: str) -> bool:
    return name in _SPYNET_CONSTANTS or name.endswith(_INDEX)


def _config_of(arrays: dict[str, np.ndarray], source: Path) -> RVRTConfig:
    """The configuration whose network the names and shapes describe; whether it does is for `check_names` to say."""
    if any(name.startswith(("feat_extract.1.", "feat_extract.6.")) for name in arrays):
        raise WeightsError(
            f"{source}: an RVRT for deblurring or denoising (x1, as the published 004 to 006), which does not enlarge; "
            "use one of the x4 checkpoints, 001 to 003"
        )
    if not all(any(name.startswith(f"{part}.main.") for name in arrays) for part in _PARTS):
        names = ", ".join(shown(name) for name in list(arrays)[:4])
        raise WeightsError(f"{source}: no RVRT network; it holds {names}. Give a published x4 checkpoint, 001 to 003")
    base = PRESETS["rvrt" if any(name.startswith("spynet.") for name in arrays) else "rvrt-light"]
    group, layer = "{}.main.5.", "{}.main.5.0.residual_group.blocks."
    table = layer + "0.attn.relative_position_bias_table"  # (pairs of pixels, heads)
    sizes = {
        "widths": _lengths(arrays, "backbone.backward_1.main.1.weight", 0, base.widths),  # the same in every part
        "groups": _counts(arrays, group, base.groups),
        "depths": _counts(arrays, layer, base.depths),
        "heads": _lengths(arrays, table, 1, base.heads),
        "upsampler_width": _lengths(arrays, "conv_before_upsampler.0.weight", 0, (base.upsampler_width,))[0],
    }
    try:
        return RVRTConfig.from_dict(base.to_dict() | sizes)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None


def _lengths(arrays: dict[str, np.ndarray], name: str, axis: int, preset: tuple[int, ...]) -> tuple[int, ...]:
    """For each part, the length of this axis; the preset's where there is no such array (it will be listed missing)."""
    found = (arrays.get(name.format(part)) for part in _PARTS)
    return tuple(
        known if array is None or array.ndim <= axis else array.shape[axis]
        for array, known in zip(found, preset, strict=False)
    )


def _counts(arrays: dict[str, np.ndarray], before: str, preset: tuple[int, ...]) -> tuple[int, ...]:
    """For each part, how many different numbers follow `before` in the names."""
    starts = (before.format(part) for part in _PARTS)
    numbers = ({name[len(start) :].split(".")[0] for name in arrays if name.startswith(start)} for start in starts)
    return tuple(len(found) or known for found, known in zip(numbers, preset, strict=True))


def _check_constant(name: str, array: np.ndarray, config: RVRTConfig, source: Path) -> None:
    """A constant is not kept, the network has its own; so the two must agree."""
    from rvrt_cli.model.blocks import relative_position_index  # MindSpore

    if name in _SPYNET_CONSTANTS:
        right = np.reshape(_SPYNET_CONSTANTS[name], (1, 3, 1, 1))
        same = array.shape == right.shape and np.allclose(array, right, rtol=0, atol=1e-3)
    else:
        frames = config.clip_size if name.startswith("backbone.") else 1
        wanted = relative_position_index((frames, config.window, config.window))
        same = np.array_equal(array, wanted)
    if not same:
        raise WeightsError(f"{source}: {shown(name)} is not the network's constant; damaged, or of another network")
