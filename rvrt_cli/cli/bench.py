"""`rvrt bench`: quality, speed and memory."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rvrt_cli.bench.bench_options import DEGRADATIONS, PROTOCOLS, RANDOM, BenchOptions
from rvrt_cli.cli.interrupt import end
from rvrt_cli.errors import OptionError
from rvrt_cli.files import write_atomically
from rvrt_cli.options import DEVICES, PRECISIONS

if TYPE_CHECKING:
    from rvrt_cli.model import Network


@click.command(short_help="Measure quality, speed and memory.")
@click.option("--model", default=BenchOptions.model, show_default=True, help="Weights, see `rvrt weights list`.")
@click.option("--weights", metavar="FILE", help="A weights file in place of --model; 'random' for the speed of a network "
              "without weights.")  # fmt: skip
@click.option("--device", type=click.Choice(DEVICES), default=BenchOptions.device, show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default=BenchOptions.precision, show_default=True)
@click.option("--frames", type=int, default=BenchOptions.frames, show_default=True, help="Of one call.")
@click.option("--size", metavar="SIZE", default=BenchOptions.size, show_default=True,
              help="WIDTHxHEIGHT before upscaling [px].")  # fmt: skip
@click.option("--repeat", type=int, default=BenchOptions.repeat, show_default=True, help="Calls to time.")
@click.option(
    "--pipeline", metavar="CLIP", help="Time `rvrt upscale` on this video too, decoding and encoding included."
)
@click.option("--training", is_flag=True, help="Time a whole training step of the network too.")
@click.option("--kernels", is_flag=True, help="Time each C++ kernel against its definition too.")
@click.option("--sweep", is_flag=True, help="Other numbers of frames and frame sizes too: how do time and memory grow?")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png",
              help="Draw the sweep.")  # fmt: skip
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="Measure quality, not speed.")
@click.option("--data", metavar="DIR", help="The test set. [default for clips: the sample clip]")
@click.option("--degradation", type=click.Choice(DEGRADATIONS), help="Of the low resolution. [default: bi; udm10: bd]")
@click.option("--limit", type=int, metavar="N", help="A sample of N clips, spread over the set.")
@click.option("--save", metavar="DIR", help="Keep the enlarged frames as PNG.")
@click.option("--vmaf", is_flag=True, help="VMAF too, through ffmpeg.")
@click.option("--force", is_flag=True, help="Score weights on data that they were not trained for.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), metavar="FILE",
              help="Write the result there; - prints it alone.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def bench(json_file: Path | None, plot: Path | None, debug: bool, **values: Any) -> None:
    """Measure a network: speed and memory of one call, or with --protocol its quality.

    Speed: time of a call between device synchronizations, operations per second beside those of a matrix product, memory,
    and where the time goes. Quality: PSNR and SSIM as the field's protocols have them, bicubic beside them; the same
    command goes on after an interruption. The keys of --json are listed in rvrt_cli/bench/report.py.

    \b
    Example: rvrt bench
             rvrt bench --model rvrt --weights random --frames 6 --size 64x64
             rvrt bench --sweep --plot growth.png
             rvrt bench --protocol clips
             rvrt bench --protocol vid4 --data Vid4 --model rvrt-bi-vimeo --json vid4.json
    """
    options = BenchOptions(**{field.name: values[field.name] for field in fields(BenchOptions)})
    for name in ("frames", "size", "repeat") if options.protocol else ():
        if _given(name):
            raise OptionError(f"--{name}: belongs to speed; leave out --protocol")
    if plot is not None and not options.sweep:
        raise OptionError(f"--plot {plot}: draws what --sweep measures; add --sweep")
    from rvrt_cli.bench.report import check_writable, to_json

    for path in (json_file, plot):
        if path is not None and str(path) != "-":
            check_writable(path)
    quiet = str(json_file) == "-"
    result = (_speed if options.protocol is None else _quality)(options)
    if quiet:
        click.echo(to_json(result), nl=False)
    else:
        (_print_speed if options.protocol is None else _print_quality)(result)
    if json_file is not None and not quiet:
        write_atomically(json_file, to_json(result).encode(), shared=True)
        click.echo(f"wrote {json_file}")
    if plot is not None:
        from rvrt_cli.bench.sweep import draw_sweep

        write_atomically(plot, draw_sweep(result, options), shared=True)
        click.echo(f"wrote {plot}", err=quiet)


def _status(text: str) -> AbstractContextManager[Any]:
    """What is going on, on a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True, highlight=False).status(text)


def _given(name: str) -> bool:
    """Whether an option was written down, be it with its default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _check_model(options: BenchOptions, network: Network) -> None:
    """Refuse a --model that says otherwise than the file of --weights."""
    if options.weights in (None, RANDOM) or not _given("model") or options.model == network.card["name"]:
        return
    from rvrt_cli.model.config import PRESETS

    if network.config != PRESETS.get(options.model):
        raise OptionError(
            f"--model {options.model}: {options.weights} holds {network.card['name']}, of other sizes; leave out --model"
        )


def _speed(options: BenchOptions) -> dict[str, Any]:
    from rvrt_cli.bench.speed import measure_speed, open_network

    if options.pipeline:
        from rvrt_cli.bench.pipeline import check_pipeline

        check_pipeline(options)
    if options.kernels:
        from rvrt_cli.bench.kernel_speed import check_kernels

        check_kernels(options)
    network = open_network(options)
    _check_model(options, network)
    with _status("measuring one call"):
        result = measure_speed(options, network)
    if options.pipeline:
        from rvrt_cli.bench.pipeline import measure_pipeline

        with _status(f"upscaling {options.pipeline} twice"):
            result["pipeline"] = measure_pipeline(options)
    if options.training:
        from rvrt_cli.bench.training_speed import measure_training

        with _status("training"):
            result["training"] = measure_training(network, options.repeat)
    if options.kernels:
        from rvrt_cli.bench.kernel_speed import measure_kernels

        with _status("measuring each kernel and its definition"):
            result["kernels"] = measure_kernels(options.repeat)
    if options.sweep:
        from rvrt_cli.bench.sweep import measure_sweep

        def tell(point: dict[str, Any]) -> None:
            size = f"{point['frames']} frames of {point['width']}x{point['height']} px"
            click.echo(f"{size}: {point['seconds_per_call']:.3g} s, {point['peak_rss_mb']:.0f} MB", err=True)

        with _status("measuring other sizes, each in a process of its own"):
            grown = measure_sweep(options, tell)
        result |= {**grown, "notes": [*result["notes"], *grown["notes"]]}
    return result


def _quality(options: BenchOptions) -> dict[str, Any]:
    from rvrt_cli.bench.datasets import open_dataset
    from rvrt_cli.bench.quality import Standing, measure_quality
    from rvrt_cli.bench.speed import open_network

    assert options.protocol is not None
    dataset = open_dataset(options.protocol, Path(options.data) if options.data else None, options.degradation)
    if options.limit is not None:
        dataset = dataset.sample(options.limit)
    if options.vmaf:
        from rvrt_cli.bench.vmaf import check_vmaf

        check_vmaf()
    with _status("loading the network"):
        network = open_network(options)
    _check_model(options, network)
    from rich.console import Console
    from rich.progress import Progress

    standing = Standing(len(dataset.cases))
    try:
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(dataset.protocol, total=standing.total)
            tell = lambda: bar.update(task, completed=standing.done)  # noqa: E731
            return measure_quality(options, dataset, network, standing, tell)
    except KeyboardInterrupt:
        done = f"after {standing.done} of {standing.total} clips"
        click.echo(f"rvrt: interrupted {done}; the same command goes on from there", err=True)
        end()


def _print_speed(result: dict[str, Any]) -> None:
    table = _facts(result)
    table.add_row("job", f"one call, {result['frames']} frames of {result['width']}x{result['height']} px")
    spread = f"{_digits(result['seconds_per_call_min'])} to {_digits(result['seconds_per_call_max'])} s"
    table.add_row(
        "time",
        f"[bold]{_digits(result['seconds_per_call'])} s[/] a call ({spread}, {_count(result['repeat'], 'call')}), "
        f"{_digits(result['seconds_per_frame'])} s a frame, {_digits(result['frames_per_second'])} frames/s",
    )
    table.add_row("compiling", f"{_digits(result['compile_seconds'])} s more for the first call")
    table.add_row(
        "rate",
        f"{_digits(result['gflop_per_call'])} GFLOP a call, {_digits(result['gflops'])} GFLOP/s: "
        f"{result['efficiency']:.0%} of a matrix product's {_digits(result['gemm_gflops'])}",
    )
    device = "" if result["peak_device_mb"] is None else f", {result['peak_device_mb']:.0f} MB of the device's"
    table.add_row("peak memory", f"{result['peak_rss_mb']:.0f} MB{device}")
    total = sum(result["stages"].values())
    for index, (name, seconds) in enumerate(result["stages"].items()):
        label = "stages" if index == 0 else ""
        table.add_row(label, f"{name:<15} {_digits(seconds):>7} s  {seconds / total:4.0%}")
    if result["pipeline"]:
        _add_pipeline(table, result["pipeline"])
    if result["training"]:
        _add_training(table, result["training"])
    for index, row in enumerate(result["kernels"] or []):
        parts = (f"{name} {_digits(1e3 * row[name]['kernel_seconds'])} ms, {_digits(row[name]['factor'])} times as fast"
                 for name in ("forward", "gradient") if name in row)  # fmt: skip
        table.add_row("kernels" if index == 0 else "", f"{row['name']:<27} {'; '.join(parts)}")
    if result["growth"]:
        rows = (f"{name} to the power {value:.2f}" for name, value in result["growth"].items() if value is not None)
        table.add_row("time grows with", ", ".join(rows))
    if result["memory_growth"]:
        line = result["memory_growth"]
        table.add_row(
            "memory grows by", f"{line['bytes_per_pixel']:.0f} bytes per px and frame, above {line['base_mb']:.0f} MB "
            f"(no point off this line by more than {line['off_line']:.0%})",
        )  # fmt: skip
    for index, entry in enumerate(result["published"]):
        figure = (
            f"{entry['seconds_per_call']} s"
            if "seconds_per_call" in entry
            else f"{entry['seconds_per_frame']} s a frame"
        )
        memory = f", {entry['gb']} GB" if "gb" in entry else ""
        label = "published, not measured here" if index == 0 else ""
        table.add_row(label, f"{entry['network']} on {entry['on']}: {figure}{memory}", style="dim")
    _finish(table, result)


def _add_pipeline(table: Any, pipeline: dict[str, Any]) -> None:
    size = f"{pipeline['frames']} frames of {pipeline['width']}x{pipeline['height']} px"
    waiting = f"waiting for decoding {_digits(pipeline['waiting_for_source_seconds'])} s"
    waiting += f", for encoding {_digits(pipeline['waiting_for_target_seconds'])} s"
    table.add_row("whole upscale", f"{size} in {_digits(pipeline['seconds'])} s, "
                  f"{_digits(pipeline['frames_per_second'])} frames/s, {pipeline['peak_rss_mb']:.0f} MB")  # fmt: skip
    alone = f"{_digits(pipeline['network_alone_seconds'])} s with nothing beside it"
    table.add_row("", f"network {_digits(pipeline['network_seconds'])} s ({alone}), {waiting}")


def _add_training(table: Any, training: dict[str, Any]) -> None:
    job = f"{training['batch']} samples of {training['frames']} frames of {training['width']}x{training['height']} px"
    table.add_row("training step", f"{_digits(training['seconds_per_step'])} s, {job}; "
                  f"{training['steps_per_hour']:.0f} steps an hour")  # fmt: skip
    table.add_row("", f"{_digits(training['gflop_per_step'])} GFLOP, {_digits(training['gflops'])} GFLOP/s: "
                  f"{training['efficiency']:.0%} of a matrix product's {_digits(training['gemm_gflops'])}")  # fmt: skip


def _print_quality(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = _facts(result)
    table.add_row("data", f"{_plain(result['data'])}; {result['degradation']}, {result['low_resolution']}")
    counted = f"{_count(result['clips_scored'], 'clip')}, {_count(result['frames_scored'], 'frame')}"
    if result["sample"]:
        counted = f"[bold yellow]a sample: {counted} of {result['clips_total']} clips; not the protocol's figures[/]"
    table.add_row("scored", counted)
    _finish(table, result)
    channel = result["channel"]
    keys = [f"psnr_{channel}", f"ssim_{channel}", *(["vmaf"] if result["vmaf"] is not None else [])]
    scores = Table(header_style="bold")
    scores.add_column("clip")
    for name in ("", "bicubic "):
        for key in keys:
            scores.add_column(name + key.replace("_", " ").upper().replace("BICUBIC", "bicubic"), justify="right")
    shown = result["clips"] if len(result["clips"]) <= 40 else []
    for clip in shown:
        scores.add_row(_plain(clip["clip"]), *_scores(clip, keys))
    scores.add_section()
    label = "mean of the sample" if result["sample"] else "mean"
    shots = "clip" if result["shots_scored"] == result["clips_scored"] else "shot"
    scores.add_row(f"{label}, {_count(result['shots_scored'], shots)}", *_scores(result, keys), style="bold")
    for entry in result["published"]:
        blank = [""] * (2 * len(keys) - 2)
        ssim = "" if entry["ssim"] is None else f"{entry['ssim']:.4f}"
        scores.add_row(f"published: {entry['network']}", f"{entry['psnr']:.2f}", ssim, *blank, style="dim")
    _console().print(scores)


def _scores(values: dict[str, Any], keys: list[str]) -> list[str]:
    def shown(score: float | None, places: int) -> str:
        return "–" if score is None or math.isnan(score) else f"{score:.{places}f}"

    places = [4 if key.startswith("ssim") else 2 for key in keys]
    return [shown(values[p + key], n) for p in ("", "bicubic_") for key, n in zip(keys, places, strict=True)]


def _facts(result: dict[str, Any]) -> Any:
    from rich.table import Table

    machine = result["machine"]
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    weights = {"random": "[bold yellow]random weights[/]", "untrained": "untrained weights"}.get(
        result["weights"], "trained weights"
    )
    count = f"{result['parameters']:,}".replace(",", " ")
    table.add_row("network", f"{_plain(result['network'])}, {count} parameters; {weights}")
    simd = f", {machine['simd']}" if machine["simd"] else ""
    kernels = "C++ kernels" if machine["kernels"] else "MindSpore's operations"
    processor = f"{_plain(machine['name'])}"
    if machine["device"] != "cpu":
        processor += f" beside {_plain(machine['processor'])}"
    table.add_row("machine", f"{machine['device']}: {processor}, {machine['threads']} threads{simd}")
    table.add_row("software", f"MindSpore {machine['mindspore']}, {kernels}, {machine['precision']}")
    return table


def _finish(table: Any, result: dict[str, Any]) -> None:
    for index, note in enumerate(result["notes"]):
        table.add_row("note" if index == 0 else "", f"[yellow]{_plain(note)}[/]")
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def _plain(text: object) -> str:
    from rich.markup import escape

    return escape(str(text))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _digits(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
