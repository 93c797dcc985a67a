"""What the YOLO detectors share."""
