"""Nothing is lost between source and target: times, sound, subtitles, tags; checked with PyAV on real files."""

import re
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.video_clips import (
    BFRAMES,
    FAST,
    PICTURES,
    SOUND,
    decoded_times,
    enlarge,
    ffmpeg,
    leftovers,
    look,
    read_all,
    streams,
)

from rvrt_cli.errors import MediaError
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.write.target import check_target

MILLISECOND = Fraction(1, 1000)

# name: (ffmpeg arguments that make the source, its suffix)
CLOCKS = {
    "ntsc film": (["-f", "lavfi", "-i", "testsrc2=s=64x48:r=24000/1001:d=1", *BFRAMES], ".mp4"),
    "ntsc 29.97": ([*PICTURES, *BFRAMES], ".mp4"),
    "ntsc 59.94": (["-f", "lavfi", "-i", "testsrc2=s=64x48:r=60000/1001:d=1", *BFRAMES], ".mov"),
    "variable": ([*PICTURES, "-vf", "setpts=N*N*37+N*900", "-fps_mode", "passthrough", *BFRAMES], ".mp4"),
    "variable mkv": ([*PICTURES, "-vf", "setpts=(N*N*7+N*800)", "-fps_mode", "passthrough", *BFRAMES], ".mkv"),
    "late start": ([*PICTURES, "-vf", "setpts=PTS+0.5338/TB", "-copyts", *BFRAMES], ".mp4"),
    "late start mkv": ([*PICTURES, "-vf", "setpts=PTS+0.5338/TB", "-copyts", *BFRAMES], ".mkv"),
}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_every_frame_keeps_its_time(tmp_path, clock, suffix):
    arguments, source_suffix = CLOCKS[clock]
    source, target = tmp_path / f"in{source_suffix}", tmp_path / f"out{suffix}"
    ffmpeg(*arguments, source)
    enlarge(source, target, **({"preset": "8"} if suffix == ".webm" else {}))
    want, got = decoded_times(source), decoded_times(target)
    assert len(got) == len(want)
    tolerance = 0 if suffix in (".mp4", ".mov") else MILLISECOND / 2
    worst = max(abs(a - b) for a, b in zip(want, got, strict=True))
    assert worst <= tolerance, f"off by {float(worst) * 1000:.3f} ms"
    if clock.startswith("ntsc"):
        assert float(probe(target).frame_rate) == pytest.approx(float(probe(source).frame_rate), rel=1e-5)
    assert leftovers(tmp_path) == []


def test_an_edit_list_hides_the_same_frames(tmp_path):
    """A copy that begins between key frames carries hidden frames before its edit list; they must not come out."""
    whole, source, target = tmp_path / "whole.mp4", tmp_path / "in.mp4", tmp_path / "out.mp4"
    ffmpeg(*PICTURES, *SOUND, *BFRAMES, "-c:a", "aac", whole)
    ffmpeg("-ss", "0.55", "-i", whole, "-c", "copy", source)
    assert look(source)[0].times[0] < 0
    enlarge(source, target)
    assert probe(source).frame_count == len(decoded_times(target))
    assert decoded_times(target) == [t for t in decoded_times(source) if t >= 0]


def test_a_transport_stream_starts_at_zero_with_its_sound_in_step(tmp_path):
    source, target = tmp_path / "in.ts", tmp_path / "out.mp4"
    ffmpeg(*PICTURES, *SOUND, *BFRAMES, "-c:a", "aac", "-output_ts_offset", "900", source)
    enlarge(source, target)
    before, after = look(source), look(target)
    assert min(after[0].times[0], after[1].times[0]) == 0
    gap_before = before[0].times[0] - before[1].times[0]
    gap_after = after[0].times[0] - after[1].times[0]
    assert abs(gap_before - gap_after) < MILLISECOND / 10
    assert len(after[0].times) == 30


def title(stream):
    """A track's title; in an mp4 it is the handler's name."""
    return stream.metadata.get("title", stream.metadata.get("name"))


AUDIO = {
    "aac": (".mp4", ".mp4"),
    "libopus": (".mkv", ".webm"),
    "flac": (".mkv", ".mkv"),
    "pcm_s16le": (".mov", ".mkv"),
    "ac3": (".mkv", ".mp4"),
    "libmp3lame": (".mp4", ".mkv"),
    "libvorbis": (".webm", ".webm"),
}


@pytest.mark.parametrize("encoder", AUDIO)
def test_sound_is_copied_bit_for_bit(tmp_path, encoder):
    source, target = (tmp_path / f"{name}{suffix}" for name, suffix in zip(("in", "out"), AUDIO[encoder], strict=True))
    video = ["-c:v", "libvpx-vp9", "-deadline", "realtime"] if AUDIO[encoder][0] == ".webm" else FAST
    two = ["-map", "0", "-map", "1", "-map", "2", "-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=fra"]
    second = ["-f", "lavfi", "-i", "sine=f=880:d=1:r=48000"]
    ffmpeg(*PICTURES, *SOUND, *second, *two, "-metadata:s:a:1", "title=Zweitton", *video, "-c:a", encoder, source)
    enlarge(source, target, **({"preset": "8"} if target.suffix == ".webm" else {}))
    before, after = streams(source, "audio"), streams(target, "audio")
    assert len(before) == len(after) == 2
    # An .mov that ffmpeg writes has no language for "deu"; it is the source here that lacks it
    assert [s.metadata.get("language") for s in after] == [None if encoder == "pcm_s16le" else "deu", "fra"]
    assert [title(s) for s in after] == [None, "Zweitton"]
    for a, b in zip(before, after, strict=True):
        assert a.codec == b.codec
        assert b"".join(a.data) == b"".join(b.data)
        assert abs(a.times[0] - b.times[0]) <= MILLISECOND
        assert a.metadata.get("language") == b.metadata.get("language")
        assert a.disposition == b.disposition


# (encoder of the source, its suffix, channels, the target's suffix, codec there, 1 - likeness allowed)
RECODED = [
    ("aac", ".mp4", 2, ".webm", "opus", 0.01),
    ("flac", ".mkv", 1, ".webm", "opus", 0.01),
    ("ac3", ".mkv", 6, ".webm", "opus", 0.01),  # its order of channels is not one of Opus
    ("flac", ".mkv", 2, ".mov", "alac", 0),
    ("wavpack", ".mkv", 2, ".mp4", "alac", 0),
    ("libopus", ".mkv", 2, ".mov", "aac", 0.01),
    ("wmav2", ".asf", 2, ".mkv", "flac", 0.01),
    ("pcm_mulaw", ".mov", 1, ".mkv", "flac", 0),
]


@pytest.mark.parametrize(
    ("suffix", "language", "kept"),
    [
        (".mov", "deu", "ger"),
        (".mov", "fre", "fra"),
        (".mov", "swe", "sve"),
        (".mov", "ita", "ita"),
        (".mov", "glg", None),
        (".mp4", "glg", "glg"),
        (".mp4", "en-US", None),
        (".mkv", "en-US", "en-US"),
    ],
)
def test_a_language_gets_the_code_that_the_container_has_for_it(tmp_path, suffix, language, kept):
    source, target = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    ffmpeg(*PICTURES, *SOUND, *FAST, "-c:a", "pcm_s16le", "-metadata:s:a:0", f"language={language}", source)
    notes = enlarge(source, target, duration=0.2)
    assert streams(target, "audio")[0].metadata.get("language", "und") == (kept or "und")
    lost = f"out{suffix}: stream 1 (audio) loses its language {language!r}, which {suffix} does not know"
    assert notes == ([] if kept else [lost])


@pytest.mark.parametrize(("encoder", "suffix", "channels", "wanted", "codec", "loss"), RECODED)
def test_sound_that_does_not_fit_is_encoded_anew_and_said(tmp_path, encoder, suffix, channels, wanted, codec, loss):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{wanted}"
    late = "adelay=120:all=1,atrim=start=0.12" if suffix == ".mkv" else "anull"  # the sound begins after the pictures
    chirp = f"aevalsrc='0.3*sin(2*PI*(200+900*t)*t)':d=1.12:s=48000,{late},aformat=channel_layouts={channels}c"
    if channels == 6:
        chirp = f"aevalsrc='0.3*sin(2*PI*(200+900*t)*t)':d=1.12:s=48000,{late},pan=5.1(side)|" + "|".join(
            f"c{number}=c0" for number in range(6)
        )
    ffmpeg(
        *PICTURES, "-f", "lavfi", "-i", chirp, *FAST, "-copyts", "-c:a", encoder, "-metadata:s:a:0", "language=ita",
        source,
    )  # fmt: skip
    notes = enlarge(source, target, **({"preset": "8"} if wanted == ".webm" else {}))
    name = streams(source, "audio")[0].codec
    why = "rvrt cannot copy it into .mkv" if wanted == ".mkv" else f"{wanted} cannot hold it"
    assert notes == [f"{target.name}: stream 1 (audio, {name}) is re-encoded to {codec}, since {why}"]
    after = streams(target, "audio")
    assert [stream.codec for stream in after] == [codec]
    assert after[0].metadata["language"] == "ita"
    (begin, before), (start, heard) = decoded_sound(source), decoded_sound(target)
    assert heard.shape[0] == before.shape[0] == channels
    assert abs(heard.shape[1] - before.shape[1]) <= 2048, "a run-up and a rest of AAC, at most"
    # Laid on the clock of the pictures, the same sound is there at the same time
    shift = round((start - begin) * 48000)
    assert abs(shift) <= 48 + 1024
    here = before[:, 4096:-4096]

    def likeness(lag):
        there = heard[:, 4096 - shift + lag :][:, : here.shape[1]]
        return (here * there).sum() / np.sqrt((here**2).sum() * (there**2).sum())

    best = max(range(-48, 49), key=likeness)  # Matroska's clock is 48 samples coarse
    assert likeness(best) >= 1 - loss - 1e-6, f"likeness {likeness(best):.4f} at a lag of {best} samples"


def decoded_sound(path):
    """(time of the first sample in s, samples as (channels, length))."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        layout = frames[0].layout.name
        assert frames[0].sample_rate == 48000
        resampler = av.AudioResampler("fltp", layout, 48000)
        first = frames[0].pts * frames[0].time_base
        arrays = [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]
    return first, np.concatenate(arrays, 1)


def test_sound_of_an_mp4_keeps_its_run_up_in_matroska(tmp_path):
    """The first AAC packet lies before 0 and is not played; losing that would move the pictures against the source."""
    source, target = tmp_path / "in.mp4", tmp_path / "out.mkv"
    ffmpeg(*PICTURES, *SOUND, *BFRAMES, "-c:a", "aac", source)
    enlarge(source, target)
    assert streams(source, "audio")[0].times[0] < 0
    assert decoded_times(target)[0] == 0
    assert abs(streams(target, "audio")[0].times[0] - streams(source, "audio")[0].times[0]) <= MILLISECOND


def test_a_part_takes_the_sound_of_that_part(tmp_path):
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    ffmpeg(*PICTURES, *SOUND, *BFRAMES, "-c:a", "flac", "-frame_size", "480", source)
    enlarge(source, target, start=0.4, duration=0.3)
    wanted = [t for t in decoded_times(source) if Fraction(4, 10) <= t < Fraction(7, 10)]
    shifted = [t - Fraction(4, 10) for t in wanted]
    assert decoded_times(target) == shifted
    original, copied = streams(source, "audio")[0], streams(target, "audio")[0]
    begin = original.data.index(copied.data[0])
    assert original.data[begin : begin + len(copied.data)] == copied.data
    assert 0 <= copied.times[0] < Fraction(11, 1000)
    assert copied.times[-1] < Fraction(3, 10)
    assert len(copied.data) in (29, 30)


def test_the_beginning_of_a_part_keeps_its_run_up(tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    ffmpeg(*PICTURES, *SOUND, *BFRAMES, "-c:a", "aac", "-metadata", "creation_time=2001-02-03T04:05:06Z", source)
    enlarge(source, target, duration=0.5)
    original, copied = streams(source, "audio")[0], streams(target, "audio")[0]
    assert copied.times[0] == original.times[0] < 0
    assert copied.data == original.data[: len(copied.data)]
    assert copied.times[-1] < Fraction(1, 2) <= original.times[len(copied.data)]
    assert chapters_of(target)[1]["creation_time"].startswith("2001-02-03T04:05:06")


SUBTITLES = "1\n00:00:00,100 --> 00:00:00,400\nGrüße, “you”\n\n2\n00:00:00,500 --> 00:00:00,900\nsecond\n"
CHAPTERS = (
    ";FFMETADATA1\ntitle=Ein Film\nartist=Somebody\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=1000\ntitle=Zwei\n"
)


@pytest.fixture
def rich_mkv(tmp_path):
    """A Matroska file with everything: two languages, subtitles, chapters, a font, titles."""
    (tmp_path / "s.srt").write_text(SUBTITLES, encoding="utf-8")
    (tmp_path / "c.txt").write_text(CHAPTERS, encoding="utf-8")
    (tmp_path / "font.ttf").write_bytes(b"\0\1\0\0not really")
    path = tmp_path / "rich.mkv"
    inputs = [*PICTURES, *SOUND, "-i", tmp_path / "s.srt", "-i", tmp_path / "c.txt"]
    maps = ["-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3", "-map_chapters", "3"]
    tags = ["-metadata:s:s:0", "language=ger", "-metadata:s:v:0", "title=Bild", "-disposition:s:0", "forced"]
    font = ["-attach", tmp_path / "font.ttf", "-metadata:s:t", "mimetype=font/ttf"]
    ffmpeg(*inputs, *maps, *tags, *font, *FAST, "-c:a", "aac", "-c:s", "srt", path)
    return path


def chapters_of(path):
    with av.open(str(path)) as container:
        return [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"]["title"])
            for c in container.chapters()
        ], dict(container.metadata)


def test_subtitles_chapters_attachments_and_tags_come_along(tmp_path, rich_mkv):
    target = tmp_path / "out.mkv"
    assert enlarge(rich_mkv, target) == []
    before, after = look(rich_mkv), look(target)
    assert [s.type for s in after] == [s.type for s in before]
    for a, b in zip(before[1:3], after[1:3], strict=True):
        assert (a.codec, a.times, a.data, a.disposition) == (b.codec, b.times, b.data, b.disposition)
    assert after[2].metadata["language"] == "ger"
    assert after[0].metadata["title"] == "Bild"
    with av.open(str(target)) as container:
        font = container.streams[3]
        assert (font.name, font.mimetype, font.data) == ("font.ttf", "font/ttf", b"\0\1\0\0not really")
    chapters, metadata = chapters_of(target)
    assert chapters == [(0.0, 0.4, "One"), (0.4, 1.0, "Zwei")]
    assert metadata["title"] == "Ein Film"
    assert metadata["ARTIST"] == "Somebody"


def test_text_subtitles_change_to_what_the_container_holds_and_say_so(tmp_path):
    (tmp_path / "s.srt").write_text(SUBTITLES, encoding="utf-8")
    (tmp_path / "c.txt").write_text(CHAPTERS, encoding="utf-8")
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    ffmpeg(
        *PICTURES,
        "-i",
        tmp_path / "s.srt",
        "-i",
        tmp_path / "c.txt",
        "-map",
        "0",
        "-map",
        "1",
        "-map_metadata",
        "2",
        *FAST,
        "-c:s",
        "srt",
        source,
    )
    notes = enlarge(source, target)
    assert notes == ["out.mp4: stream 1 (subtitle, subrip) becomes mov_text, the text that .mp4 holds"]
    assert "Grüße, “you”" in ffmpeg("-i", target, "-map", "0:s", "-f", "srt", "-").decode()
    chapters, metadata = chapters_of(target)
    assert [c[2] for c in chapters] == ["One", "Zwei"]
    assert metadata["title"] == "Ein Film"


def test_chapters_of_a_part_are_cut_with_it(tmp_path, rich_mkv):
    target = tmp_path / "out.mkv"
    enlarge(rich_mkv, target, start=0.3, duration=0.5)
    chapters, _ = chapters_of(target)
    assert [(round(b, 3), round(e, 3), title) for b, e, title in chapters] == [(0.0, 0.1, "One"), (0.1, 0.5, "Zwei")]
    lines = streams(target, "subtitle")[0]
    assert lines.data == [s.encode() for s in ("Grüße, “you”", "second")]
    assert lines.times == [0, Fraction(1, 5)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_art_stays(tmp_path, suffix):
    cover, film, source = tmp_path / "c.png", tmp_path / "film.mp4", tmp_path / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32", "-frames:v", "1", cover)
    ffmpeg(*PICTURES, *FAST, film)
    ffmpeg("-i", film, "-i", cover, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic", source)
    assert (probe(source).width, probe(source).height) == (64, 48)
    target = tmp_path / f"out{suffix}"
    enlarge(source, target)
    pictures = streams(target, "video")
    assert [s.codec for s in pictures] == ["h264", "png"]
    assert pictures[1].disposition & 0x400
    assert pictures[1].data == [cover.read_bytes()]
    assert len(pictures[0].data) == 30
    with pytest.raises(MediaError, match=r"the cover picture 'png' cannot go into \.mov; choose \.mkv or \.mp4"):
        enlarge(source, tmp_path / "out.mov")


def test_covers_and_attachments_keep_their_names_and_titles(tmp_path):
    film, source = tmp_path / "film.mkv", tmp_path / "in.mkv"
    ffmpeg(*PICTURES, *FAST, film)
    files: list[object] = []
    for number, (name, mime) in enumerate({"a.gif": "image/gif", "b.png": "image/png", "c.webp": "image/webp"}.items()):
        if name != "c.webp":
            ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x32:d={number + 1}", "-frames:v", "1", tmp_path / name)
        else:
            (tmp_path / name).write_bytes(b"RIFF")
        tags = {"mimetype": mime, "title": f"Bild {number}"}
        files += ["-attach", tmp_path / name]
        files += [word for key, value in tags.items() for word in (f"-metadata:s:t:{number}", f"{key}={value}")]
    ffmpeg("-i", film, *files, "-c", "copy", source)
    assert enlarge(source, tmp_path / "out.mkv") == []
    before, after = look(source)[1:], look(tmp_path / "out.mkv")[1:]
    assert [s.metadata for s in after] == [s.metadata for s in before]
    assert [s.metadata["title"] for s in after] == ["Bild 0", "Bild 1", "Bild 2"]
    assert [s.data for s in after] == [s.data for s in before]


def test_what_a_container_cannot_hold_is_refused_before_the_work(tmp_path, rich_mkv):
    with pytest.raises(MediaError, match=r"rich\.mkv: the attachment 'font\.ttf' cannot go into \.mp4; choose \.mkv"):
        enlarge(rich_mkv, tmp_path / "out.mp4")
    source = tmp_path / "in.mkv"
    ffmpeg(*PICTURES, *FAST, source)
    with pytest.raises(MediaError, match=r"the video codec 'h264' cannot go into \.webm; choose \.mp4"):
        enlarge(source, tmp_path / "out.webm", codec="libx264")
    assert not list(tmp_path.glob("out*"))
    assert leftovers(tmp_path) == []


def test_a_timecode_track_is_told_of_as_what_it_is(tmp_path):
    source = tmp_path / "in.mov"
    ffmpeg(*PICTURES, *FAST, "-timecode", "01:02:03:04", source)
    assert enlarge(source, tmp_path / "out.mov") == [
        "out.mov: stream 1 (data) is left out, rvrt copies no timecode tracks"
    ]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_phone_video_is_upright_once(tmp_path, degrees):
    flat, source, target = tmp_path / "flat.mp4", tmp_path / "in.mp4", tmp_path / "out.mp4"
    ffmpeg(*PICTURES, "-vf", "setsar=4/3", *FAST, "-qp", "0", flat)
    ffmpeg("-display_rotation", degrees, "-i", flat, "-c", "copy", source)
    info = probe(source)
    turned = degrees % 180 == 90
    assert (info.width, info.height) == ((48, 64) if turned else (64, 48))
    assert info.sample_aspect == (Fraction(3, 4) if turned else Fraction(4, 3))
    want = np.rot90(read_all(flat)[0].pixels, degrees // 90).astype(int)
    got = read_all(source)[0].pixels.astype(int)
    assert np.abs(got - want).max() == 0
    enlarge(source, target)
    with av.open(str(target)) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (info.width, info.height, 0)
        assert container.streams.video[0].sample_aspect_ratio == info.sample_aspect


@pytest.mark.parametrize(("option", "axis"), [("-display_hflip", 1), ("-display_vflip", 0)])
def test_a_mirrored_video_is_mirrored_back(tmp_path, option, axis):
    flat, source = tmp_path / "flat.mp4", tmp_path / "in.mp4"
    ffmpeg(*PICTURES, *FAST, flat)
    ffmpeg(option, "-i", flat, "-c", "copy", source)
    assert np.array_equal(read_all(source)[0].pixels, np.flip(read_all(flat)[0].pixels, axis))


@pytest.mark.parametrize(
    ("suffix", "codec", "aspect"),
    [(".mp4", "libx264", "12/11"), (".mkv", "libx264", "12/11"), (".mov", "prores_ks", "12/11"), (".mkv", "ffv1", "3/2"),
     (".webm", "libvpx-vp9", "3/4"), (".mp4", "libvpx-vp9", "3/4")],
)  # fmt: skip
def test_the_shape_of_a_pixel_stays_or_follows_the_size(tmp_path, suffix, codec, aspect):
    """H.264 says it in its bitstream; the others leave it to the container."""
    source, target = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    ffmpeg(*PICTURES, "-vf", f"setsar={aspect}", *FAST, source)
    enlarge(source, target, scale=2, codec=codec, preset={"libx264": "ultrafast", "libvpx-vp9": "8"}.get(codec))
    with av.open(str(target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(aspect)
    assert len(decoded_times(target)) == 30
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_hdr10_keeps_tags_depth_and_mastering_display(tmp_path, codec):
    source, target = tmp_path / "in.mp4", tmp_path / f"{codec}.mp4"
    hdr = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:max-cll=1000,400:log-level=none:" + (
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    )
    ffmpeg(*PICTURES, "-t", "0.2", "-c:v", "libx265", "-x265-params", hdr, "-pix_fmt", "yuv420p10le", source)
    before = probe(source)
    assert before.mastering is not None
    assert before.mastering.max_luminance == 1000
    enlarge(source, target, codec=codec)
    after = probe(target)
    assert (after.mastering, after.light_level) == (before.mastering, before.light_level)
    assert after.color == before.color
    assert after.pix_fmt == "yuv420p10le"
    for place in (f"{tmp_path}/frames/", "-"):
        told, *more = check_target(before, place, width=256, height=192).notes
        assert "mastering display is left out" in told
        assert len(more) == (place == "-"), "y4m does not tell its colors either"


@pytest.mark.parametrize(
    ("source_format", "codec", "expected"),
    [
        ("yuv420p", "libx264", "yuv420p"),
        ("yuv422p", "libx264", "yuv422p"),
        ("yuv444p", "libx264", "yuv444p"),
        ("yuv420p10le", "libx264", "yuv420p10le"),
        ("yuv422p10le", "libx264", "yuv422p10le"),
        ("yuv422p10le", "prores_ks", "yuv422p10le"),
        ("yuv444p12le", "libx265", "yuv444p12le"),
        ("yuv420p12le", "libx264", "yuv420p10le"),
        ("gray", "libx264", "yuvj420p"),  # full range, which PyAV names so
        ("bgr0", "ffv1", "bgr0"),
    ],
)
def test_depth_and_chroma_are_kept_where_the_codec_can(tmp_path, source_format, codec, expected):
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    ffmpeg(*PICTURES, "-t", "0.1", "-c:v", "ffv1", "-pix_fmt", source_format, source)
    enlarge(source, target, codec=codec, preset="ultrafast" if codec.startswith("libx26") else None)
    after = probe(target)
    assert after.pix_fmt == expected
    # ... and the pictures are the same pictures
    assert abs(float(read_all(source)[0].pixels.mean()) / float(read_all(target)[0].pixels.mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("source_format", "codec", "said"),
    [
        ("yuv420p12le", "libx264", ["12 bits become 10"]),
        ("yuv444p", "libsvtav1", ["chroma of 4:4:4 becomes 4:2:0"]),
        ("yuv422p", "mpeg4", ["chroma of 4:2:2 becomes 4:2:0"]),
        ("yuv444p12le", "mpeg4", ["12 bits become 8", "chroma of 4:4:4 becomes 4:2:0"]),
        ("yuv411p", "libx264", []),
        ("yuv420p", "mpeg4", []),
        ("gray", "libx264", []),
        ("bgr0", "ffv1", []),
    ],
)
def test_depth_and_chroma_that_the_codec_cannot_keep_are_told(tmp_path, source_format, codec, said):
    source = tmp_path / "in.mkv"
    ffmpeg(*PICTURES, "-t", "0.1", "-c:v", "ffv1", "-pix_fmt", source_format, source)
    notes = check_target(probe(source), tmp_path / "out.mkv", width=256, height=192, codec=codec).notes
    assert [note.partition(";")[0] for note in notes] == [f"out.mkv: {words}" for words in said]
    assert all("--codec or --pix-fmt" in note for note in notes)


@pytest.mark.parametrize("target", ["frames/", "-"])
def test_what_pictures_alone_do_not_hold_is_told(tmp_path, rich_mkv, target):
    varying, steady = tmp_path / "varying.mkv", tmp_path / "steady.mkv"
    ffmpeg(*PICTURES, "-vf", "setpts=PTS+0.1*gt(N\\,5)/TB", "-fps_mode", "passthrough", *FAST, varying)
    ffmpeg(*PICTURES, *FAST, steady)
    place, name = (f"{tmp_path}/{target}", "frames") if target != "-" else ("-", "standard output")

    def notes(source, **options):
        return check_target(probe(source), place, width=256, height=192, **options).notes

    (told,) = notes(rich_mkv)
    assert re.match(
        rf"{name}: sound, subtitles, attachments and chapters are left out, .* pictures only; .*\.mkv", told
    )
    assert notes(rich_mkv, source_mux=False) == ()
    (told,) = notes(varying)
    assert told.startswith(f"{name}: the frames' times vary and are left out")
    assert notes(steady) == ()


@pytest.mark.parametrize("size", ["63x47", "64x47", "33x32"])
def test_odd_sizes_pass(tmp_path, size):
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    pictures = f"testsrc2=s=80x80:d=0.2,format=yuv444p,gblur=4,crop={size.replace('x', ':')}:exact=1"
    ffmpeg("-f", "lavfi", "-i", pictures, "-c:v", "ffv1", "-pix_fmt", "yuv420p", source)
    enlarge(source, target, codec="ffv1", preset=None)
    width, height = map(int, size.split("x"))
    want, got = read_all(source), read_all(target)
    assert [f.pixels.shape for f in got] == [(height, width, 3)] * 5
    errors = np.abs(want[0].pixels.astype(int) - got[0].pixels)
    assert errors.max() <= 6, f"largest error {errors.max()}, mean {errors.mean():.2f}"
    assert errors.mean() < 0.7


def test_interlaced_is_said_and_can_be_undone(tmp_path):
    source = tmp_path / "in.mp4"
    moving = "testsrc2=s=64x48:r=50:d=1,gblur=2,scroll=h=0.05"
    ffmpeg("-f", "lavfi", "-i", moving, "-vf", "interlace", "-flags", "+ilme+ildct", *FAST, source)
    info = probe(source)
    assert info.interlaced
    with open_reader(info) as woven, open_reader(info, deinterlace=True) as clean:
        combs = [[_comb(frame.pixels) for frame in reader] for reader in (woven, clean)]
    assert len(combs[0]) == len(combs[1]) == info.frame_count
    assert np.mean(combs[0]) > 1.5 * np.mean(combs[1])


def test_pictures_that_are_interlaced_only_later_are_told(tmp_path):
    source, parts = tmp_path / "in.m2v", (tmp_path / "a.m2v", tmp_path / "b.m2v")
    pictures, coding = "testsrc2=s=64x48:r=50:d=0.8,gblur=2", ["-c:v", "mpeg2video", "-bf", "0"]
    ffmpeg("-f", "lavfi", "-i", pictures, "-vf", "fps=25", "-frames:v", 10, *coding, parts[0])
    ffmpeg("-f", "lavfi", "-i", pictures, "-vf", "interlace", *coding, "-flags", "+ilme+ildct", parts[1])
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    for deinterlace in (False, True):
        with open_reader(probe(source), deinterlace=deinterlace) as reader:
            assert len(list(reader)) >= 29  # ffmpeg's decoder loses one where the sequence's header changes
        told = [line for line in reader.warnings if "20 frames are interlaced" in line and "--deinterlace" in line]
        assert len(told) == (not deinterlace)


def _comb(pixels):
    """How much the even lines differ from the mean of the odd lines about them: motion between two fields."""
    lines = pixels.astype(float)
    return np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean()
