# SPDX-License-Identifier: Apache-2.0
"""Fit the chroma of a network's last two convolutions by least squares; luma stays as it is.

    python weights/training/fit_chroma.py run/weights.safetensors clips fitted.safetensors

For networks with frame fusion and without an upsampler, such as rvrt-tiny. In training, chroma errors are a tenth of those of luma
and are hardly learned. The same weights and clips give the same result on one machine.
"""

import argparse
from pathlib import Path

import numpy as np
from mindspore import Tensor

from rvrt_cli import ops
from rvrt_cli.data.clip_store import ClipStore
from rvrt_cli.data.degradation import degrade
from rvrt_cli.data.resize import SCALE
from rvrt_cli.data.validation import bicubic_upscale
from rvrt_cli.device import Device, use_device
from rvrt_cli.model import Network, network_parts
from rvrt_cli.ops.compilation import stages_called_through
from rvrt_cli.weights import load_weights, save_weights

TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
EDGE, SAMPLES = 128, 100  # px of a clip's part; pixels drawn from each
RIDGE = 1e-7  # of the mean of the squared inputs


def last_inputs(network: Network, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the last two convolutions read where the network upscales `low` (T, H, W, 3), uint8, and what they add to.

    Returns:
        features (T, H, W, C), fused frames (T, H, W, F), and the upsampled frames (T, 4H, 4W, 3).
    """
    seen = []

    def call(stage, arguments):
        if stage.__name__ != "reconstruct":
            return stage(*arguments)
        frames, fused, count, body, _, sizes, *tensors = arguments
        weights = tuple(tensors[count:])[: sizes[0] + sizes[1]]
        features = network_parts.merge_and_run(tuple(tensors[:count]), 1.0, False, body, weights)
        seen.append((features.asnumpy(), fused.asnumpy()[..., : 3 * SCALE**2], frames.asnumpy()))
        return frames  # in place of the output, which nobody looks at

    with stages_called_through(call):
        network.cell(Tensor(low[None].astype(np.float32) / 255))
    features, fused, frames = (np.concatenate(clips, 1)[0] for clips in zip(*seen, strict=True))
    size = (len(frames), SCALE * frames.shape[1], SCALE * frames.shape[2], 3)
    base = ops.add_upsampled(Tensor(np.zeros(size, np.float32)), Tensor(frames))
    return features, fused, base.asnumpy().astype(np.float64)


def neighborhoods(maps: np.ndarray, t: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(n, 9C): the 3×3 pixels around each place, in the order of a convolution's weights."""
    around = [maps[t, y + down, x + right] for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return np.stack(around, -1).reshape(len(t), -1)


def normal_equations(network: Network, clips: Path, count: int, clean_share: float) -> tuple[np.ndarray, np.ndarray]:
    """XᵀX and XᵀY over `count` clips, every other one degraded as by --degradation video; Y is the missing chroma.

    Each clip is weighted by the inverse of bicubic's squared chroma error, clean ones by `clean_share`, others by the rest.
    """
    store, rng = ClipStore(clips), np.random.default_rng(7)
    xx, xy = 0.0, 0.0
    for number, index in enumerate(rng.permutation(len(store))[:count]):
        clip = np.asarray(store[index])
        top, left = rng.integers(0, (clip.shape[1] - EDGE) // SCALE + 1, 2) * SCALE
        clip = clip[:, top : top + EDGE, left : left + EDGE]
        clean = number % 2 == 0
        low, high = degrade(clip, "video", rng, float(clean)), clip / 255
        features, fused, base = last_inputs(network, low)
        frames, height, width, _ = features.shape
        t = rng.integers(0, frames, SAMPLES)
        y, x = rng.integers(2, height - 2, SAMPLES), rng.integers(2, width - 2, SAMPLES)
        blocks = (high - base).reshape(frames, height, SCALE, width, SCALE, 3).transpose(0, 1, 3, 5, 2, 4)
        missing = np.einsum("cr,nrij->ncij", TO_YCBCR[1:], blocks[t, y, x]).reshape(SAMPLES, -1)
        error = np.mean(((bicubic_upscale(low) / 255 - high) @ TO_YCBCR[1:].T) ** 2)
        weight = (clean_share if clean else 1 - clean_share) / (error + 1e-6)
        seen = [neighborhoods(features, t, y, x), neighborhoods(fused, t, y, x), np.ones((SAMPLES, 1))]
        row = np.concatenate(seen, 1).astype(np.float64)
        xx, xy = xx + weight * row.T @ row, xy + weight * row.T @ missing
        if number % 100 == 99:
            print(f"{number + 1} of {count} clips", flush=True)
    return xx, xy


def fitted(arrays: dict[str, np.ndarray], xx: np.ndarray, xy: np.ndarray, share: float) -> dict[str, np.ndarray]:
    """The arrays with the chroma of the last convolutions mixed: `share` parts of the solution, the rest as trained."""
    size = len(xx)
    solution = np.linalg.solve(xx + RIDGE * np.trace(xx) / size * np.eye(size), xy).T.reshape(2, SCALE**2, size)
    last, fused = (arrays[name].astype(np.float64) for name in ("conv_last.weight", "conv_last.fused.weight"))
    biases = [arrays[name].astype(np.float64) for name in ("conv_last.bias", "conv_last.fused.bias")]
    outputs = 3 * SCALE**2
    rows = np.concatenate([last.reshape(outputs, -1), fused.reshape(outputs, -1), sum(biases)[:, None]], 1)
    ycbcr = np.einsum("cr,rsk->csk", TO_YCBCR, rows.reshape(3, SCALE**2, size))
    ycbcr[1:] = share * solution + (1 - share) * ycbcr[1:]
    rows = np.einsum("rc,csk->rsk", np.linalg.inv(TO_YCBCR), ycbcr).reshape(outputs, size)
    split = last[0].size
    changed = {
        "conv_last.weight": rows[:, :split].reshape(last.shape),
        "conv_last.fused.weight": rows[:, split:-1].reshape(fused.shape),
        "conv_last.bias": rows[:, -1] - biases[1],
    }
    return arrays | {name: array.astype(np.float32) for name, array in changed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("clips", type=Path, help="made by rvrt preprocess clips")
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=900, help="clips to fit on")
    parser.add_argument("--clean-share", type=float, default=0.95, help="weight of clean clips, 0 to 1")
    parser.add_argument("--share", type=float, default=0.9, help="share of the fit; the rest is as trained")
    options = parser.parse_args()
    use_device("cpu")
    loaded = load_weights(options.weights)
    network = Network(loaded.config, loaded.arrays, loaded.card, Device("cpu", "float32"))
    xx, xy = normal_equations(network, options.clips, options.count, options.clean_share)
    save_weights(options.output, fitted(loaded.arrays, xx, xy, options.share), loaded.config, loaded.card)


if __name__ == "__main__":
    main()
