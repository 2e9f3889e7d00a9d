# SPDX-License-Identifier: Apache-2.0
"""`rvrt check` names each failure of the kind that users of upscaling tools report, made here with ffmpeg."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import refusal, rvrt
from helpers.video_clips import ffmpeg, make_clip

from rvrt_cli.check import seam_findings
from rvrt_cli.check.check_options import CheckOptions
from rvrt_cli.check.run_check import check_target_against_source
from rvrt_cli.check.verdict import CheckReport

# Bursts of a tone, irregular so that there is only one place where they fit
SOUND = ["-f", "lavfi", "-i", "aevalsrc='0.5*sin(2764*t)*gt(sin(11*t*t),0.4)':s=48000:d=2"]
# Colors that turn, and a small pattern that moves across them
PICTURE = [
    "-f",
    "lavfi",
    "-i",
    "gradients=s=96x64:r=25:d=2:speed=0.03:c0=0x203870:c1=0xb07848:c2=0x508858:nb_colors=3:seed=7[a];"
    "testsrc2=s=24x16:r=25:d=2,eq=contrast=0.6:saturation=0.5[b];[a][b]overlay=x='mod(3*n,72)':y='20+8*sin(n/5)'",
]
X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "12"]
TAGS = "setparams=colorspace=smpte170m:color_primaries=smpte170m:color_trc=smpte170m:range=tv"
BLURRED = "gblur=sigma=2:enable='gte(mod(n,14),7)'"
SUBTITLES = "1\n00:00:00,500 --> 00:00:01,000\nfirst\n\n2\n00:00:01,200 --> 00:00:01,500\nsecond\n"


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = [*PICTURE, *SOUND, "-vf", TAGS, *X264, "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest"]
    return make_clip(*recipe, tmp_path_factory.mktemp("source") / "source.mp4")


@pytest.fixture
def source(encoded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(encoded, tmp_path / encoded.name))


def target_of(source: Path, *arguments: object, filters: str = "null", **options: str) -> Path:
    """The source enlarged four times with ffmpeg's bicubic, and what `arguments` and `filters` do to it."""
    path = source.with_name(f"target{options.get('suffix', '.mp4')}")
    chain = f"scale=4*iw:4*ih:flags=bicubic,{filters}"
    ffmpeg("-i", source, "-map", "0", "-vf", chain, *X264, "-c:a", "copy", *arguments, path)
    return path


def check(source: Path, target: Path, **options: Any) -> CheckReport:
    return check_target_against_source(source, target, CheckOptions(**options))


def failures(report: CheckReport) -> dict[str, str]:
    return {finding.name: finding.text for finding in report.failures}


def finding(report: CheckReport, name: str) -> Any:
    return next(item for item in report.findings if item.name == name)


@pytest.mark.slow
def test_a_faithful_target_passes(source: Path) -> None:
    report = check(source, target_of(source))
    assert not report.failures
    assert {item.name: item.status for item in report.findings} == {
        **dict.fromkeys(("frames", "timestamps", "content", "frozen", "black", "jumps"), "ok"),
        **dict.fromkeys(("aspect", "rotation", "bit depth", "hdr", "color", "color tags", "true depth"), "ok"),
        **dict.fromkeys(("tile borders", "window joins", "stream 1", "stream 1 sync"), "ok"),
    }
    assert finding(report, "frames").values["target"] == 50
    assert "bit-exact" in finding(report, "stream 1").text


# What users report, as (filters, other arguments, name of the finding, what its text says)
FAULTS = {
    "last frames dropped": ("trim=end_frame=47", [], "frames", "the last 3 frames of the source missing"),
    "first frames dropped": (
        "trim=start_frame=2,setpts=PTS-STARTPTS",
        [],
        "content",
        "show what the source shows 2 frames later",
    ),
    "frames dropped inside": (
        "select='not(between(n,20,22))'",
        ["-fps_mode", "passthrough"],
        "frames",
        "3 frames of the source missing (20-22",
    ),
    "half the frame rate": ("fps=12.5", [], "frames", "25 of 50"),
    "first frames dropped, the others in time": (
        "select='gte(n,3)'",
        ["-fps_mode", "passthrough"],
        "frames",
        "47 of 50; the first 3 frames of the source missing",
    ),
    "twice the frame rate": (
        "fps=50",
        [],
        "frames",
        "100 of 50; 50 without a counterpart in the source (",
    ),
    "another video": ("negate", [], "content", "the frames do not show what the source shows (median difference"),
    "retagged bt709": (
        "setparams=colorspace=bt709",
        [],
        "color",
        "the pixels are BT.601, but tagged BT.709",
    ),
    "full range called limited": (
        "scale=in_range=tv:out_range=pc,setparams=range=tv",
        [],
        "color",
        "the pixels are of full range, but tagged limited range",
    ),
    "mean color shift": ("lutyuv=y=val+4", [], "color", "mean color is shifted: red +4"),
    "wrong aspect": ("setsar=4/3", [], "aspect", "displayed as 2.000:1, the source as 1.500:1"),
    "turned": ("transpose=clock", [], "rotation", "rotated by 90° to the right"),
    "mirrored": ("hflip", [], "rotation", "displayed mirrored"),
    "frozen": ("loop=loop=3:size=1:start=20,trim=end_frame=50", [], "content", "earlier"),
    "frozen in place": (
        "split[a][b];[a][b]freezeframes=first=20:last=24:replace=19",
        [],
        "frozen",
        "frames 20-24 repeat",
    ),
    "black": ("lutyuv=y=16:u=128:v=128:enable='between(n,30,32)'", [], "black", "frames 30-32 are black"),
    "damaged": ("negate=enable='between(n,30,31)'", [], "content", "frames 30-31 differ"),
    "brightness pulse": (
        "eq=brightness='0.02*gte(mod(n,20),10)':eval=frame",
        [],
        "jumps",
        "suddenly at frames 10, 20, 30, 40, every 10 frames as at joins of windows",
    ),
    "tile border": (
        "split[a][b];[b]crop=iw-208:ih:208:0,lutyuv=y=val+3[c];[a][c]overlay=208:0",
        [],
        "tile borders",
        "x = 208 px",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(name: str, source: Path) -> None:
    filters, arguments, failing, text = FAULTS[name]
    found = failures(check(source, target_of(source, *arguments, filters=filters)))
    assert failing in found, found
    assert text in found[failing]


@pytest.mark.slow
def test_window_joins(tmp_path: Path) -> None:
    detailed = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2,format=yuv420p"]
    source = make_clip(*detailed, *X264, tmp_path / "source.mp4")
    found = failures(check(source, target_of(source, filters=BLURRED)))
    expected = "details change suddenly at frames 7, 14, 21, 28, 35 and 2 more places, every 7 frames"
    assert found["window joins"] == expected


@pytest.mark.slow
def test_changes_at_keyframes_are_the_encoders(tmp_path: Path) -> None:
    detailed = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2,format=yuv420p"]
    source = make_clip(*detailed, *X264, tmp_path / "source.mp4")
    keys = ["-force_key_frames", "expr:not(mod(n,7))", "-sc_threshold", "0"]
    joins = finding(check(source, target_of(source, *keys, filters=BLURRED)), "window joins")
    assert (joins.status, joins.text) == (
        "note",
        "details change at 7 keyframes of the encoder; a higher quality hides them",
    )
    assert joins.values["at_keyframes"] == pytest.approx([0.28 * number for number in range(1, 8)])


@pytest.mark.slow
def test_a_long_video_is_looked_at_in_excerpts(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of eight frames here."""
    monkeypatch.setattr(seam_findings, "_EXCERPT_FRAMES", 8)
    monkeypatch.setattr(seam_findings, "_MAX_EXCERPTS", 3)
    filters, arguments, failing, text = FAULTS["tile border"]
    report = check(source, target_of(source, *arguments, filters=filters))
    assert text in failures(report)[failing]
    assert finding(report, failing).values["frames"] == 24


@pytest.mark.slow
def test_a_cut_of_the_source_is_no_sudden_change(tmp_path: Path) -> None:
    halves = "testsrc2=s=96x64:r=25:d=1[a];smptebars=s=96x64:r=25:d=1[b];[a][b]concat,format=yuv420p"
    source = make_clip("-f", "lavfi", "-i", halves, *X264, tmp_path / "source.mp4")
    report = check(source, target_of(source))
    assert {name: finding(report, name).status for name in ("jumps", "window joins", "content")} == {
        **dict.fromkeys(("jumps", "window joins", "content"), "ok")
    }


@pytest.mark.parametrize(
    "picture", ["nullsrc=s=48x32:r=25:d=0.4,geq=random(1)*255:128:128", "testsrc2=s=8x8:r=25:d=0.4"]
)
def test_borders_are_not_judged_without_smooth_places(tmp_path: Path, picture: str) -> None:
    source = make_clip("-f", "lavfi", "-i", f"{picture},format=yuv444p", "-c:v", "ffv1", tmp_path / "source.mkv")
    borders = finding(check(source, target_of(source, suffix=".mkv")), "tile borders")
    assert (borders.status, borders.text) == ("skipped", "the source has no smooth places to judge by")


def test_single_frames_are_compared(tmp_path: Path) -> None:
    source = make_clip(*PICTURE, "-frames:v", "1", "-vf", TAGS, *X264, "-pix_fmt", "yuv420p", tmp_path / "source.mkv")
    report = check(source, target_of(source, suffix=".mkv"))
    assert not report.failures
    assert finding(report, "timestamps").text == "fewer than two frames of both videos coincide"
    assert {item.name for item in report.findings if item.status == "skipped"} == {
        "timestamps",
        "jumps",
        "window joins",
    }


def test_a_video_that_is_shifted_as_a_whole_is_noted(source: Path) -> None:
    late = source.with_name("late.mkv")
    ffmpeg("-itsoffset", "0.48", "-i", source, "-i", source, "-map", "0:v", "-map", "1:a", "-c", "copy", late)
    for before, after, text in ((source, late, "0.480 s later"), (late, source, "0.480 s earlier")):
        report = check(before, after)
        shift = finding(report, "timestamps")
        assert shift.status == "note"
        assert shift.text.endswith(f"but all {text} than in the source")
        assert finding(report, "frames").status == finding(report, "content").status == "ok"
        assert set(failures(report)) == {"stream 1 sync"}


@pytest.mark.slow
def test_a_source_of_odd_size(tmp_path: Path) -> None:
    """Whose last row and column have half a chroma sample: zimg scales no such frame."""
    picture = [word.replace("s=96x64", "s=95x63") for word in PICTURE]
    source = make_clip(*picture, "-vf", TAGS, "-pix_fmt", "yuv420p", "-c:v", "ffv1", tmp_path / "source.mkv")
    assert not check(source, target_of(source)).failures


@pytest.mark.slow
def test_jerky_motion_is_no_window_join(tmp_path: Path) -> None:
    """Details change where the source moves: here at every third frame."""
    jerky = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2,fps=25/3,fps=25,format=yuv420p"]
    source = make_clip(*jerky, *X264, tmp_path / "source.mp4")
    report = check(source, target_of(source))
    assert finding(report, "window joins").status == "ok", finding(report, "window joins")


@pytest.mark.slow
def test_untagged_bt601_is_explained(tmp_path: Path) -> None:
    picture = [word.replace("s=96x64", "s=112x160") for word in PICTURE]
    source = make_clip(*picture, "-vf", TAGS, *X264, "-pix_fmt", "yuv420p", tmp_path / "source.mp4")
    unknown = "setparams=colorspace=unknown:color_primaries=unknown:color_trc=unknown"
    report = check(source, target_of(source, filters=unknown))
    assert set(failures(report)) == {"color"}
    expected = "the pixels are BT.601, but untagged, which players read as BT.709"
    assert expected in failures(report)["color"]
    assert finding(report, "color").values["reading"] == ["smpte170m", "tv"]
    assert finding(report, "color tags").status == "note"


@pytest.mark.parametrize("lossless", [True, False], ids=["lossless", "lossy"])
@pytest.mark.parametrize("deep", [True, False], ids=["10 bits", "8 bits called 10"])
def test_8_bit_frames_called_10_bit(tmp_path: Path, deep: bool, lossless: bool) -> None:
    ramp = "nullsrc=s=96x64:r=25:d=0.6,format=yuv420p10le,geq=lum='200+X*0.3+Y*0.2+N':cb='512+X':cr='512-Y'"
    crf = "-x265-params", "lossless=1:log-level=error" if lossless else "crf=14:log-level=error"
    x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", *crf]
    source = make_clip("-f", "lavfi", "-i", ramp, *x265[:6], "-x265-params", "lossless=1", tmp_path / "source.mkv")
    reduced = "null" if deep else "scale=sws_dither=none,format=yuv420p,format=yuv420p10le"
    target = tmp_path / "target.mkv"
    ffmpeg("-i", source, "-vf", f"scale=4*iw:4*ih:flags=bilinear+accurate_rnd,{reduced}", *x265, target)
    found = finding(check(source, target), "true depth")
    assert found.status == ("ok" if deep else "fail"), found
    if not deep:
        assert "stored with 10 bits, but they hold 8-bit levels" in found.text


@pytest.mark.slow
def test_8_bits_out_of_10(tmp_path: Path) -> None:
    deep = ["-pix_fmt", "yuv420p10le"]
    source = make_clip(*PICTURE, *X264, *deep, tmp_path / "source.mkv")
    found = failures(check(source, target_of(source, "-pix_fmt", "yuv420p")))
    assert found == {"bit depth": "10 bits have become 8"}


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["copy", "aac"], ids=["copied", "re-encoded"])
@pytest.mark.parametrize("delay", [0.15, -0.1])
def test_audio_offset(source: Path, codec: str, delay: float) -> None:
    late = source.with_name("target.mp4")
    inputs = ["-i", source, "-itsoffset", str(delay), "-i", source]
    chain = ["-vf", "scale=4*iw:4*ih:flags=bicubic", *X264]
    ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", *chain, "-c:a", codec, "-b:a", "192k", late)
    report = check(source, late)
    assert set(failures(report)) == {"stream 1 sync"}
    values = finding(report, "stream 1 sync").values
    assert values["by"] == ("timestamps" if codec == "copy" else "sound")
    assert values["start"] == pytest.approx(delay, abs=0.012)
    assert values["end"] == pytest.approx(delay, abs=0.012)


@pytest.mark.slow
def test_reencoded_audio_in_place_is_only_noted(source: Path) -> None:
    report = check(source, target_of(source, "-c:a", "libopus", "-ar", "48000"))
    assert not report.failures
    assert "re-encoded, aac to opus" in finding(report, "stream 1").text
    assert finding(report, "stream 1 sync").values["by"] == "sound"


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le"])
def test_offset_of_interleaved_samples(source: Path, codec: str) -> None:
    """PCM has the samples of both channels side by side, and unsigned where they have 8 bits."""
    plain, late = source.with_name("plain.mkv"), source.with_name("late.mkv")
    ffmpeg("-i", source, "-c:v", "copy", "-c:a", codec, "-ac", "2", plain)
    inputs = ["-i", plain, "-itsoffset", "0.15", "-i", plain, "-map", "0:v", "-map", "1:a"]
    ffmpeg(*inputs, "-c:v", "copy", "-c:a", codec, "-ar", "44100", late)
    values = finding(check(plain, late), "stream 1 sync").values
    assert (values["by"], values["start"], values["end"]) == ("sound", *[pytest.approx(0.15, abs=0.005)] * 2)


# Sound that is the same at many places, or at none: a tone, regular beeps, too little of it
FEATURELESS = {
    "tone": ("sine=f=440:d=1:r=48000", 1.0),
    "beeps": ("aevalsrc='0.5*sin(2764*t)*gt(sin(60*t),0)':s=48000:d=1", 1.0),
    "short": (SOUND[-1], 0.16),
}


@pytest.mark.parametrize("name", FEATURELESS)
def test_offset_of_sound_without_features(tmp_path: Path, name: str) -> None:
    """Where it begins is all that there is to go by."""
    sound, length = FEATURELESS[name]
    recipe = [*PICTURE, "-f", "lavfi", "-i", sound, "-t", length, *X264, "-pix_fmt", "yuv420p", "-c:a", "flac"]
    source = make_clip(*recipe, tmp_path / "source.mkv")
    for delay in (0.0, 0.1):
        inputs = ["-i", source, "-itsoffset", delay, "-i", source, "-map", "0:v", "-map", "1:a"]
        ffmpeg(*inputs, "-c:v", "copy", "-c:a", "pcm_s16le", tmp_path / "target.mkv")
        found = finding(check(source, tmp_path / "target.mkv"), "stream 1 sync")
        assert found.values["by"] == "timestamps"
        assert found.values["start"] == pytest.approx(delay, abs=0.005)
        assert found.status == ("fail" if delay else "ok")


@pytest.mark.slow
def test_sound_that_is_late_from_the_middle_on(tmp_path: Path) -> None:
    """A gap of 0.1 s after 21 s, beyond the 20 s that are compared at the start, and before those at the end."""
    burst = "0.5*sin(2764*t)*gt(sin(3*{t})+sin(4.7*{t})+sin(7.1*{t}),0.4)"
    picture = ["-f", "lavfi", "-i", "testsrc2=s=32x24:r=3.5:d=44", *X264, "-pix_fmt", "yuv420p"]
    late = "(t-0.1*gt(t,21))"
    source, target = (
        make_clip(
            *(*picture[:4], "-f", "lavfi", "-i", f"aevalsrc='{burst.format(t=clock)}':s=8000:d=44", *picture[4:]),
            *("-c:a", codec, tmp_path / f"{codec}.mkv"),
        )
        for clock, codec in (("t", "flac"), (late, "pcm_s16le"))
    )
    report = check(source, target)
    assert failures(report) == {
        "stream 1 sync": "audio is in place at the start and 100 ms late at the end, against the video"
    }
    assert finding(report, "frames").values["target"] == 154


@pytest.mark.slow
def test_the_sound_of_an_excerpt(source: Path) -> None:
    """Copied packets, and encoded anew."""
    chain = ["-ss", "0.4", "-t", "0.8", "-vf", "scale=4*iw:4*ih:flags=bicubic", *X264]
    plain, part = source.with_name("plain.mkv"), source.with_name("part.mkv")
    ffmpeg("-i", source, "-c:v", "copy", "-c:a", "pcm_s16le", plain)
    for codec, status, by in (("copy", "ok", "timestamps"), ("flac", "note", "sound")):
        ffmpeg("-i", plain, *chain, "-c:a", codec, part)
        report = check(plain, part, start=0.4, duration=0.8)
        assert not report.failures
        assert (finding(report, "stream 1").status, finding(report, "stream 1 sync").values["by"]) == (status, by)
    ffmpeg("-i", plain, *chain, "-c:a", "copy", part)
    assert "packets of this part" in finding(check(plain, part, start=0.4, duration=0.8), "stream 1").text


@pytest.mark.slow
def test_packets_that_other_containers_change(source: Path) -> None:
    """AAC has a header of its own in MPEG-TS."""
    stream = source.with_name("target.ts")
    ffmpeg("-i", source, "-map", "0", "-c", "copy", stream)
    for before, after in ((source, stream), (stream, source)):
        assert "bit-exact" in finding(check(before, after), "stream 1").text


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (["-bsf:a", "noise=drop=lt(n\\,2)"], "ok", "bit-exact but for 2 packets at its ends"),
        (["-bsf:a", "noise=drop=lt(n\\,1):amount=eq(n\\,1)"], "ok", "packets at its ends, 1 changed"),
        (["-bsf:a", "noise=drop=lt(n\\,3)"], "fail", "packets missing: 3 at the start"),
        (["-af", "atrim=end=1.5"], "fail", "re-encoded as aac, and 0.5"),
        (["-af", "atrim=end=0"], "fail", "re-encoded as aac, and 2.0"),
    ],
)
def test_damaged_sound(source: Path, change: list[str], status: str, text: str) -> None:
    """It begins with silence, whose packets are all the same."""
    target = source.with_name("target.mkv")
    codec = "copy" if change[0] == "-bsf:a" else "aac"
    ffmpeg("-i", source, "-c:v", "copy", "-c:a", codec, *change, target)
    report = check(source, target)
    found = finding(report, "stream 1")
    assert (found.status, text in found.text) == (status, True), found
    sync = finding(report, "stream 1 sync")
    assert sync.status != "fail", sync
    assert (sync.text == "its packets have no timestamps") == (change[1] == "atrim=end=0")


@pytest.mark.slow
def test_lost_chapters_subtitles_and_attachments(source: Path) -> None:
    folder = source.parent
    (folder / "lines.srt").write_text(SUBTITLES)
    (folder / "fewer.srt").write_text(SUBTITLES.split("\n\n")[0])
    chapters = "".join(f"[CHAPTER]\nTIMEBASE=1/1\nSTART={n}\nEND={n + 1}\ntitle={n}\n" for n in range(2))
    (folder / "chapters").write_text(f";FFMETADATA1\n{chapters}")
    (folder / "font.ttf").write_bytes(b"a font")
    (folder / "other.ttf").write_bytes(b"another font")
    attach = ["-metadata:s:t", "mimetype=font/ttf", "-attach"]
    whole, poor = folder / "whole.mkv", folder / "poor.mkv"
    inputs = ["-i", source, "-i", folder / "lines.srt", "-i", folder / "chapters", "-map", "0", "-map", "1"]
    ffmpeg(*inputs, "-map_chapters", "2", "-c", "copy", *attach, folder / "font.ttf", whole)
    fewer = ["-i", source, "-i", folder / "fewer.srt", "-map", "0", "-map", "1"]
    ffmpeg(*fewer, "-c", "copy", "-c:s", "ass", *attach, folder / "other.ttf", poor)
    report = check(whole, poor)
    assert failures(report) == {
        "chapters": "0 of 2",
        "stream 2": "subtitle subrip: re-encoded, subrip to ass: 1 of 2 subtitles",
    }
    assert finding(report, "stream 3").status == "note"
    assert finding(report, "stream 3").text.endswith("changed")
    assert finding(check(whole, whole), "chapters").text == "2"
    extra = finding(check(source, whole), "extra streams")
    assert (extra.status, extra.text) == ("note", "1 subtitle, 1 attachment that the source does not have")


def test_a_lost_sample_aspect_ratio(tmp_path: Path) -> None:
    wide = make_clip(*PICTURE, "-frames:v", "5", "-vf", f"{TAGS},setsar=4/3", *X264, tmp_path / "source.mkv")
    found = failures(check(wide, target_of(wide, filters="setsar=1", suffix=".mkv")))["aspect"]
    assert found.endswith("; the sample aspect ratio is lost")


def test_bt601_by_default_that_becomes_bt709(tmp_path: Path) -> None:
    """Without tags, players go by the height."""
    quick = ["-f", "lavfi", "-i", "testsrc2=s=64x160:r=25:d=0.2"]
    source = make_clip(*quick, *X264, "-pix_fmt", "yuv420p", tmp_path / "source.mkv")
    tags = finding(check(source, target_of(source, suffix=".mkv")), "color tags")
    assert tags.status == "note"
    assert tags.text == "untagged: players read the source as smpte170m, and a target of this size as bt709"


DEEP = "nullsrc=s=96x64:r=25:d=0.2,format=yuv420p12le,geq=lum='800+X*1.2+Y*0.8+N':cb='2048+X':cr='2048-Y'"
FLAT = "color=gray:s=96x64:r=25:d=0.2,format=gray10le,geq=lum=512"


@pytest.mark.parametrize(
    ("picture", "before", "after", "chain"),
    [
        (DEEP, "yuv420p12le", "yuv420p10le", "null"),
        (DEEP, "yuv420p10le", "yuv420p10le", "scale=72:48"),
        (DEEP, "yuv420p10le", "yuv420p10le", "crop=20:12,scale=40:24"),
        (FLAT, "gray10le", "gray10le", "geq=lum=512+mod(X\\,3)"),
    ],
    ids=["fewer bits", "another scale", "few px", "flat source"],
)
def test_depth_where_the_source_is_no_help(tmp_path: Path, picture: str, before: str, after: str, chain: str) -> None:
    """The levels of the target alone decide."""
    source, target = tmp_path / "source.mkv", tmp_path / "target.mkv"
    make_clip("-f", "lavfi", "-i", picture, "-c:v", "ffv1", "-pix_fmt", before, source)
    ffmpeg("-i", source, "-vf", chain, "-c:v", "ffv1", "-pix_fmt", after, target)
    report = check(source, target)
    depth = finding(report, "true depth")
    assert (depth.status, depth.text, depth.values["sawtooth"]) == ("ok", "10 bits are used", None)
    assert finding(report, "bit depth").status == ("note" if before == "yuv420p12le" else "ok")


def test_depth_of_images_is_not_looked_at(tmp_path: Path) -> None:
    source = make_clip("-f", "lavfi", "-i", DEEP, "-c:v", "ffv1", "-pix_fmt", "yuv420p12le", tmp_path / "source.mkv")
    (tmp_path / "target").mkdir()
    ffmpeg("-i", source, "-pix_fmt", "rgb48be", tmp_path / "target" / "%03d.png")
    depth = finding(check(source, tmp_path / "target"), "true depth")
    assert (depth.status, depth.text) == ("skipped", "the levels of this pixel format are not looked at")


@pytest.mark.slow
def test_lost_and_cut_streams(source: Path) -> None:
    whole = source.with_name("whole.mkv")
    (source.parent / "lines.srt").write_text(SUBTITLES)
    inputs = ["-i", source, "-i", source.parent / "lines.srt", "-map", "0:v", "-map", "0:a", "-map", "0:a", "-map", "1"]
    ffmpeg(*inputs, "-c", "copy", "-c:s", "srt", whole)
    lost = source.with_name("lost.mkv")
    chain = ["-vf", "scale=4*iw:4*ih:flags=bicubic", *X264]
    ffmpeg("-i", whole, "-map", "0:v", "-map", "0:a:0", *chain, "-c:a", "copy", lost)
    assert failures(check(whole, lost)) == {
        "stream 2": "audio aac: missing",
        "stream 3": "subtitle subrip: missing",
    }
    cut = source.with_name("cut.mkv")
    shorter = ["-t", "1.2", "-i", source]
    ffmpeg(
        "-i", whole, *shorter, "-map", "0:v", "-map", "1:a", "-map", "0:a:1", "-map", "0:s", *chain, "-c:a", "copy", cut
    )
    found = failures(check(whole, cut))
    assert any("packets missing" in text and "at the end" in text for text in found.values()), found


@pytest.mark.slow
def test_constant_rate_from_a_variable_one(tmp_path: Path) -> None:
    vary = [
        "-vf",
        "settb=1/25000,setpts='(N+0.2*mod(N,3))*1000'",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/25000",
    ]
    source = make_clip(*PICTURE, *vary, *X264, tmp_path / "source.mp4")
    constant = target_of(source, filters="setpts=N/25/TB,fps=25")
    found = failures(check(source, constant))
    assert "the variable frame rate has become constant" in found["timestamps"]


def test_lost_rotation(source: Path) -> None:
    turned = source.with_name("turned.mp4")
    ffmpeg("-display_rotation", "90", "-i", source, "-map", "0", "-c", "copy", turned)
    lost = source.with_name("lost.mp4")
    ffmpeg(
        "-noautorotate", "-i", turned, "-vf", "scale=4*iw:4*ih,sidedata=delete:type=DISPLAYMATRIX", *X264, "-an", lost
    )
    found = failures(check(turned, lost))
    assert "the source's rotation is lost" in found["rotation"]


@pytest.mark.slow
def test_lost_hdr(tmp_path: Path) -> None:
    tags = "setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv"
    display = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
    x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le"]
    source = make_clip(*PICTURE, "-vf", tags, *x265, "-x265-params", f"log-level=error:{display}", tmp_path / "hdr.mkv")
    kept, lost = tmp_path / "kept.mkv", tmp_path / "lost.mkv"
    enlarge = "scale=4*iw:4*ih:flags=bicubic"
    ffmpeg("-i", source, "-vf", enlarge, *x265, "-x265-params", f"log-level=error:{display}", kept)
    bare = "setparams=color_trc=unknown:color_primaries=unknown,sidedata=delete"
    ffmpeg("-i", source, "-vf", f"{enlarge},{bare}", *x265, "-x265-params", "log-level=error", lost)
    assert finding(check(source, kept), "hdr").status == "ok"
    found = failures(check(source, lost))
    assert found["hdr"] == "mastering display missing; content light level missing"
    assert "transfer smpte2084 is now untagged" in found["color tags"]


@pytest.mark.slow
def test_excerpt(source: Path) -> None:
    part = source.with_name("part.mp4")
    ffmpeg("-i", source, "-ss", "0.8", "-t", "0.8", "-vf", "scale=4*iw:4*ih:flags=bicubic", *X264, "-an", part)
    assert "frames" in failures(check(source, part))
    found = failures(check(source, part, start=0.8, duration=0.8))
    assert found == {"stream 1": "audio aac: missing"}


@pytest.mark.slow
def test_images(source: Path) -> None:
    before, after = source.parent / "before", source.parent / "after"
    for folder, chain in ((before, "null"), (after, "scale=4*iw:4*ih:flags=bicubic")):
        folder.mkdir()
        ffmpeg("-i", source, "-vf", chain, "-frames:v", "12", folder / "%03d.png")
    assert not check(before, after).failures
    (after / "012.png").unlink()
    assert failures(check(before, after)) == {"frames": "11 of 12; the last 1 frame of the source missing"}


@pytest.mark.slow
def test_command(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    target = target_of(source, filters="trim=end_frame=47")
    assert rvrt(monkeypatch, "check", source, target) == 1
    shown = capsys.readouterr().out
    assert "fail" in shown
    assert "the last 3 frames of the source missing" in shown
    assert shown.rstrip().endswith("1 failure: see above")
    assert rvrt(monkeypatch, "check", source, target, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in report["findings"] if item["status"] == "fail"] == ["frames"]
    assert not report["passed"]
    assert rvrt(monkeypatch, "check", source, source) == 0


def test_times_are_those_of_upscale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    missing = ["check", "missing.mp4", "missing.mp4"]
    assert rvrt(monkeypatch, *missing, "--start", "0:99") == 2
    assert "'0:99' is not a time" in capsys.readouterr().err
    assert "no such file" in refusal(monkeypatch, capsys, *missing, "--start", "0:42", "--duration", "0:01.5")


def test_standard_input_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert "write the stream to a file" in refusal(monkeypatch, capsys, "check", "-", source)
