"""Where the paper's schedule takes the shapes on real boxes (no images)."""

from __future__ import annotations

import torch
from torch import Tensor

from anchor_lightning.anchors import best_iou, initial_shapes, mean_best_iou
from anchor_lightning.fitting import ShapesOnlyOptions, kmeans_shapes, learn_shapes

WARM_UP, AFTER = 1500, 2000


def test_three_initialisations_end_in_the_same_shapes(voc_boxes: Tensor) -> None:
    """Equally good to 1 %, at most 1 % below k-means, every side equal to 3 % as in Table 4; none is dead.

    Those of k-means have lost at most 2 % at the end of the warm-up. They need not come back to exactly the k-means
    value: the loss has its optimum at weighted means of logarithms. With seeds 0 and 3 identical shapes end in another
    arrangement of five, 1.3 % below k-means; with 1, 2 and 4 in the same (docs/evidence/2026-11.md).
    """
    starts = [kmeans_shapes(voc_boxes, 5), initial_shapes("uniform"), initial_shapes("identical")]
    kmeans, *others = (
        learn_shapes(voc_boxes, start, WARM_UP + AFTER, (416, 416), len(voc_boxes) / 16_551, seed=1)
        for start in starts
        if start is not None
    )
    best, warmed = (mean_best_iou(voc_boxes, kmeans[step]) for step in (0, WARM_UP))
    assert warmed >= 0.98 * best
    ends = [history[-1] for history in (kmeans, *others)]
    scores = [mean_best_iou(voc_boxes, end) for end in ends]
    assert len(scores) == 3 and min(scores) >= 0.99 * max(*scores, best)
    ordered = torch.stack([end[end.prod(1).argsort()] for end in ends])
    assert float((ordered.amax(0) / ordered.amin(0)).max()) <= 1.03, ordered.tolist()
    usage = best_iou(voc_boxes, ends[-1])[1].bincount(minlength=5) / len(voc_boxes)
    assert float(usage.min()) > 0.01, f"a shape is dead: {usage.tolist()}"


def test_shapes_find_the_modes_of_made_boxes_and_are_seeded() -> None:
    modes, start = torch.tensor([[30.0, 60.0], [120.0, 40.0]]), torch.tensor([[200.0, 200.0]] * 2)
    noise = torch.exp(0.1 * torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(0)))
    boxes = (noise * modes[:, None]).flatten(0, 1)
    options = ShapesOnlyOptions(warmup_steps=200, clustering_steps=200, learning_rate={0: 1e-2})
    history = learn_shapes(boxes, start, 600, (256, 256), 2.0, options)
    torch.testing.assert_close(history[0], start)
    torch.testing.assert_close(history[-1][history[-1][:, 0].argsort()], modes, rtol=0.05, atol=0)
    first, second, other = (learn_shapes(boxes, start, 20, (256, 256), 2.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
