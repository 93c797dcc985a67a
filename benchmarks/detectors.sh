#!/usr/bin/env bash
# Small Faster R-CNN and RetinaNet from scratch, stock anchors against learned ones: docs/results.md.
# Usage: benchmarks/detectors.sh {bccd|voc12} DATA_ROOT OUTPUT_FOLDER [SEED ...]
# BCCD: train -> test; VOC 2012 devkit: train -> val. A run whose folder exists is somebody else's or done.
set -euo pipefail
set_name=$1 data=$2 out=$3
shift 3
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(0 1 2)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} WANDB_MODE=offline
mkdir -p "$out"
case $set_name in
  bccd) split=(--data.val_split test) ;;
  voc12) split=(--data.years '[2012]') ;;
  *) echo "$0: unknown set $set_name" >&2; exit 2 ;;
esac
for seed in "${seeds[@]}"; do
  for detector in retinanet_small_fpn faster_rcnn_small_fpn; do
    steps=$([ $detector = retinanet_small_fpn ] && echo 800 || echo 500)
    for arm in baseline learned; do
      folder=$out/$set_name-$detector-$arm-seed$seed
      mkdir "$folder" 2>/dev/null || continue
      options=(--config small.yaml --config "detector/$detector.yaml")
      [ $arm = baseline ] && options+=(--config ablation/baseline.yaml)
      "${PYTHON:-python}" -m anchor_lightning fit "${options[@]}" --data.root "$data" "${split[@]}" \
        --trainer.max_steps "$steps" --trainer.val_check_interval "$steps" --seed_everything "$seed" \
        --model.learning_rate "{0: 1.0e-3, 50: 1.0e-2, $((steps * 3 / 4)): 1.0e-3}" --model.anchors.lr_mult 1 \
        --trainer.default_root_dir "$folder" --trainer.enable_progress_bar false >"$folder/log.txt" 2>&1
    done
  done
done
