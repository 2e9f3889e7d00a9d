# SPDX-License-Identifier: Apache-2.0
"""The weights that a new run starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rvrt_cli.errors import WeightsError
from rvrt_cli.train.train_options import TrainOptions


def starting_weights(options: TrainOptions) -> dict[str, np.ndarray]:
    """The weights by parameter name: random, or from --init and --spynet.

    Raises:
        WeightsError: a file does not match the network.
    """
    from rvrt_cli.model import initial_weights, parameter_shapes  # MindSpore
    from rvrt_cli.weights import check_names, load_weights

    weights = initial_weights(options.config, options.seed)
    if options.init:
        found, shapes = load_weights(Path(options.init)).arrays, parameter_shapes(options.config)
        fitting = {
            name: np.asarray(array, np.float32)  # files may hold float16
            for name, array in found.items()
            if array.shape == shapes.get(name)
        }
        if not fitting or not options.init_partial:
            check_names(found, shapes, options.init)
        weights |= fitting
    if options.spynet:
        flow = _read_spynet(Path(options.spynet))
        shapes = {name: array.shape for name, array in weights.items() if name.startswith("spynet.")}
        check_names(flow, shapes, options.spynet)
        weights = {**weights, **flow}
    return weights


def _read_spynet(path: Path) -> dict[str, np.ndarray]:
    """SpyNet's weights by our parameter names, from a weights file of RVRT or a .pth of SpyNet or RVRT."""
    from rvrt_cli.weights import load_weights, read_checkpoint

    arrays = load_weights(path).arrays if path.suffix == ".safetensors" else read_checkpoint(path).arrays
    flow = {}
    for name, array in arrays.items():
        start = name.find("basic_module.")
        if start in (0, len("spynet.")) and name.startswith(("basic_module.", "spynet.")):
            flow["spynet." + name[start:]] = np.asarray(array, np.float32)
    if not flow:
        raise WeightsError(f"{path}: holds no weights of SpyNet (basic_module.…); give a .pth of SpyNet or of RVRT")
    return flow
