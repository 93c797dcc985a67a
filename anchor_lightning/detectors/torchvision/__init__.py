"""torchvision's Faster R-CNN, RetinaNet and SSD with anchors that learn."""
