#!/usr/bin/env bash
# The baseline, the paper's settings and the defaults on a VOC devkit's 2012 split: train -> val, 1,500 steps.
# Usage: benchmarks/voc12.sh DEVKIT OUTPUT_FOLDER [SEED ...]; a run whose folder exists is somebody else's or done.
set -euo pipefail
data=$1 out=$2
shift 2
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(0 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} WANDB_MODE=offline
mkdir -p "$out"
for seed in "${seeds[@]}"; do
  for init in kmeans identical; do
    for arm in baseline paper geometric; do
      folder=$out/$arm-$init-seed$seed
      mkdir "$folder" 2>/dev/null || continue
      case $arm in
        baseline) options=(--config ablation/baseline.yaml) ;;
        paper) options=(--soft_assignment.start 2 --soft_assignment.schedule linear --model.bn_scale_init 1) ;;
        geometric) options=(--soft_assignment.start 2 --soft_assignment.schedule geometric --model.bn_scale_init 0.3) ;;
      esac
      "${PYTHON:-python}" -m anchor_lightning fit --config small.yaml --config "init/$init.yaml" --data.root "$data" \
        --data.years '[2012]' --trainer.max_steps 1500 --trainer.val_check_interval 1500 \
        --model.learning_rate '{0: 1.0e-4, 50: 1.0e-3, 1200: 1.0e-4}' "${options[@]}" --seed_everything "$seed" \
        --trainer.default_root_dir "$folder" --trainer.enable_progress_bar false >"$folder/log.txt" 2>&1
    done
  done
done
