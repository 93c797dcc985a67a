#!/usr/bin/env bash
# The small trainings of docs/results.md: BCCD, three initialisations, two seeds.
# Usage: benchmarks/bccd.sh DATA_ROOT OUTPUT_FOLDER [ARM ...]; a run whose folder exists already is left alone.
# Arms: baseline, learned (the paper's settings), geometric (T falls geometrically, the norm's scale starts at 0.3).
set -euo pipefail
data=$1 out=$2
shift 2
arms=("$@")
[ ${#arms[@]} -gt 0 ] || arms=(baseline learned geometric)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} WANDB_MODE=offline
for seed in 0 1; do
  for init in kmeans uniform identical; do
    for arm in "${arms[@]}"; do
      folder=$out/$arm-$init-seed$seed
      [ -e "$folder" ] && continue
      options=(--config "init/$init.yaml")
      [ "$arm" = baseline ] && options+=(--config ablation/baseline.yaml)
      case $arm in
        learned) options+=(--soft_assignment.start 2 --soft_assignment.schedule linear --model.bn_scale_init 1) ;;
        geometric) options+=(--soft_assignment.start 2 --soft_assignment.schedule geometric --model.bn_scale_init 0.3) ;;
      esac
      "${PYTHON:-python}" -m anchor_lightning fit --config small.yaml "${options[@]}" --data.root "$data" \
        --data.val_split test --trainer.val_check_interval 600 --seed_everything $seed \
        --trainer.default_root_dir "$folder" --trainer.enable_progress_bar false
    done
  done
done
