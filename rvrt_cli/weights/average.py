# SPDX-License-Identifier: Apache-2.0
"""The average of several networks' weights: one network of the same structure, at no more time per frame.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
time", ICML 2022. It works for runs that began with the same trained weights, which lie in one valley of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.weights.catalog import file_sha256
from rvrt_cli.weights.weights_file import NetworkWeights, check_names, load_weights, refuse_existing, save_weights

# Entries of the model card that an average does not have
_OF_ONE_NETWORK = ("name", "scores", "steps", "hours", "source", "source_sha256")


def average_weights(
    sources: Sequence[Path],
    target: Path,
    shares: Sequence[float] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> NetworkWeights:
    """Write the weighted mean of weights files of one structure, in float32.

    The model card keeps what the cards of all sources say alike, and the degradation of the first; "averaged" lists the
    sources: name, SHA-256 and share of each.

    Args:
        shares: of the sources, positive; they are divided by their sum. None: all alike.
        name: in the model card; None: from the name of `target`.
    Raises:
        WeightsError: fewer than two sources, sources of different structures, bad shares, a source that cannot be read, or
            `target` exists and `overwrite` is off.
    """
    if len(sources) < 2:
        raise WeightsError("an average needs two or more weights, then the file to write")
    shares = [1.0] * len(sources) if shares is None else list(shares)
    if len(shares) != len(sources) or not all(0 < share < math.inf for share in shares):
        raise WeightsError(
            f"--shares {','.join(f'{s:g}' for s in shares)}: give {len(sources)} positive numbers, one a source"
        )
    refuse_existing(target, overwrite)
    loaded = [load_weights(source) for source in sources]
    first, largest = loaded[0], max(shares)
    total = math.fsum(share / largest for share in shares)
    parts = [share / largest / total for share in shares]  # the sum of the shares themselves might overflow
    shapes = {key: array.shape for key, array in first.arrays.items()}
    for source, weights in zip(sources[1:], loaded[1:], strict=True):
        if weights.config != first.config:
            difference = _differing_entry(first.config, weights.config)
            raise WeightsError(
                f"{source}: another structure than {sources[0]} ({difference}); average weights of one structure"
            )
        check_names(weights.arrays, shapes, source)
    arrays = {}
    for key in first.arrays:
        terms = [part * weights.arrays[key].astype(np.float64) for part, weights in zip(parts, loaded, strict=True)]
        arrays[key] = np.asarray(sum(terms), np.float32)
    card = {
        **_common_card([weights.card for weights in loaded]),
        "name": name or target.stem,
        "averaged": [
            {"name": weights.card["name"], "sha256": file_sha256(None, source), "share": round(part, 4)}
            for source, weights, part in zip(sources, loaded, parts, strict=True)
        ],
    }
    save_weights(target, arrays, first.config, card)
    return NetworkWeights(arrays, first.config, card)


def _common_card(cards: list[dict]) -> dict:
    """What all cards say alike, the degradation of the first, and whether all are of trained weights."""
    first, trained = cards[0], [card["trained"] for card in cards]
    return {
        key: value
        for key, value in first.items()
        if key not in _OF_ONE_NETWORK and all(card.get(key) == value for card in cards)
    } | {
        "trained": False if False in trained else None if None in trained else True,
        "degradation": first["degradation"],
    }


def _differing_entry(one: RVRTConfig, other: RVRTConfig) -> str:
    """The first entry in which two configurations differ, for a message."""
    name = next(entry.name for entry in fields(RVRTConfig) if getattr(one, entry.name) != getattr(other, entry.name))
    return f"{name} {getattr(other, name)} instead of {getattr(one, name)}"
