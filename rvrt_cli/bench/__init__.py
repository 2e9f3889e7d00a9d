# SPDX-License-Identifier: Apache-2.0
"""Quality, speed and memory of a network, measured so that the figures cannot be misread.

- `bench_options` says what is measured; `report` documents the keys of the result.
- Speed: `speed` times a call between device synchronizations, `stages` finds out where that time goes, `machine` describes
  what it ran on and how much memory it took. `matrix_product` times the yardstick (with `numpy_product` in a process of its
  own). `kernel_speed` (with `kernel_cases` and `kernel_cost`), `training_speed` and `pipeline` (the whole of `rvrt upscale`)
  time other things; `sweep` repeats the call at other sizes and `sweep_plot` draws how time and memory grow. `isolated`
  runs a measurement in a process of its own.
- Quality: `datasets` reads the usual test sets as people unpack them, `quality` scores a network on them (`vmaf` with
  ffmpeg), `resume_log` keeps the scores of an interrupted run.
- `published_figures`: what others have published, marked as such, for comparison.
"""
