"""Weights: what there is and where, our files, published checkpoints read without executing code, downloads."""

from rvrt_cli.weights.catalog import (
    LICENSE,
    PUBLISHED,
    cache_folder,
    embedded_folder,
    file_sha256,
    list_weights,
    resolve,
)
from rvrt_cli.weights.convert import convert
from rvrt_cli.weights.pull import find_published, pull
from rvrt_cli.weights.torch_checkpoint import read_checkpoint
from rvrt_cli.weights.weights_file import DEGRADATIONS, Weights, check_names, load_weights, read_about, save_weights

__all__ = [
    "DEGRADATIONS",
    "LICENSE",
    "PUBLISHED",
    "Weights",
    "cache_folder",
    "check_names",
    "convert",
    "embedded_folder",
    "file_sha256",
    "find_published",
    "list_weights",
    "load_weights",
    "pull",
    "read_about",
    "read_checkpoint",
    "resolve",
    "save_weights",
]
