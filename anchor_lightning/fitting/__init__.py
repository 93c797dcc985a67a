"""Anchor shapes from boxes alone, without training a detector."""
