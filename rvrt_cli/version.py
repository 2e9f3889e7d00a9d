# SPDX-License-Identifier: Apache-2.0
"""The version of this package, as it is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rvrt")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
