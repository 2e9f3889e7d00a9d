# SPDX-License-Identifier: Apache-2.0
"""An exported network without its weights, and how they are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rvrt_cli.export import onnx_messages


class WeightForm(NamedTuple):
    """How a graph wants a weight: "float32" or "float16", and its shape, which may be another one than in weights files."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphTemplate:
    """An ONNX model that lacks the values of its weights.

    Attributes:
        weights: by name, what is missing.
        model: the rest, as in a file.
    """

    weights: dict[str, WeightForm]
    model: bytes

    def fill(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
        """The complete ONNX file.

        Args:
            arrays: the network's weights by name.
        """
        weights = b"".join(
            onnx_messages.constant(name, arrays[name].astype(form.dtype).reshape(form.shape))
            for name, form in self.weights.items()
        )
        return b"".join([self.model, onnx_messages.graph_part(weights), onnx_messages.metadata(metadata)])
