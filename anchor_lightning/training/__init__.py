"""What keeps a run safe: checkpoints, resuming, signals, launchers and loggers."""
