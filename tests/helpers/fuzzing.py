# SPDX-License-Identifier: Apache-2.0
"""Property tests with generated input: how many examples they run, and ways to damage a file.

A normal run uses the same few hundred examples each time. `RVRT_FUZZ=500 pytest -m fuzz` runs 500 times as many, different
ones each time; a failure that it finds becomes a test of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings, strategies as st

from rvrt_cli.errors import RvrtError

_MULTIPLIER = int(os.environ.get("RVRT_FUZZ", "1"))

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# Input that has broken JSON readers: nesting, long numbers, invalid characters
NASTY = [
    b"",
    b"[" * 100_000,
    b'{"format":' + b"9" * 9000 + b"}",
    b'{"format":1e999}',
    b"\xff\xfe{",
    b'"\\ud800"',
    b"null",
]


def searching(examples: int) -> Callable[[Callable], Callable]:
    """Decorate a property test: `examples` examples, or `RVRT_FUZZ` times as many. Marks the test as `fuzz`."""
    profile = settings(
        deadline=None,
        max_examples=examples * _MULTIPLIER,
        derandomize=_MULTIPLIER == 1,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    return lambda test: pytest.mark.fuzz(profile(test))


@st.composite
def damaged(draw: st.DrawFn, good: bytes, is_json: bool = False) -> bytes:
    """`good` truncated, with patched bytes, with one JSON value replaced, or replaced by something else altogether."""
    kind = draw(st.sampled_from(["other", "cut", "patched", "patched", *(["value"] * 3 if is_json else [])]))
    if kind == "other":
        return draw(st.binary(max_size=200) | st.sampled_from(NASTY))
    if kind == "cut":
        return good[: draw(st.integers(0, len(good) - 1))]
    if kind == "patched":
        data = bytearray(good)
        for _ in range(draw(st.integers(1, 4))):
            place, patch = draw(st.integers(0, len(data) - 1)), draw(st.binary(min_size=1, max_size=8))
            data[place : place if draw(st.booleans()) else place + len(patch)] = patch
        return bytes(data)
    values = json.loads(good)
    inner, key = _somewhere(draw, values)
    inner[key] = draw(PLAIN)
    return json.dumps(values).encode()


def _somewhere(draw: st.DrawFn, values: Any) -> tuple[Any, Any]:
    """A random container within `values`, and one of its keys or indices."""
    while True:
        key = draw(st.sampled_from(sorted(values) if isinstance(values, dict) else range(len(values))))
        if not (isinstance(values[key], dict | list) and values[key] and draw(st.booleans())):
            return values, key
        values = values[key]


@contextmanager
def refusals(kind: type[RvrtError]) -> Iterator[None]:
    """Allow an error of this type, provided that its message is a single line."""
    try:
        yield
    except kind as refused:
        if "\n" in str(refused):
            raise AssertionError(f"more than one line: {refused}") from None


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Check that the process has grown by at most `most` bytes, whatever was read."""
    process = psutil.Process()
    before = process.memory_info().rss
    yield
    growth = process.memory_info().rss - before
    assert growth <= most, f"the process has grown by {growth} bytes, more than {most}"
