# SPDX-License-Identifier: Apache-2.0
"""Options refuse values that cannot be used, and name the option."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from helpers.fuzzing import refusals, searching
from hypothesis import given, strategies as st

from rvrt_cli.errors import OptionError
from rvrt_cli.options import UpscaleOptions, parse_memory, parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4G", 4 * 2**30), ("512M", 512 * 2**20), ("1.5 GiB", 3 * 2**29), ("2g", 2**31), ("64kb", 65536)],
)
def test_memory_counts_in_powers_of_1024(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "4", "G", "-1G", "0G", "1e9", "4Q", "٤G", "4G4G"])
def test_memory_without_amount_or_unit_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--memory"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("1.5", 1.5), ("1:30", 90), ("00:01:00", 60), ("1:00:00.25", 3600.25), ("90:00", 5400)],
)
def test_times_are_seconds_or_read_like_a_clock(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:60", "1:60:00", "1::2", "nan", "1e3", "1:2:3:4", "٣", "10s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="HH:MM:SS"):
        parse_time(text)


def test_size_is_two_sides_or_the_shorter_one() -> None:
    assert parse_size("1920x1080") == (1920, 1080)
    assert parse_size("1080p") == 1080
    assert parse_size("540P") == 540
    assert parse_size("4K") == parse_size("2160p") == 2160
    for text in ("", "0x5", "1x1", "1920", "1920x", "999999x2", "axb", "1080P1"):
        with pytest.raises(OptionError, match="--size"):
            parse_size(text)


def test_output_size_keeps_the_aspect_and_an_even_width() -> None:
    assert UpscaleOptions().output_size(180, 101) == (720, 404)
    assert UpscaleOptions(scale=3).output_size(180, 101) == (540, 303)
    assert UpscaleOptions(size="1080p").output_size(720, 405) == (1920, 1080)
    assert UpscaleOptions(size="480p").output_size(1001, 563) == (854, 480)
    assert UpscaleOptions(size="1080p").output_size(1080, 1920) == (1080, 1920)  # a phone's portrait video
    assert UpscaleOptions(size="1080p").output_size(540, 961) == (1080, 1922)
    assert UpscaleOptions(size="4k").output_size(1920, 1080) == (3840, 2160)
    assert UpscaleOptions(size="300x200", scale=2).output_size(64, 64) == (300, 200)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_every_precision_is_an_option_whatever_the_machine_has(precision: str) -> None:
    assert UpscaleOptions(precision=precision).precision == precision


@pytest.mark.parametrize(
    "bad",
    [
        {"device": "tpu"},
        {"precision": "int8"},
        {"scale": 5},
        {"window": -1},
        {"lookahead": -2},
        {"tile": 16},
        {"overlap": -1},
        {"tile": 64, "overlap": 40},
        {"start": -1.0},
        {"duration": 0.0},
        {"crf": 64},
        {"quality": 0},
        {"quality": 101},
        {"quality": 50, "crf": 20},
        {"quality": 50, "lossless": True},
        {"crf": 20, "lossless": True},
        {"memory": "x"},
        {"size": "x"},
    ],
)
def test_impossible_values_are_refused_by_name(bad: dict) -> None:
    name = "--" + list(bad)[-1]
    with pytest.raises(OptionError, match=name):
        UpscaleOptions(**bad)


def test_encoder_options_are_names_and_values() -> None:
    options = UpscaleOptions(encoder_option=["b:v=5M", "x265-params=aq-mode=3:no-sao=1"])
    assert options.encoder_options == {"b": "5M", "x265-params": "aq-mode=3:no-sao=1"}
    assert options == UpscaleOptions(encoder_option=("b:v=5M", "x265-params=aq-mode=3:no-sao=1"))


@pytest.mark.parametrize("entry", ["", "g", "g=", "=3", "-g=3", "g 3=1", "g=1\n2", "b:a=3"])
def test_what_is_no_encoder_option_is_refused(entry: str) -> None:
    with pytest.raises(OptionError, match="write KEY=VALUE"):
        UpscaleOptions(encoder_option=(entry,))


def test_an_encoder_option_is_given_once() -> None:
    with pytest.raises(OptionError, match="g is given twice"):
        UpscaleOptions(encoder_option=("g=1", "g:v=2"))


WORDS = st.text(max_size=8) | st.sampled_from(
    ["1080p", "99999999999999999999G", "0.0000001K", "1920x1080", "host:70000"]
)
KINDS = {
    "str": WORDS,
    "str | None": st.none() | WORDS,
    "bool": st.booleans(),
    "tuple[str, ...]": st.lists(WORDS | st.sampled_from(["g=3", "b:v=2M"]), max_size=2).map(tuple),
    "int": st.integers(-2, 70) | st.integers(),
    "int | None": st.none() | st.integers(-2, 70) | st.integers(),
    "float": st.floats(),
    "float | None": st.none() | st.floats(),
}


@searching(100)
@given(st.fixed_dictionaries({}, optional={entry.name: KINDS[str(entry.type)] for entry in fields(UpscaleOptions)}))
def test_any_values_are_used_or_refused_in_one_line(values: dict) -> None:
    """Values of the right type, as the command line makes them."""
    with refusals(OptionError):
        options = UpscaleOptions(**values)
        width, height = options.output_size(180, 101)
        assert width >= 1
        assert height >= 1
        assert options.memory_bytes is None or options.memory_bytes > 0
        assert math.isfinite(options.start)
