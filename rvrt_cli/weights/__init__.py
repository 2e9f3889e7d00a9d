# SPDX-License-Identifier: Apache-2.0
"""Weights: which ones exist and where, the file format, and the conversion of published checkpoints.

A published checkpoint passes `download` (fetched into the cache, resumable) → `torch_checkpoint` (its tensors as NumPy
arrays; its index is read by `safe_pickle`, which executes nothing) → `convert` (names and shapes checked, configuration
inferred) → `weights_file` (safetensors that carry the configuration and a model card). `pull` runs these steps in order.
`catalog` finds a weights file by name: embedded in the package, cached, or published. `average` makes one network of several.
"""

from rvrt_cli.weights.average import average_weights
from rvrt_cli.weights.catalog import (
    PUBLISHED,
    PUBLISHED_LICENSE,
    embedded_folder,
    file_sha256,
    find_published,
    find_weights,
    list_weights,
)
from rvrt_cli.weights.convert import convert_checkpoint
from rvrt_cli.weights.pull import pull_weights
from rvrt_cli.weights.torch_checkpoint import read_checkpoint
from rvrt_cli.weights.weights_file import check_names, load_weights, read_about, save_weights

__all__ = [
    "PUBLISHED",
    "PUBLISHED_LICENSE",
    "average_weights",
    "check_names",
    "convert_checkpoint",
    "embedded_folder",
    "file_sha256",
    "find_published",
    "find_weights",
    "list_weights",
    "load_weights",
    "pull_weights",
    "read_about",
    "read_checkpoint",
    "save_weights",
]
