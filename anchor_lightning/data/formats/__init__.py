"""Readers of annotation formats: Pascal VOC, COCO, YOLO and Brainwash."""
