# SPDX-License-Identifier: Apache-2.0
"""Put trained weights, their training state and their pictures into this repository, as its embedded network.

    python weights/training/release.py fitted.safetensors run --val val --hours 28.1 --steps 152000 --clean 2.17 --h264 1.5

`run` is the folder of the last run; the state of its last step is kept, and every 300th line of its log. `val` holds the
validation clips, the same places of which the pictures always show; without it they stay as they are. The table of
releases, rvrt-tiny/releases.csv, has a line for each --hours. The model card's text is written by hand.
"""

import argparse
import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rvrt_cli.data.resize import imresize
from rvrt_cli.data.validation import bicubic_upscale, shots
from rvrt_cli.device import Device, use_device
from rvrt_cli.files import write_atomically
from rvrt_cli.frame import to_float, to_pixels
from rvrt_cli.model import Network
from rvrt_cli.plot import Axes, canvas, draw_diagram, png
from rvrt_cli.train.training_curve import draw_curve
from rvrt_cli.train.training_log import LOG_FILE, read_log
from rvrt_cli.train.training_state import list_checkpoints
from rvrt_cli.weights import load_weights, save_weights

ROOT = Path(__file__).resolve().parents[2]
KEPT_LINES = 300  # of the log, every such one, beside all validations
CROPS = {
    "kivy_cityCC0-1": (58, 180, 170),
    "kivy_cityCC0-2": (37, 330, 70),
    "sports2d_demo": (115, 330, 240),
}  # frame, x, y
CROP_SIZE = 160, 112  # px
FRONT_SHOT, FRONT_CROP, FRONT_SIZE, FRONT_SCALE = "kivy_cityCC0-1", (58, 160, 186), (138, 112), 3
AROUND = 14  # frames on either side of one that is shown, which the network sees
RELEASES = ("hours", "clean", "h264")


def embed(target: Path, options: argparse.Namespace) -> None:
    """Replace the weights file `target` and its card, and beside it the state from which the run goes on."""
    run, folder = options.run, target.with_suffix("")
    loaded, before = load_weights(options.weights), load_weights(target)
    scores = {"gain": {"clean": options.clean, "h264": options.h264}}
    card = before.card | {"hours": options.hours, "steps": options.steps, "scores": scores}
    save_weights(target, loaded.arrays, loaded.config, card)
    last = list_checkpoints(run)[-1]
    for old in (folder / "checkpoints").iterdir():
        old.unlink()
    shutil.copy(last, folder / "checkpoints")
    recipe = (run / "recipe.toml").read_text("utf-8")
    recipe = re.sub(r'^(data|output) = ".*"$', r'\1 = ""', recipe, flags=re.MULTILINE)
    recipe = re.sub(r"^(init|val) = .*\n", "", recipe, flags=re.MULTILINE)
    (folder / "recipe.toml").write_text(recipe, "utf-8")
    kept = [record for record in read_log(run / LOG_FILE) if "gain" in record or record["step"] % KEPT_LINES == 1]
    (folder / LOG_FILE).write_text("".join(f"{json.dumps(record)}\n" for record in kept), "utf-8")
    draw_curve(run / LOG_FILE, folder / "curve.png")


def list_release(folder: Path, options: argparse.Namespace) -> None:
    """Add the scores to the table of releases in `folder`, and draw it."""
    table = folder / "releases.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = {float(row["hours"]): row for row in csv.DictReader(file)}
    rows[options.hours] = {name: str(getattr(options, name)) for name in RELEASES}
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, RELEASES, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[hours] for hours in sorted(rows))
    image, draw = canvas(720, 360)
    titles = {"x_title": "training [h]", "y_title": "Y-PSNR over bicubic [dB]"}
    ticks = range(0, int(max(rows)) + 1, 5)
    axes = Axes((95, 45, 700, 315), (0, max(rows)), lambda y: f"{y:+.1f}", **titles, ticks=ticks, from_zero=True)
    lines = {name: [(hours, float(rows[hours][name])) for hours in sorted(rows)] for name in RELEASES[1:]}
    draw_diagram(draw, axes, lines)
    write_atomically(folder / "hours.png", png(image), "free some space")


def draw_pictures(repository: Path, target: Path, validation: Path) -> None:
    """Crops of bicubic, the network and the truth: those of the card, and the README's picture."""
    loaded = load_weights(target)
    network = Network(loaded.config, loaded.arrays, loaded.card, Device("cpu", "float32"))
    sheet = Image.new("RGB", (3 * CROP_SIZE[0], len(CROPS) * CROP_SIZE[1]))
    for clip in sorted(validation.iterdir()):
        for name, high in shots(clip):
            if name not in CROPS:
                continue
            place, top = CROPS[name], list(CROPS).index(name) * CROP_SIZE[1]
            versions = frame_versions(network, high, place[0])
            for k, frame in enumerate(versions.values()):
                sheet.paste(crop(frame, place[1:], CROP_SIZE), (k * CROP_SIZE[0], top))
            if name == FRONT_SHOT:
                write_atomically(repository / "docs/before-after.png", png(palette(front(versions))), "free some space")
    write_atomically(target.with_suffix("") / "crops.png", png(palette(sheet)), "free some space")


def frame_versions(network: Network, high: np.ndarray, index: int) -> dict[str, np.ndarray]:
    """Frame `index` of a shot by what made it, (H, W, 3) uint8 each."""
    first = max(0, index - AROUND)
    high = high[first : index + AROUND + 1]
    low = np.stack([imresize(frame, 0.25) for frame in high])
    output, _ = network(to_float(low)[None], None, len(low))
    ours = to_pixels(output[0], np.empty(output[0].shape, np.uint8))
    at = index - first
    return {"bicubic": bicubic_upscale(low[at : at + 1])[0], "rvrt-tiny": ours[at], "truth": high[at]}


def crop(frame: np.ndarray, place: tuple[int, ...], size: tuple[int, int]) -> Image.Image:
    """The part of a frame whose corner is at (x, y)."""
    (x, y), (width, height) = place, size
    return Image.fromarray(frame[y : y + height, x : x + width])


def front(versions: dict[str, np.ndarray]) -> Image.Image:
    """The versions side by side, enlarged, with their names."""
    width, height = (FRONT_SCALE * side for side in FRONT_SIZE)
    gap, top = 10, 30
    image = Image.new("RGB", (len(versions) * (width + gap) - gap, height + top), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for k, (name, frame) in enumerate(versions.items()):
        part = crop(frame, FRONT_CROP[1:], FRONT_SIZE).resize((width, height), Image.Resampling.NEAREST)
        image.paste(part, (k * (width + gap), top))
        draw.text((k * (width + gap) + width // 2, top // 2), name, fill="black", font=font, anchor="mm")
    return image


def palette(image: Image.Image) -> Image.Image:
    """With 64 colors, for a third of the bytes."""
    return image.quantize(64, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the result of fit_chroma.py")
    parser.add_argument("run", type=Path)
    parser.add_argument("--val", type=Path)
    parser.add_argument("--repository", type=Path, default=ROOT)
    parser.add_argument("--hours", type=float, required=True, help="of training, all releases together")
    parser.add_argument("--steps", type=int, required=True, help="likewise")
    parser.add_argument("--clean", type=float, required=True, help="gain of rvrt bench --protocol clips [dB]")
    parser.add_argument("--h264", type=float, required=True, help="likewise with --degradation video [dB]")
    options = parser.parse_args()
    use_device("cpu")
    target = options.repository / "weights/rvrt-tiny.safetensors"
    embed(target, options)
    list_release(target.with_suffix(""), options)
    if options.val:
        draw_pictures(options.repository, target, options.val)


if __name__ == "__main__":
    main()
