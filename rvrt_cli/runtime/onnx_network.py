# SPDX-License-Identifier: Apache-2.0
"""An exported model as the engine calls it: NumPy frames and state in, NumPy frames and state out."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rvrt_cli.engine import NetworkState, whole_clips
from rvrt_cli.errors import MediaError, OptionError, OutOfMemoryError, RvrtError, WeightsError
from rvrt_cli.model.chroma_shrinkage import shrink_chroma
from rvrt_cli.model.outline import FRAMES_STATE, MISSING_FRAME, OUTPUT_STATE, ConfiguredNetwork, NetworkOutline
from rvrt_cli.model.steadying import steady
from rvrt_cli.options import usable_cores
from rvrt_cli.runtime.exported_model import NEXT_PREFIX, OUTPUT, WINDOW_INPUT, ExportedModel
from rvrt_cli.runtime.providers import choose_provider

_LOG_ERRORS = 3  # ONNX Runtime warns of its own optimizations
_ALLOCATION_ERRORS = ("Failed to allocate", "bad_alloc", "out of memory")


def check_onnx_runtime() -> None:
    """Refuse to go on without ONNX Runtime.

    Raises:
        OptionError: it is not installed.
    """
    if find_spec("onnxruntime") is None:
        missing = "ONNX Runtime is not" if find_spec("mindspore") else "neither MindSpore nor ONNX Runtime is"
        raise OptionError(f"{missing} installed; run pip install '.[onnx]' in rvrt's checkout")


class OnnxNetwork(ConfiguredNetwork):
    """An exported network in ONNX Runtime; fulfills `rvrt_cli.engine.StreamingNetwork`.

    Attributes:
        model: what the file says about itself.
        config: sizes of the network.
        card: model card of the weights.
        device: where it runs.
        outline: what is known without its weights.
    """

    def __init__(self, path: Path, device: str = "auto"):
        """Open an exported model.

        Raises:
            OptionError: ONNX Runtime is not installed, or has no such device.
            WeightsError: no such file, or it is damaged or no export of this program.
        """
        check_onnx_runtime()
        import onnxruntime

        if not path.is_file():
            raise WeightsError(f"{path}: no such file; `rvrt export {path}` makes it")
        chosen = choose_provider(device)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_ERRORS
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoding and encoding need the cores
        providers = chosen.providers
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's own errors have no common class
            raise _opening_error(path, error) from error
        first, _ = providers[0]
        if self._session.get_providers()[0] != first:
            raise RvrtError(
                f"--device {device}: ONNX Runtime could not start {first}, whose libraries are missing or too old; "
                "install them, or choose --device cpu"
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.model = ExportedModel.from_metadata(metadata, path)
        self.config, self.card = self.model.config, self.model.card
        self.device = type(chosen)(chosen.kind, self.model.precision, chosen.number)
        self.outline = NetworkOutline(self.config, self.card, self.device, uses_kernels=False)
        self._names = [output.name for output in self._session.get_outputs()]
        if {WINDOW_INPUT, *self.config.branches} - {entry.name for entry in self._session.get_inputs()}:
            raise WeightsError(f"{path}: its inputs are not those of its configuration; export it again")

    @property
    def notes(self) -> list[str]:
        """Warnings for the user before work starts, one line each."""
        return self.outline.notes

    def fusion_lookahead(self, lookahead: int) -> int:
        """Those of the model, whose lookahead is its own: none in models that earlier versions exported."""
        return self.model.fusion_lookahead

    def memory(self, frames: int, height: int, width: int) -> int:
        """Predicted peak bytes of one call, whose window is the model's whatever the number of `frames`."""
        return self.outline.memory(self.model.length, height, width)

    def check_windows(self, window: int | None, lookahead: int) -> None:
        """Refuse windows that the model was not exported for.

        Raises:
            OptionError: another window or lookahead.
        """
        model = self.model
        if window not in (None, model.frames) or lookahead != model.lookahead:
            raise OptionError(
                f"this model was exported for windows of {model.frames} + {model.lookahead} frames; give --lookahead "
                f"{model.lookahead} and no --window, or export one with --frames {window or model.frames} --lookahead "
                f"{lookahead}"
            )

    def check_frames(self, width: int, height: int) -> None:
        """Refuse frames of another size than that of a model of fixed size.

        Raises:
            MediaError: another size.
        """
        if self.model.size not in (None, (height, width)):
            assert self.model.size is not None
            fixed = "x".join(map(str, self.model.size[::-1]))
            raise MediaError(
                f"this model was exported for frames of {fixed} px and these have {width}x{height}; export one with "
                f"--size {width}x{height}, or with --dynamic for any size"
            )

    def __call__(
        self, frames: np.ndarray, state: NetworkState | None, emit: int, *, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, NetworkState]:
        """Upscale the first `emit` frames of a window; see `rvrt_cli.engine.StreamingNetwork`.

        Args:
            frames: (1, T, H, W, 3) float32 in [0, 1], at most the model's window and lookahead, and what its frame fusion
                alone sees.
            state: result of the previous call, or None at the start of a scene.
            emit: number of frames to return; T, or the model's window.
            fusion_lookahead: number of the last frames that frame fusion alone sees; the window and lookahead before them
                are the model's.

        Raises:
            OutOfMemoryError: the device cannot hold a call of this size.
            ValueError: another number of frames.
        """
        batch, count, height, width, _ = frames.shape
        window, length = self.model.frames, count - fusion_lookahead
        if fusion_lookahead:
            fits = length == self.model.length and fusion_lookahead <= self.model.fusion_lookahead and emit == window
        else:
            fits = length <= self.model.length and emit in (length, window)
        if batch != 1 or not fits:
            raise ValueError(
                f"{emit} of {batch}x{length} frames + {fusion_lookahead}, by a model for {window} of {self.model.length} + "
                f"{self.model.fusion_lookahead}"
            )
        given = self._initial_state(height, width) if state is None else state
        current = {name: given[name] for name in (FRAMES_STATE, *self.config.branches)}
        # Where a scene ends within the lookahead, all frames are due: the backward branches restart behind the last of them
        # either way, so that two calls give what one for all would.
        outputs = []
        for first in range(0, emit, window):
            output, current = self._run(frames[:, first:], current)
            outputs.append(output[:, : emit - first])
        output = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, 1)
        if self.config.chroma_shrinkage:
            shrink_chroma(output, frames)
        if self.config.steadying:
            current[OUTPUT_STATE] = steady(output, frames, state, self.config.steadying)
        return output, current

    def _initial_state(self, height: int, width: int) -> NetworkState:
        state = {name: np.zeros(shape, np.float32) for name, shape in self.state_shapes(height, width).items()}
        state[FRAMES_STATE].fill(MISSING_FRAME)
        return state

    def _run(self, frames: np.ndarray, state: NetworkState) -> tuple[np.ndarray, NetworkState]:
        """Output and next state of one window, filled up to the model's length."""
        feeds = {WINDOW_INPUT: pad_window(frames, self.model), **state}
        try:
            values = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        except Exception as error:
            if any(text.lower() in str(error).lower() for text in _ALLOCATION_ERRORS):
                raise OutOfMemoryError(
                    "the device's memory is not enough for this call; choose a smaller --tile or --window"
                ) from error
            raise
        return values[OUTPUT], {name: values[NEXT_PREFIX + name] for name in state}


def pad_window(frames: np.ndarray, model: ExportedModel) -> np.ndarray:
    """(1, T, H, W, 3) → the model's input, (1, `input_length`, H, W, 3).

    The last clip is completed with copies of the last frame, as the network does; clips after it are `MISSING_FRAME`.
    """
    _, count, height, width, _ = frames.shape
    whole = whole_clips(count, model.config.clip_size)
    padded = np.full((1, model.input_length, height, width, 3), MISSING_FRAME, np.float32)
    padded[:, :count] = frames
    padded[:, count:whole] = frames[:, -1:]
    return padded


def _opening_error(path: Path, error: Exception) -> RvrtError:
    reason = " ".join(str(error).split())[:200]
    return WeightsError(f"{path}: ONNX Runtime cannot open it ({reason}); export it again")
