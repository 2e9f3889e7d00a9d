# SPDX-License-Identifier: Apache-2.0
"""Draw pictures of text to train on: pages, tables, signs and captions, in the fonts of this machine.

    python weights/training/text_pictures.py photos text 18

draws 18 pictures of 3200×2400 px into `text`, over paper, gradients and the photos of `photos`. `rvrt preprocess clips`
makes clips of them as it does of photos. The same photos and fonts make the same pictures.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 3200, 2400
LETTERS, SHARES = zip(*{"e": 12, "t": 9, "a": 8, "o": 8, "i": 7, "n": 7, "s": 6, "r": 6, "h": 6, "l": 4, "d": 4, "u": 3,
                        "c": 3, "m": 3, "f": 2, "y": 2, "w": 2, "g": 2, "p": 2, "b": 2, "v": 1, "k": 1, "x": 1, "q": 1,
                        "j": 1, "z": 1}.items(), strict=True)  # fmt: skip


def fonts() -> list[str]:
    """Paths of the scalable Latin fonts that fontconfig knows, sorted."""
    found = subprocess.run(["fc-list", ":lang=en:scalable=true", "file"], capture_output=True, text=True, check=True)
    return sorted({line.split(":")[0] for line in found.stdout.splitlines() if "Math" not in line})


def word(rng: np.random.Generator) -> str:
    """Letters as frequent as in English, sometimes capitals or a number."""
    if rng.random() < 0.15:
        return str(rng.integers(0, 10 ** rng.integers(1, 5)))
    shares = np.array(SHARES) / sum(SHARES)
    letters = "".join(rng.choice(LETTERS, rng.integers(2, 11), p=shares))
    change = rng.random()
    return letters.upper() if change < 0.15 else letters.capitalize() if change < 0.4 else letters


def background(photos: list[Path], rng: np.random.Generator) -> Image.Image:
    """A photo, blurred or not, a gradient of two colors, or paper."""
    kind = rng.random()
    if kind < 0.4:
        photo = Image.open(photos[rng.integers(len(photos))]).convert("RGB").resize(SIZE)
        return photo.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 12)))) if rng.random() < 0.7 else photo
    left, right = rng.integers(0, 256, (2, 1, 1, 3)) if kind < 0.7 else rng.integers(215, 256, (2, 1, 1, 3))
    across = np.linspace(0, 1, SIZE[0])[None, :, None]
    paper = (1 - across) * left + across * right + rng.normal(0, rng.uniform(0, 4), (SIZE[1], 1, 1))
    grain = rng.normal(0, rng.uniform(0, 3), (SIZE[1], SIZE[0], 1))
    return Image.fromarray(np.clip(paper + grain, 0, 255).astype(np.uint8))


def ink(color: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    """A color that stands out from `color` (R, G, B): black or white, or in a third of the cases any that differs enough."""
    while rng.random() < 0.33:
        drawn = rng.integers(0, 256, 3)
        if abs(float(drawn.mean() - color.mean())) > 60:
            return tuple(int(value) for value in drawn)
    return (12, 12, 12) if color.mean() > 128 else (244, 244, 244)


def draw_block(picture: Image.Image, names: list[str], rng: np.random.Generator) -> None:
    """One block of lines or a table at a random place, size and angle, sometimes on a plate or with an outline."""
    height = int(np.exp(rng.uniform(np.log(22), np.log(260))))  # px; low-resolution letters are an eighth as high
    font = ImageFont.truetype(names[rng.integers(len(names))], height)
    rows = int(rng.integers(1, max(2, min(24, 1400 // height))))
    if rng.random() < 0.3:  # a table, as of a calendar
        lines = ["   ".join(f"{rng.integers(1, 32):2d}" for _ in range(7)) for _ in range(rows)]
    else:
        lines = [" ".join(word(rng) for _ in range(rng.integers(1, 8))) for _ in range(rows)]
    text, gap = "\n".join(lines), int(height * rng.uniform(0.1, 0.6))
    box = ImageDraw.Draw(picture).multiline_textbbox((0, 0), text, font=font, spacing=gap)
    margin = height // 2
    layer = Image.new("RGBA", (int(box[2]) + 2 * margin, int(box[3]) + 2 * margin))
    place = tuple(int(rng.integers(-200, side - 200)) for side in picture.size)
    left, top = (begin % side for begin, side in zip(place, SIZE, strict=True))
    color = np.asarray(picture)[top : top + layer.height, left : left + layer.width].reshape(-1, 3).mean(0)
    draw = ImageDraw.Draw(layer)
    if rng.random() < 0.3:
        color = rng.integers(0, 256, 3)
        draw.rounded_rectangle((0, 0, layer.width - 1, layer.height - 1), margin, fill=(*(int(v) for v in color), 255))
    outline = int(height * rng.uniform(0.03, 0.08)) if rng.random() < 0.2 else 0
    fill = ink(color, rng)
    draw.multiline_text(
        (margin, margin), text, fill, font, spacing=gap, stroke_width=outline, stroke_fill=tuple(255 - v for v in fill)
    )
    if rng.random() < 0.3:
        layer = layer.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BICUBIC, expand=True)
    picture.paste(layer, place, layer)


def main(photos: Path, folder: Path, count: int) -> None:
    """Draw `count` pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sources, names = sorted(photos.iterdir()), fonts()
    for number in range(count):
        rng = np.random.default_rng((0, number))
        picture = background(sources, rng)
        for _ in range(rng.integers(12, 30)):
            draw_block(picture, names, rng)
        picture.save(folder / f"text__{number:02d}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
