from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from anchor_lightning.data.scenes import CANVAS, CELL, CLASS_NAMES, MAX_COVERED, draw_scene, paint


def test_a_scene_is_a_pure_function_of_seed_split_and_index() -> None:
    image = paint(draw_scene(3, "train", 5))
    assert image.shape == (CANVAS, CANVAS, 3) and image.dtype == np.uint8
    # Other scenes in between must not matter.
    paint(draw_scene(3, "val", 5))
    np.testing.assert_array_equal(image, paint(draw_scene(3, "train", 5)))
    for other in (draw_scene(3, "val", 5), draw_scene(3, "train", 6), draw_scene(4, "train", 5)):
        assert (image != paint(other)).mean() > 0.5


def test_boxes_are_tight_around_the_drawn_pixels() -> None:
    """The mask of an object is what differs from the same image without it; nothing may leave the box."""
    checked, slack = 0, []
    for index in range(25):
        scene = draw_scene(1, "train", index)
        empty = paint(replace(scene, objects=()), foreground=False)
        for item in scene.objects:
            alone = paint(replace(scene, objects=(item,)), foreground=False)
            rows, columns = (alone != empty).any(-1).nonzero()
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            box = np.array([item.x, item.y, item.x + item.w, item.y + item.h])
            inside = (drawn - box) * (1, 1, -1, -1)
            assert (inside >= 0).all()
            slack.append(inside)
            checked += 1
    assert checked > 50
    # An edge pixel may by chance have the colour of the ground.
    assert np.mean(np.array(slack) == 0) > 0.98 and np.max(slack) <= 2


def test_centres_have_cells_of_their_own_and_nothing_is_mostly_covered() -> None:
    num_overlaps = 0
    for index in range(400):
        boxes = draw_scene(0, "train", index).ground_truth(1).boxes_xyxy.astype(int)
        cells = {tuple(cell) for cell in (boxes[:, :2] + boxes[:, 2:]) // 2 // CELL}
        assert len(cells) == len(boxes)
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            owner = np.zeros((CANVAS, CANVAS), dtype=bool)
            for a0, b0, a1, b1 in boxes[i + 1 :]:
                owner[b0:b1, a0:a1] = True
            covered = owner[y0:y1, x0:x1].mean()
            num_overlaps += covered > 0.05
            assert covered <= MAX_COVERED + 1e-9
    assert num_overlaps > 50  # occlusion does occur


def test_classes_look_different() -> None:
    """Same box and style, four labels: each pair of pictures differs clearly."""
    scene = draw_scene(0, "train", 0)
    item = replace(scene.objects[0], x=40, y=40, w=72, h=92)
    images = [
        paint(replace(scene, objects=(replace(item, label=label),)), foreground=False)[40:132, 40:112].astype(float)
        for label in range(len(CLASS_NAMES))
    ]
    for i in range(4):
        for j in range(i):
            assert np.abs(images[i] - images[j]).mean() > 15


def test_drawing_is_fast() -> None:
    scenes = [draw_scene(0, "train", index) for index in range(60)]
    times = []
    for _ in range(3):
        start = time.process_time()
        for scene in scenes:
            paint(scene)
        times.append((time.process_time() - start) / len(scenes))
    assert min(times) < 0.006  # 2 ms on an idle core; a shared one gets twice that and more
