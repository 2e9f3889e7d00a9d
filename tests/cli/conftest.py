# SPDX-License-Identifier: Apache-2.0
"""Benchmarks that do not take the time of a benchmark: how fast something is is never asserted."""

from __future__ import annotations

import pytest
from helpers.commands import keep_networks
from helpers.shared_preflight import preflight_once  # noqa: F401  a fixture

from rvrt_cli.bench import matrix_product


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_networks(monkeypatch)
    monkeypatch.setattr(matrix_product, "_PRODUCT_EDGE", 256)
