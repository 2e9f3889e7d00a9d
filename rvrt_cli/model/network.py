# SPDX-License-Identifier: Apache-2.0
"""The network as the engine calls it: NumPy frames and state in, NumPy frames and state out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import mindspore as ms
import numpy as np
from mindspore import Tensor

from rvrt_cli.device import Device, memory_errors, return_free_memory
from rvrt_cli.errors import OptionError, OutOfMemoryError
from rvrt_cli.frame import pad_by_reflection, padded_size
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.finish_output import copy_shrunk, steady_output
from rvrt_cli.model.outline import FRAMES_STATE, OUTPUT_STATE, ConfiguredNetwork, NetworkOutline
from rvrt_cli.model.rvrt import RVRT, RecurrentState
from rvrt_cli.ops import forget_compiled, kernels_active, kernels_run_eagerly
from rvrt_cli.ops.kernels import problem as kernels_problem, use_bfloat16
from rvrt_cli.ops.kernels.cuda import cuda_problem
from rvrt_cli.options import SMALLEST_FRAME
from rvrt_cli.signals import defer_signals


class Network(ConfiguredNetwork):
    """A network with its weights on a device; fulfills `rvrt_cli.engine.Network`.

    Attributes:
        config: sizes of the network.
        card: model card from the weights file.
        device: where it runs.
        outline: what is known without its weights.
        noise: standard deviation of the input's noise [0 to 1], for networks that take it; see `with_noise`.
        on_share: called now and then during a call with the share of its work that is done, from 0 to 1.
    """

    def __init__(self, config: RVRTConfig, arrays: dict[str, np.ndarray], card: dict, device: Device):
        """`arrays` holds exactly the network's parameters, see `parameter_shapes`.

        Raises:
            OptionError: bfloat16, and there are no C++ kernels or the processor lacks it.
        """
        self.config, self.card, self.device = config, card, device
        self.noise: float | None = None
        self._dtype = ms.float16 if device.precision == "float16" else ms.float32
        self.outline = NetworkOutline(config, card, device, kernels_active())
        self._cell = RVRT(config)
        for parameter in self._cell.get_parameters():
            parameter.set_dtype(self._dtype)
        self._cell.load(arrays)
        self._cell.set_train(False)
        self._choose_operands()
        self.on_share: Callable[[float], None] | None = None

    @property
    def compiles(self) -> bool:
        """Whether a first call compiles the network, which may take minutes."""
        return not kernels_run_eagerly()

    @property
    def notes(self) -> list[str]:
        """Warnings for the user before work starts, one line each."""
        notes = self.outline.notes
        if self.device.kind == "cpu" and not self.outline.uses_kernels:
            notes.append(str(kernels_problem()))
        if self.device.kind == "gpu" and not self.outline.uses_kernels:
            notes.append(str(cuda_problem()))
        return notes

    @property
    def cell(self) -> RVRT:
        """The MindSpore network, for measurements of its stages."""
        return self._cell

    def with_noise(self, noise: float | None) -> Network:
        """The same network, told the standard deviation of its input's noise [0 to 1].

        Raises:
            OptionError: it takes a noise level and there is none, or the other way round.
        """
        if self.config.noise_input != (noise is not None):
            raise OptionError(
                f"{self.card['name']}: denoising needs the standard deviation of the noise; give --sigma, such as 25 or auto"
                if noise is None
                else f"{self.card['name']}: takes no noise level; omit --sigma, or choose a network for denoising"
            )
        network = copy.copy(self)
        network.noise = noise
        return network

    def __call__(
        self,
        frames: np.ndarray,
        state: dict[str, np.ndarray] | None,
        emit: int,
        mirrored: bool = False,
        fusion_lookahead: int = 0,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Upscale or restore the first `emit` frames of a window; see `rvrt_cli.engine.Network`.

        Args:
            frames: (N, T, H, W, 3) float32 in [0, 1]; sizes other than `padded_size` gives are padded by reflection.
            state: result of the previous call, or None at the start of a scene.
            emit: number of frames to return.
            mirrored: the second half of `frames` is the first half reversed, and `state` is None.
            fusion_lookahead: number of the last frames, past the lookahead, that frame fusion alone sees; those before them
                are whole clips.

        Returns:
            (N, emit, scale * H, scale * W, 3) float32, not clamped, and the state after frame `emit`.

        Raises:
            ValueError: arguments of other axes, types or sizes.
            OutOfMemoryError: the device cannot hold a call of this size.
            OptionError: the network takes a noise level, and has none; see `with_noise`.
        """
        _check_frames(frames)
        self._check_window(frames.shape[1], emit, fusion_lookahead)
        self._check_state(frames, state)
        height, width = frames.shape[2:4]
        padded = pad_by_reflection(frames, *padded_size(height, width, self.reduction)).astype(np.float32, copy=False)
        self._choose_operands()
        if self.device.kind == "cpu":
            return_free_memory()
        past = None
        if state is not None:
            features = {branch: self._tensor(state[branch]) for branch in self.config.branches}
            past = RecurrentState(frames=self._tensor(state[FRAMES_STATE]), features=features)
        try:
            with defer_signals(), memory_errors():
                self._cell.on_share = self.on_share if self.device.kind == "cpu" else None  # others run ahead of Python
                clips, new = self._cell.stream_clips(
                    self._tensor(self._with_noise_channel(padded)),
                    past,
                    emit,
                    mirrored,
                    fusion_lookahead=fusion_lookahead,
                )
                output = self._fetch(clips, padded[:, :emit])
                after = {branch: self._array(feature) for branch, feature in new.features.items()}
                after[FRAMES_STATE] = self._array(new.frames)
        except OutOfMemoryError:
            if self.device.kind != "cpu":
                forget_compiled()
            raise
        if self.config.steadying:
            after[OUTPUT_STATE] = steady_output(output, padded, state, self.config.steadying)
        return output[:, :, : self.scale * height, : self.scale * width], after

    def _check_window(self, given: int, emit: int, fusion_lookahead: int) -> None:
        length = given - fusion_lookahead
        if not 0 <= fusion_lookahead < given or (fusion_lookahead and length % self.clip_size):
            raise ValueError(
                f"fusion_lookahead {fusion_lookahead}: give a number of last frames, of {given}, with a multiple of "
                f"{self.clip_size} before them"
            )
        if not isinstance(emit, int | np.integer) or not (
            emit == length or (0 < emit < length and emit % self.clip_size == 0)
        ):
            raise ValueError(
                f"emit {emit!r}: give the number of frames to return, all {length} or a multiple of {self.clip_size} below"
            )

    def _check_state(self, frames: np.ndarray, state: dict[str, np.ndarray] | None) -> None:
        count, _, height, width, _ = frames.shape
        shapes = self.state_shapes(*padded_size(height, width, self.reduction))
        expected = {name: (count, *shape[1:]) for name, shape in shapes.items()}
        if state is not None and {name: np.shape(array) for name, array in state.items()} != expected:
            raise ValueError(
                "state: not of this network and these frames; give what the call for the frames just before returned, or None "
                "at the start of a scene"
            )

    def _with_noise_channel(self, frames: np.ndarray) -> np.ndarray:
        """The network's input: (N, T, H, W, 3), and the noise level as a fourth channel if it takes one."""
        if not self.config.noise_input:
            return frames
        noise = self.with_noise(self.noise).noise  # refuses none
        return np.concatenate([frames, np.full((*frames.shape[:4], 1), noise, np.float32)], -1)

    def _choose_operands(self) -> None:
        """Of the CPU kernels, which all networks of the process share: the last one may have had another precision."""
        if self.device.kind == "cpu":
            use_bfloat16(self.device.precision == "bfloat16")

    def memory(self, frames: int, height: int, width: int) -> int:
        """Predicted peak bytes of one call, see `NetworkOutline.memory`."""
        return self.outline.memory(frames, height, width)

    def _fetch(self, clips: Iterable[Tensor], frames: np.ndarray) -> np.ndarray:
        """The clips' frames as far as there are input frames (N, T, H, W, 3); their chroma is shrunk where it shall be."""
        if self.device.kind != "cpu":  # an accelerator computes all of them while the first is copied
            clips = list(clips)
        output, first, emit = None, 0, frames.shape[1]
        for clip in clips:  # on the CPU, each takes the memory of the one before
            array = self._array(clip)[:, : emit - first]
            if output is None:
                output = np.empty((array.shape[0], emit, *array.shape[2:]), np.float32)
            part = slice(first, first + array.shape[1])
            if self.config.chroma_shrinkage:
                copy_shrunk(array, frames[:, part], output[:, part])
            else:
                output[:, part] = array
            first += array.shape[1]
        assert output is not None  # emit ≥ 1
        return output

    def _tensor(self, array: np.ndarray) -> Tensor:
        return Tensor(np.ascontiguousarray(array), self._dtype)

    def _array(self, tensor: Tensor) -> np.ndarray:
        return tensor.asnumpy().astype(np.float32, copy=False)


def _check_frames(frames: np.ndarray) -> None:
    """Refuse frames that are not (N, T, H, W, 3) floating-point numbers, as the first call of a network often is."""
    shape = np.shape(frames)
    if not isinstance(frames, np.ndarray) or len(shape) != 5 or shape[-1] != 3 or 0 in shape:
        raise ValueError(f"frames: expected a NumPy array (N, T, H, W, 3), not {type(frames).__name__} {shape}")
    if min(shape[2:4]) < SMALLEST_FRAME:
        raise ValueError(
            f"frames: {shape[3]}x{shape[2]} px; the network needs at least {SMALLEST_FRAME}x{SMALLEST_FRAME}"
        )
    if frames.dtype.kind == "u":
        top = np.iinfo(frames.dtype).max
        raise ValueError(
            f"frames: expected float32 in [0, 1], not {frames.dtype}; divide by {top}, or use upscale_frames"
        )
    if frames.dtype.kind != "f":
        raise ValueError(f"frames: expected float32 in [0, 1], not {frames.dtype}")
