"""Options of trainings that take a second and say little."""

from __future__ import annotations

QUIET = [
    *("--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1"),
]
SMALL_BATCHES = ["--data.batch_size", "2", "--data.image_size", "64"]
