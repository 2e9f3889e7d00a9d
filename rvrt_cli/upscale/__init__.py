# SPDX-License-Identifier: Apache-2.0
"""A video through the network: what is going to happen (`prepare`), and doing it (`run`).

- `noise_estimate` says how noisy a source is, for networks that denoise; `grain` measures its grain and draws it again.
- `job` checks source, target, weights and memory, and plans windows and tiles.
- `scene_count` finds out how many ranks a video can occupy, `job_notes` says what the user should know, and
  `time_estimate` how long it may take.
- `resume` finds out whether an earlier run left something that this one can resume; `workdir` is the folder beside the
  target where finished segments are kept until the target is complete.
- `exported` finds, or makes, the model of `--runtime onnx`.
- `compute` is the way of a frame: reader, engine, network, writer, segment by segment; `progress` says how far it is, and
  an `interruption` lets it finish the present window.
- `finish` is what becomes of a frame between network and encoder: its size, `--strength` and `--grain`.
- `run` computes what is missing, assembles the target and publishes it.
- `queue_items` finds the sources and targets of a queue, `job_queue` does its jobs one after the other, `finished_files` is its
  record of what is done, and `queue_clock` says how long the rest may take.
- `frames` takes frames in memory the same way, without a job.
- `distribute` distributes the scenes of one video among several ranks; `upscale_rank` is one of them.
"""

from rvrt_cli.upscale.frames import upscale_frames
from rvrt_cli.upscale.interruption import Interruption
from rvrt_cli.upscale.job import Job, load_network, prepare
from rvrt_cli.upscale.progress import Progress
from rvrt_cli.upscale.run import restore_video, run, upscale_video

__all__ = [
    "Interruption",
    "Job",
    "Progress",
    "load_network",
    "prepare",
    "restore_video",
    "run",
    "upscale_frames",
    "upscale_video",
]
