"""Figures of anchor shapes and pictures of detections."""
