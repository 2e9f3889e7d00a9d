# SPDX-License-Identifier: Apache-2.0
"""Functions for a process of its own, which imports this module and nothing slow."""

from __future__ import annotations

import os

from rvrt_cli.errors import OptionError


def double(value: int) -> int:
    return 2 * value


def refuse() -> None:
    raise OptionError("no")


def die() -> None:
    os._exit(9)
