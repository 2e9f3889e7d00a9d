# SPDX-License-Identifier: Apache-2.0
"""Time of a call by stage: the stages of the network are wrapped from outside while a call runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rvrt_cli.bench.machine import synchronize

if TYPE_CHECKING:
    from rvrt_cli.model import Network


@contextmanager
def stage_seconds(network: Network) -> Iterator[dict[str, float]]:
    """Collect the seconds that calls of `network` spend in each stage, while inside.

    Each stage is waited for, which a call does not do by itself: the sum may exceed the time of an undisturbed call.
    """
    cell = network.cell
    seconds: dict[str, float] = {"flow": 0.0} if network.config.flow else {}
    if network.config.fused_neighbors:
        seconds["neighbors"] = 0.0
    seconds["features"] = 0.0
    seconds |= dict.fromkeys(network.config.branches, 0.0)
    seconds |= {"alignment": 0.0, "reconstruction": 0.0}
    places: list[tuple[Any, str, str]] = [(cell.extract, "construct", "features")]
    if network.config.flow:
        places += [(cell, name, "flow") for name in ("_estimate_flows", "_compose_guide")]
    if network.config.fused_neighbors:
        places.append((cell, "_fuse_neighbors", "neighbors"))
    places += [(align, "construct", "alignment") for align in cell.align]
    branches = zip(cell.branches, network.config.branches, strict=True)
    places += [(branch, "construct", name) for branch, name in branches]
    places.append((cell.reconstruct, "construct", "reconstruction"))

    def timed(function: Callable, name: str) -> Callable:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            synchronize(network.device, result)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    for part, method, name in places:  # bypasses the cell's own __setattr__, which registers what it is given
        part.__dict__[method] = timed(getattr(part, method), name)
    try:
        yield seconds
    finally:
        for part, method, _ in places:
            del part.__dict__[method]
