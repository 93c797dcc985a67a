"""Options of trainings that take a second and say little."""

from __future__ import annotations

QUIET = [
    *("--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1"),
]
SMALL_BATCHES = ["--data.batch_size", "2", "--data.image_size", "64"]
SMALL = [
    *("--model.detector.width", "0.1", "--data.batch_size", "2", "--data.num_workers", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
    *("--trainer.num_sanity_val_steps", "0", "--model.detector.prior_images", "0"),
]
SYNTHETIC = [
    *("--config", "synthetic.yaml", *SMALL),
    *("--data.num_train", "6", "--data.num_val", "2", "--data.image_size", "64"),
]
