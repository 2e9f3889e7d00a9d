# SPDX-License-Identifier: Apache-2.0
"""A comparison that one can see: one HTML page with synchronized excerpts, pixels and curves; and a preview of a job.

compare_options.py  what is compared
aligned_frames.py   frames of two or three videos that are shown at the same time, at one size
choose_excerpts.py  places worth looking at: different scenes, the sharpest, the busiest
layer_media.py      all versions of a frame, one below the other, as video, image and crops
curves.py           PSNR, SSIM, VMAF and flicker over time
page.html           the page; write_page.py fills it
compare_videos.py   all of it: `compare_videos`
side_by_side.py     a video with both halves
preview_options.py  what is previewed
preview_job.py      excerpts of a source, upscaled, and what the whole job would take
"""
