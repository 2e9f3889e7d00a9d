"""Quality, speed and memory of a network, measured so that the figures cannot be misread.

- `options` says what is measured; `report` what the result's keys mean.
- `speed` times one call between device synchronizations; `stages` finds out where that time goes, in a pass of its own;
  `machine` tells what it ran on and how much memory it took; `apart` does it in another process: `sweep`, `pipeline`.
- `datasets` reads the field's test sets as people unpack them, `quality` scores a network on them, `vmaf` asks ffmpeg.
- `published` has the figures of others, to stand beside ours and to be told apart from them.
"""
