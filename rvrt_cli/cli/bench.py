# SPDX-License-Identifier: Apache-2.0
"""`rvrt bench`: measure quality, speed and memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rvrt_cli.bench.bench_options import DEFAULT_SIGMA, RANDOM, RESTORATION_PROTOCOLS, BenchOptions
from rvrt_cli.cli.bench_tables import print_quality, print_speed
from rvrt_cli.cli.display import open_display
from rvrt_cli.cli.generated_options import dataclass_options, options_of
from rvrt_cli.cli.interrupt import exit_after_interrupt
from rvrt_cli.errors import OptionError
from rvrt_cli.files import write_atomically

if TYPE_CHECKING:
    from rvrt_cli.model import Network


@click.command("bench", short_help="Measure quality, speed and memory.")
@dataclass_options(BenchOptions)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Plot of the --sweep, time and memory over frames and frame size.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="JSON file for the result; - prints only the JSON, on standard output.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def bench_command(json_file: Path | None, plot: Path | None, debug: bool, **values: Any) -> None:
    """Measure a network: speed and memory of one call, or with --protocol its quality.

    Speed: time of a call between device synchronizations, operations per second beside those of a matrix product (on a CPU
    the best of NumPy's and MindSpore's), memory, and time by stage. The environment variable RVRT_ISA (portable, avx2 or
    avx512) limits the instruction set of the kernels and of that product. Quality: PSNR and SSIM by the published protocols, beside those of bicubic; an interrupted command
    resumes when it is run again. The keys of --json are documented in rvrt_cli/bench/report.py.

    \b
    Examples:
      rvrt bench
      rvrt bench --model rvrt --weights random --frames 6 --size 64x64
      rvrt bench --sweep --plot growth.png
      rvrt bench --runtime onnx
      rvrt bench --protocol clips
      rvrt bench --protocol vid4 --data Vid4 --model rvrt-bi-vimeo --json vid4.json
      rvrt bench --protocol davis --data DAVIS-test --model rvrt-denoise-davis --sigma 30
    """
    options = options_of(BenchOptions, values)
    for name in ("frames", "size", "repeat") if options.protocol else ():
        if _given(name):
            raise OptionError(f"--{name}: measures speed; omit it, or --protocol")
    if plot is not None and not options.sweep:
        raise OptionError(f"--plot {plot}: plots what --sweep measures; add --sweep")
    from rvrt_cli.bench.report import check_writable, to_json

    for path in (json_file, plot):
        if path is not None and str(path) != "-":
            check_writable(path)
    json_only = str(json_file) == "-"
    result = (_measure_speed if options.protocol is None else _measure_quality)(options)
    if json_only:
        click.echo(to_json(result), nl=False)
    else:
        (print_speed if options.protocol is None else print_quality)(result)
    if json_file is not None and not json_only:
        write_atomically(json_file, to_json(result).encode(), shared=True)
        click.echo(f"wrote {json_file}")
    if plot is not None:
        from rvrt_cli.bench.sweep_plot import draw_sweep

        write_atomically(plot, draw_sweep(result, options), shared=True)
        click.echo(f"wrote {plot}", err=json_only)


def _working(text: str) -> AbstractContextManager[Any]:
    """While inside, a terminal shows what is being measured."""
    return open_display("", lines=False, transient=True).working(text)


def _given(name: str) -> bool:
    """Whether an option is on the command line, even with its default value."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _check_model(options: BenchOptions, network: Network) -> None:
    """Refuse a --model that contradicts the file of --weights."""
    if options.weights in (None, RANDOM) or not _given("model") or options.model == network.card["name"]:
        return
    from rvrt_cli.model.config import PRESETS

    if network.config != PRESETS.get(options.model):
        raise OptionError(
            f"--model {options.model}: {options.weights} holds {network.card['name']}, of other sizes; omit --model"
        )


def _measure_speed(options: BenchOptions) -> dict[str, Any]:
    from rvrt_cli.bench.speed import measure_speed, open_network

    if options.pipeline:
        from rvrt_cli.bench.pipeline import check_pipeline

        check_pipeline(options)
    if options.kernels:
        from rvrt_cli.bench.kernel_speed import check_kernels

        check_kernels(options)
    network = open_network(options)
    _check_model(options, network)
    with _working("measuring one call"):
        result = measure_speed(options, network)
    if options.runtime == "onnx":
        from rvrt_cli.bench.onnx_speed import measure_onnx

        with _working("measuring ONNX Runtime"):
            result["onnx"] = measure_onnx(options, network)
    if options.pipeline:
        from rvrt_cli.bench.pipeline import measure_pipeline

        with _working(f"upscaling {options.pipeline} twice"):
            result["pipeline"] = measure_pipeline(options)
    if options.training:
        from rvrt_cli.bench.training_speed import measure_training

        with _working("measuring training steps"):
            result["training"] = measure_training(options, result["gemm_gflops"])
    if options.kernels:
        from rvrt_cli.bench.kernel_speed import measure_kernels

        with _working("measuring each kernel and its definition"):
            result["kernels"] = measure_kernels(options.repeat, result["gemm_gflops"])
    if options.sweep:
        from rvrt_cli.bench.sweep import measure_sweep

        with _working("measuring other sizes, each in a process of its own"):
            growth = measure_sweep(options, _show_point)
        result |= {**growth, "notes": [*result["notes"], *growth["notes"]]}
    return result


def _show_point(point: dict[str, Any]) -> None:
    size = f"{point['frames']} frames of {point['width']}x{point['height']} px"
    click.echo(f"{size}: {point['seconds_per_call']:.3g} s, {point['peak_rss_mb']:.0f} MB", err=True)


def _measure_quality(options: BenchOptions) -> dict[str, Any]:
    from rvrt_cli.bench.datasets import open_dataset
    from rvrt_cli.bench.quality import QualityProgress, measure_quality
    from rvrt_cli.bench.restoration_sets import open_restoration_set
    from rvrt_cli.bench.speed import open_network

    assert options.protocol is not None
    folder = Path(options.data) if options.data else None
    if options.protocol in RESTORATION_PROTOCOLS and folder is not None:
        dataset = open_restoration_set(options.protocol, folder, options.sigma or DEFAULT_SIGMA)
    else:
        dataset = open_dataset(options.protocol, folder, options.degradation)
    if options.limit is not None:
        dataset = dataset.sample(options.limit)
    if options.vmaf:
        from rvrt_cli.bench.vmaf import check_vmaf

        check_vmaf()
    with _working("loading the network"):
        network = open_network(options)
    _check_model(options, network)
    progress = QualityProgress(len(dataset.entries))
    display = open_display("clips", lines=False, transient=True)
    try:
        with display:
            display.begin(progress.total, dataset.protocol)
            show = lambda: display.update(progress.done, progress.total, dataset.protocol)  # noqa: E731
            return measure_quality(options, dataset, network, progress, show)
    except KeyboardInterrupt:
        done = f"after {progress.done} of {progress.total} clips"
        click.echo(f"rvrt: interrupted {done}; run the same command to resume", err=True)
        exit_after_interrupt()
