"""Tests with made-up input: how long they search, and ways to damage a file.

A test run looks at the same few hundred examples each time; `RVRT_FUZZ=500 pytest -k damaged` looks at 500 times as many,
others each time, and what it finds becomes a test of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from hypothesis import HealthCheck, settings, strategies as st

from rvrt_cli.errors import RvrtError

TIMES = int(os.environ.get("RVRT_FUZZ", "1"))

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# What has broken readers of JSON: depth, digits, letters that are none
NASTY = [
    b"",
    b"[" * 100_000,
    b'{"format":' + b"9" * 9000 + b"}",
    b'{"format":1e999}',
    b"\xff\xfe{",
    b'"\\ud800"',
    b"null",
]


def searching(examples: int) -> settings:
    """Settings of a test that looks at `examples` examples, or at `RVRT_FUZZ` times as many."""
    return settings(
        deadline=None,
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@st.composite
def damaged(draw: st.DrawFn, good: bytes, is_json: bool = False) -> bytes:
    """`good` cut, with other bytes in places, with another value in one place of its JSON, or something else instead."""
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
    """A container within `values`, and one of its keys or indices."""
    while True:
        key = draw(st.sampled_from(sorted(values) if isinstance(values, dict) else range(len(values))))
        if not (isinstance(values[key], dict | list) and values[key] and draw(st.booleans())):
            return values, key
        values = values[key]


@contextmanager
def refusals(kind: type[RvrtError]) -> Iterator[None]:
    """Inside, an error of this kind may end the work, if it is one line."""
    try:
        yield
    except kind as refused:
        if "\n" in str(refused):
            raise AssertionError(f"more than a line: {refused}") from None


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Inside, this process may grow by `most` bytes at the end, whatever it has read."""
    process = psutil.Process()
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before <= most
