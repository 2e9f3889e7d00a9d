# SPDX-License-Identifier: Apache-2.0
"""Targets are checked without repeating the same preflight."""

from __future__ import annotations

from helpers.shared_preflight import preflight_once  # noqa: F401  a fixture
