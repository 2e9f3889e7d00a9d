# SPDX-License-Identifier: Apache-2.0
"""Audio against video, at the start and at the end.

Copied packets carry their own timestamps. Re-encoded audio has others, so the sound itself is compared: its envelope in
steps of a millisecond, correlated between both files.
"""

from __future__ import annotations

import contextlib
from typing import Any

import av
import numpy as np

from rvrt_cli.check.packet_findings import StreamMatch
from rvrt_cli.check.paired_frames import SourceAndTarget
from rvrt_cli.check.verdict import Finding
from rvrt_cli.video.read.container import demux_packets, open_container
from rvrt_cli.video.read.source import SourceInfo

_MAX_OFFSET = 0.02  # s; viewers notice sound that is 0.045 s early (ITU-R BT.1359), and one AAC frame is 0.021 s
_COMPARED_SECONDS = 20.0  # s of sound at either end
_SEARCHED = 3.0  # s in either direction
_ENVELOPE_STEP = 0.001  # s of one value of an envelope
_FLOOR = 1e-4  # of full scale: below, sound is silence
_LIVELY = 0.05  # standard deviation of an envelope (log10) that has features
_ALIKE, _UNIQUE = 0.4, 1.1  # correlation at the best place, and times that at any other
_BESIDE = 0.05  # s around the best place that are not another place
_END_FRAMES = 10  # whose median lateness is the video's


def audio_offset(clips: SourceAndTarget, match: StreamMatch, times: list[tuple[float, float]]) -> Finding:
    """How much later the audio of the target is against its video than in the source, at start and end.

    Args:
        match: an audio stream that both have.
        times: (source, target) timestamps of paired frames [s].
    """
    assert match.target is not None
    name = f"stream {match.source.stream.index} sync"
    if not times:
        return Finding(name, "skipped", "no frames of both videos coincide")
    lateness = np.diff(np.array(times), axis=1)[:, 0]
    video = np.array([np.median(lateness[:_END_FRAMES]), np.median(lateness[-_END_FRAMES:])])
    audio, how = _from_packets(match), "timestamps"
    if audio is None:
        audio, how = _from_sound(clips, match, video), "sound"
    if audio is None:
        audio, how = _from_ends(match), "timestamps"
    if audio is None:
        return Finding(name, "skipped", "its packets have no timestamps")
    start, end = (float(value) for value in audio - video)
    values: dict[str, Any] = {"start": start, "end": end, "by": how}
    if max(abs(start), abs(end)) <= _MAX_OFFSET:
        return Finding(name, "ok", f"within {1000 * max(abs(start), abs(end)):.0f} ms at start and end", values)
    text = f"audio is {_late(start)} at the start and {_late(end)} at the end, against the video"
    return Finding(name, "fail", text, values)


def _late(seconds: float) -> str:
    if abs(seconds) <= _MAX_OFFSET:
        return "in place"
    return f"{1000 * abs(seconds):.0f} ms {'late' if seconds > 0 else 'early'}"


def _from_packets(match: StreamMatch) -> np.ndarray | None:
    """How much later the first and the last copied packets are [s]; None where the audio is re-encoded."""
    if match.target is None or not match.is_copy:
        return None
    pairs = match.copied
    late = np.array([match.target.times[after] - match.source.times[before] for before, after in pairs])
    late = late[np.isfinite(late)]
    if not len(late):
        return None
    return np.array([np.median(late[:_END_FRAMES]), np.median(late[-_END_FRAMES:])])


def _from_ends(match: StreamMatch) -> np.ndarray | None:
    """How much later the first packet begins and the last one ends [s]."""
    assert match.target is not None
    begin = [np.nanmin(stream.times) if stream.times else np.nan for stream in (match.source, match.target)]
    late = np.array([max(0.0, begin[1]) - max(0.0, begin[0]), match.target.end - match.source.end])
    if not np.isfinite(late).all():
        return None
    return np.array([late[0], late[0]])  # encoders pad the end


def _from_sound(clips: SourceAndTarget, match: StreamMatch, video: np.ndarray) -> np.ndarray | None:
    """How much later the sound is [s], at start and end; None where it has no features to compare, such as a tone."""
    assert match.target is not None
    source, target = match.source, match.target
    begin = clips.options.start
    length = min(source.end, target.end - float(video[0]))
    if clips.options.duration is not None:
        length = min(length, clips.options.duration)
    found = []
    for at, late in zip((0.0, max(0.0, length - _COMPARED_SECONDS)), video, strict=True):
        span = min(_COMPARED_SECONDS, length - at)
        if span < 0.2:
            return None
        first = _envelope(clips.source, source.stream.index, at, span, begin)
        second = _envelope(clips.target, target.stream.index, at + float(late), span, 0.0)
        lag = _best_lag(first, second)
        if lag is None:
            return None
        found.append(lag + float(late))
    return np.array(found)


def _envelope(info: SourceInfo, index: int, begin: float, length: float, start: float) -> np.ndarray:
    """Loudness (log10 of the root mean square) of each millisecond of a part, on the clock of an output."""
    steps = int(length / _ENVELOPE_STEP)
    power, count = np.zeros(steps), np.zeros(steps)
    zero = float(info.output_zero(start)) + begin
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError, OSError):
        stream = container.streams[index]
        if zero > 2:
            container.seek(int((zero - 1) / stream.time_base), stream=stream)
        for packet in demux_packets(container, stream):
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    if frame.pts is None:
                        continue
                    sound = _mono(frame)
                    at = float(frame.pts * frame.time_base) - zero + np.arange(len(sound)) / frame.sample_rate
                    place = np.floor(at / _ENVELOPE_STEP).astype(int)
                    inside = (place >= 0) & (place < steps)
                    np.add.at(power, place[inside], sound[inside] ** 2)
                    np.add.at(count, place[inside], 1)
                    if at[0] > length:
                        return _loudness(power, count)
    return _loudness(power, count)


def _loudness(power: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.log10(np.sqrt(power / np.maximum(count, 1)) + _FLOOR)


def _mono(frame: Any) -> np.ndarray:
    """Samples of a decoded audio frame, mean of the channels, in ±1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if np.issubdtype(samples.dtype, np.integer):
        middle = 128 if samples.dtype == np.uint8 else 0
        samples = (samples.astype(np.float64) - middle) / (np.iinfo(samples.dtype).max + 1 - middle)
    return np.asarray(samples, np.float64).mean(0)


def _best_lag(first: np.ndarray, second: np.ndarray) -> float | None:
    """By how many seconds `second` lags; None where the envelopes have no unique best place."""
    if min(first.std(), second.std()) < _LIVELY:
        return None
    a, b = first - first.mean(), second - second.mean()
    size = 2 * len(a)
    product = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    reach = min(int(_SEARCHED / _ENVELOPE_STEP), len(a) // 2)
    lags = np.arange(-reach, reach + 1)
    overlap = (len(a) - np.abs(lags)) / len(a)
    correlation = product[lags] / (np.linalg.norm(a) * np.linalg.norm(b)) / overlap
    best = int(np.argmax(correlation))
    elsewhere = correlation[np.abs(lags - lags[best]) > _BESIDE / _ENVELOPE_STEP]
    if correlation[best] < _ALIKE or (len(elsewhere) and correlation[best] < _UNIQUE * elsewhere.max()):
        return None
    return float(lags[best] * _ENVELOPE_STEP)
