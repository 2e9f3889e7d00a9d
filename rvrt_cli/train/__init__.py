# SPDX-License-Identifier: Apache-2.0
"""Training, as `rvrt train` runs it.

Before the first step, without MindSpore:
    train_options and recipes/ → setup (checks, lock) → validation_split (clips held out) → starting_weights

One step, in `loop`:
    data.batch_loader → learner (loss, gradients) → communicator (mean over ranks) → optimizer (Adam) → training_counters

`run_recorder` writes what a run leaves in its folder: training_log, training_curve, weights and checkpoints
(training_state). Several ranks: `multi_rank` starts them with msrun, each runs `train_rank`.
"""
