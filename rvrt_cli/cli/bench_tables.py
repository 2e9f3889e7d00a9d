# SPDX-License-Identifier: Apache-2.0
"""The tables in which `rvrt bench` prints its result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rvrt_cli.cli.formatting import facts_table, plural, print_table, safe_markup, thousands, three_digits

if TYPE_CHECKING:
    from rich.table import Table

_MAX_LISTED_CLIPS = 40  # listed one by one; of more, only the mean is printed


def print_speed(result: dict[str, Any]) -> None:
    """Print a report of kind "speed"."""
    table = _network_table(result)
    table.add_row("job", f"one call, {result['frames']} frames of {result['width']}x{result['height']} px")
    _add_call(table, result)
    if result["onnx"]:
        table.add_row("in ONNX Runtime", onnx_line(result))
    _add_rows(table, "stages", _stage_lines(result["stages"]))
    if result["pipeline"]:
        _add_rows(table, "whole upscale", _pipeline_lines(result["pipeline"]))
    if result["training"]:
        _add_rows(table, "training step", _training_lines(result["training"]))
    if result["growth"]:
        rows = (f"{name} to the power {value:.2f}" for name, value in result["growth"].items() if value is not None)
        table.add_row("time grows with", ", ".join(rows))
    if result["memory_growth"]:
        line = result["memory_growth"]
        table.add_row(
            "memory grows by",
            f"{line['bytes_per_pixel']:.0f} bytes per px and frame, from {line['base_mb']:.0f} MB "
            f"(no point is off this line by more than {line['off_line']:.0%})",
        )
    published = [_published_speed_line(entry) for entry in result["published"]]
    _add_rows(table, "published, not measured here", published, style="dim")
    _add_notes(table, result)
    print_table(table)
    if result["kernels"]:
        print_table(_kernels_table(result))


def onnx_line(result: dict[str, Any]) -> str:
    """The entry `onnx` of a report of kind "speed", in a line."""
    onnx = result["onnx"]
    ratio = onnx["seconds_per_call"] / result["seconds_per_call"]
    faster = f"MindSpore is {ratio:.2g} times as fast" if ratio >= 1 else f"{1 / ratio:.2g} times as fast as MindSpore"
    return (
        f"{onnx['seconds_per_call']:.3g} s on {onnx['provider']} ({onnx['version']}): {faster}; "
        f"{onnx['peak_rss_mb']:.0f} MB; {onnx['psnr_to_mindspore']:.0f} dB between the two outputs"
    )


_PLACES = {"ssim": 4, "flicker": 3}  # after the point
_SCORE_NAMES = {"psnr_cb": "PSNR Cb", "psnr_cr": "PSNR Cr", "flicker": "flicker"}


def print_quality(result: dict[str, Any]) -> None:
    """Print a report of kind "quality"."""
    table = _network_table(result)
    table.add_row("data", f"{safe_markup(result['data'])}; {result['degradation']}, {result['low_resolution']}")
    scored = f"{plural(result['clips_scored'], 'clip')}, {plural(result['frames_scored'], 'frame')}"
    if result["sample"]:
        scored = f"[bold yellow]a sample: {scored} of {result['clips_total']} clips; not the protocol's figures[/]"
    table.add_row("scored", scored)
    _add_notes(table, result)
    print_table(table)
    channel = result["channel"]
    print_table(
        _scores_table(result, [f"psnr_{channel}", f"ssim_{channel}", *(["vmaf"] if result["vmaf"] is not None else [])])
    )
    if result["psnr_cb"] is not None:
        print_table(
            _scores_table(result, ["psnr_cb", "psnr_cr", *(["flicker"] if result["flicker"] is not None else [])])
        )


def _network_table(result: dict[str, Any]) -> Table:
    machine = result["machine"]
    weights = {"random": "[bold yellow]random weights[/]", "unknown": "weights of unknown training"}.get(
        result["weights"], f"{result['weights']} weights"
    )
    simd = f", {machine['simd']}" if machine["simd"] else ""
    own = "C++ kernels" if machine["device"] == "cpu" else "CUDA kernels"
    kernels = own if machine["kernels"] else "MindSpore's operations"
    kernels += f" ({machine['kernels_isa']})" if machine["kernels_isa"] else ""
    processor = safe_markup(machine["name"])
    if machine["device"] != "cpu":
        processor += f" on a host with {safe_markup(machine['processor'])}"
    table = facts_table()
    table.add_row(
        "network", f"{safe_markup(result['network'])}, {thousands(result['parameters'])} parameters; {weights}"
    )
    table.add_row("machine", f"{machine['device']}: {processor}, {machine['threads']} threads{simd}")
    table.add_row("software", f"MindSpore {machine['mindspore']}, {kernels}, {machine['precision']}")
    return table


def _add_call(table: Table, result: dict[str, Any]) -> None:
    spread = f"{three_digits(result['seconds_per_call_min'])} to {three_digits(result['seconds_per_call_max'])} s"
    table.add_row(
        "time",
        f"[bold]{three_digits(result['seconds_per_call'])} s[/] per call ({spread}, {plural(result['repeat'], 'call')}), "
        f"{three_digits(result['seconds_per_frame'])} s per frame, {three_digits(result['frames_per_second'])} frames/s",
    )
    table.add_row("compilation", f"{three_digits(result['compile_seconds'])} s more for the first call")
    table.add_row("rate", f"{three_digits(result['gflop_per_call'])} GFLOP per call, {_rate_text(result)}")
    table.add_row("matrix product", _product_text(result))
    device = "" if result["peak_device_mb"] is None else f", {result['peak_device_mb']:.0f} MB on the device"
    table.add_row("peak memory", f"{result['peak_rss_mb']:.0f} MB{device}")


def _rate_text(measured: dict[str, Any]) -> str:
    return (
        f"{three_digits(measured['gflops'])} GFLOP/s: {measured['efficiency']:.0%} of a matrix product's "
        f"{three_digits(measured['gemm_gflops'])}"
    )


def _product_text(result: dict[str, Any]) -> str:
    text = f"2048×2048×2048, MindSpore {three_digits(result['gemm_mindspore_gflops'])} GFLOP/s"
    if result["gemm_numpy"] is None:
        return text
    blas = result["gemm_numpy"]
    facts = [plural(blas["threads"], "thread")]
    if blas["held_to"]:
        facts.append(f"held to {blas['held_to']}")
    if blas["core"]:
        facts.append(f"OpenBLAS for {safe_markup(blas['core'])}")
    return f"{text}, NumPy {three_digits(result['gemm_numpy_gflops'])} GFLOP/s ({', '.join(facts)})"


def _stage_lines(stages: dict[str, float]) -> list[str]:
    total = sum(stages.values())
    return [f"{name:<15} {three_digits(seconds):>7} s  {seconds / total:4.0%}" for name, seconds in stages.items()]


def _pipeline_lines(pipeline: dict[str, Any]) -> list[str]:
    size = f"{pipeline['frames']} frames of {pipeline['width']}x{pipeline['height']} px"
    waiting = f"waiting for decoding {three_digits(pipeline['waiting_for_source_seconds'])} s"
    waiting += f", for encoding {three_digits(pipeline['waiting_for_target_seconds'])} s"
    alone = f"{three_digits(pipeline['network_alone_seconds'])} s without decoding and encoding"
    return [
        f"{size} in {three_digits(pipeline['seconds'])} s, {three_digits(pipeline['frames_per_second'])} frames/s, "
        f"{pipeline['peak_rss_mb']:.0f} MB",
        f"network {three_digits(pipeline['network_seconds'])} s ({alone}), {waiting}",
    ]


def _training_lines(training: dict[str, Any]) -> list[str]:
    job = f"{training['batch']} samples of {training['frames']} frames of {training['width']}x{training['height']} px"
    return [
        f"{three_digits(training['seconds_per_step'])} s, {job}; {training['steps_per_hour']:.0f} steps per hour",
        f"{three_digits(training['gflop_per_step'])} GFLOP, {_rate_text(training)}",
    ]


def _kernels_table(result: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("kernel")
    table.add_column("input")
    for prefix in ("", "with gradient "):
        for name in ("ms", "rate", "of the product", "times its definition"):
            table.add_column(prefix + name, justify="right")
    for row in result["kernels"]:
        cells = [cell for part in ("forward", "with_gradient") for cell in _kernel_cells(row, part)]
        table.add_row(row["name"], "×".join(map(str, row["shape"])), *cells)
    return table


def _kernel_cells(row: dict[str, Any], part: str) -> tuple[str, ...]:
    """Time, rate, share of the matrix product's rate, and how many times as fast as the definition."""
    if part not in row:
        return "", "", "", ""
    figures = row[part]
    rate = share = ""
    if figures["gflops"] is not None:
        rate, share = f"{three_digits(figures['gflops'])} GFLOP/s", f"{figures['efficiency']:.0%}"
    elif figures["gb_per_second"] is not None:
        rate = f"{three_digits(figures['gb_per_second'])} GB/s"
    return three_digits(1e3 * figures["seconds"]), rate, share, three_digits(row["part"][part]["factor"])


def _published_speed_line(entry: dict[str, Any]) -> str:
    per_call = "seconds_per_call" in entry
    figure = f"{entry['seconds_per_call']} s" if per_call else f"{entry['seconds_per_frame']} s per frame"
    memory = f", {entry['gb']} GB" if "gb" in entry else ""
    return f"{entry['network']} on {entry['on']}: {figure}{memory}"


def _add_notes(table: Table, result: dict[str, Any]) -> None:
    _add_rows(table, "note", [f"[yellow]{safe_markup(note)}[/]" for note in result["notes"]])


def _add_rows(table: Table, name: str, lines: list[str], style: str | None = None) -> None:
    """Several lines under one name."""
    for index, line in enumerate(lines):
        table.add_row(name if index == 0 else "", line, style=style)


def _scores_table(result: dict[str, Any], keys: list[str]) -> Table:
    """The network's and bicubic's `keys`, per clip and their mean; published figures where they are of these keys."""
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("clip")
    for prefix in ("", f"{result['baseline']} "):
        for key in keys:
            table.add_column(prefix + _SCORE_NAMES.get(key, key.replace("_", " ").upper()), justify="right")
    for clip in result["clips"] if len(result["clips"]) <= _MAX_LISTED_CLIPS else []:
        table.add_row(safe_markup(clip["clip"]), *_scores(clip, keys, result["baseline"]))
    table.add_section()
    for degradation, scores in (result["degradations"] or {}).items():
        table.add_row(f"mean, {degradation}", *_scores(scores, keys, result["baseline"]))
    mean = "mean of the sample" if result["sample"] else "mean"
    noun = "clip" if result["shots_scored"] == result["clips_scored"] or result["degradations"] else "shot"
    means = _scores(result, keys, result["baseline"])
    table.add_row(f"{mean}, {plural(result['shots_scored'], noun)}", *means, style="bold")
    for entry in result["published"] if f"psnr_{result['channel']}" in keys else []:
        blank = [""] * (2 * len(keys) - 2)
        ssim = "" if entry["ssim"] is None else f"{entry['ssim']:.4f}"
        table.add_row(f"published: {entry['network']}", f"{entry['psnr']:.2f}", ssim, *blank, style="dim")
    return table


def _scores(values: dict[str, Any], keys: list[str], baseline: str) -> list[str]:
    def shown(score: float | None, places: int) -> str:
        return "–" if score is None or math.isnan(score) else f"{score:.{places}f}"

    places = [_PLACES.get(key.split("_")[0], 2) for key in keys]
    return [shown(values[p + key], n) for p in ("", f"{baseline}_") for key, n in zip(keys, places, strict=True)]
