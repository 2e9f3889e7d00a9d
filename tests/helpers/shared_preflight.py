# SPDX-License-Identifier: Apache-2.0
"""Preflight once per configuration and process: hundreds of targets share a few dozen encoder settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write import target_check
from rvrt_cli.video.write.preflight import preflight
from rvrt_cli.video.write.target import Target


@pytest.fixture(scope="session", autouse=True)
def preflight_once() -> Iterator[None]:
    """Skip a preflight that has passed before; failures are repeated."""
    passed = set()

    def run_once(info: SourceInfo, target: Target) -> None:
        clock = (info.frame_rate, info.time_base, info.bit_depth)
        key = (clock, dataclasses.replace(target, path=target.path.suffix, routes=(), notes=()))
        if key not in passed:
            preflight(info, target)
            passed.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_check, "preflight", run_once)
        yield
