#!/usr/bin/env bash
# The small training of docs/results.md: BCCD, baseline and learned, from three initialisations, two seeds.
# Usage: benchmarks/bccd.sh DATA_ROOT OUTPUT_FOLDER; a run whose folder exists already is left alone.
set -euo pipefail
data=$1 out=$2
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} WANDB_MODE=offline
for seed in 0 1; do
  for init in kmeans uniform identical; do
    for arm in baseline learned; do
      folder=$out/$arm-$init-seed$seed
      [ -e "$folder" ] && continue
      overlays=(--config "init/$init.yaml")
      [ "$arm" = baseline ] && overlays+=(--config ablation/baseline.yaml)
      "${PYTHON:-python}" -m anchor_lightning fit --config small.yaml "${overlays[@]}" --data.root "$data" \
        --data.val_split test --trainer.val_check_interval 600 --seed_everything $seed \
        --trainer.default_root_dir "$folder" --trainer.enable_progress_bar false
    done
  done
done
