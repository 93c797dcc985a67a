#!/usr/bin/env bash
# Which warm-up? The trainings behind the defaults of soft_assignment and model.bn_scale_init (docs/results.md).
# Usage: benchmarks/warmup.sh DATA_ROOT OUTPUT_FOLDER [SEED ...]
# 800 steps of configs/small.yaml's training on BCCD's train split, validated on its val split; every arm has the same
# budget and differs from another in the named option alone. Several may run at once: a run whose folder exists is
# somebody else's or done.
set -euo pipefail
data=$1 out=$2
shift 2
seeds=("$@")
[ ${#seeds[@]} -gt 0 ] || seeds=(0 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} WANDB_MODE=offline
mkdir -p "$out"
# 1,500 / 200 is what lr_mult makes up for.
common=(--config small.yaml --trainer.max_steps 800 --trainer.val_check_interval 800
  --model.learning_rate '{0: 1.0e-4, 50: 1.0e-3, 600: 1.0e-4}' --model.anchors.lr_mult 7.5
  --soft_assignment.steps 200 --clustering.steps 200 --trainer.enable_progress_bar false)

arm_options() { # START SCHEDULE GAMMA [MORE ...]
  options=(--soft_assignment.start "$1" --soft_assignment.schedule "$2" --model.bn_scale_init "$3" "${@:4}")
}

for seed in "${seeds[@]}"; do
  for init in kmeans identical; do
    for arm in baseline T2-linear-g1 T2-geometric-g1 Tauto-geometric-g1 T0.2-geometric-g1 Tauto-geometric-g0.3 \
      Tauto-geometric-g0.1 T2-geometric-g0.3 Taug-geometric-g0.3 Tauto-linear-g0.3 iou-Tauto-geometric-g0.3 half-Tauto-geometric-g0.3 \
      double-Tauto-geometric-g0.3 nobn-Tauto-geometric; do
      folder=$out/$arm-$init-seed$seed
      mkdir "$folder" 2>/dev/null || continue
      case $arm in
        baseline) options=(--config ablation/baseline.yaml) ;;
        T2-linear-g1) arm_options 2 linear 1 ;;
        T2-geometric-g1) arm_options 2 geometric 1 ;;
        T2-geometric-g0.3) arm_options 2 geometric 0.3 ;;
        Taug-geometric-g0.3) arm_options 0.858 geometric 0.3 ;; # T_c of the augmented boxes
        T0.2-geometric-g1) arm_options 0.2 geometric 1 ;;
        Tauto-geometric-g1) arm_options auto geometric 1 ;;
        Tauto-geometric-g0.3) arm_options auto geometric 0.3 ;;
        Tauto-geometric-g0.1) arm_options auto geometric 0.1 ;;
        Tauto-linear-g0.3) arm_options auto linear 0.3 ;;
        iou-*) arm_options auto geometric 0.3 --soft_assignment.distance iou ;;
        half-*) arm_options auto geometric 0.3 --soft_assignment.steps 100 --clustering.steps 100 ;;
        double-*) arm_options auto geometric 0.3 --soft_assignment.steps 400 --clustering.steps 400 ;;
        nobn-*) arm_options auto geometric 1 --model.bn_without_shift false ;;
      esac
      base=("${common[@]}")
      # The baseline's overlay turns the warm-ups off; their lengths must not come after it.
      [ "$arm" = baseline ] && base+=(--soft_assignment.steps 0 --clustering.steps 0)
      "${PYTHON:-python}" -m anchor_lightning fit "${base[@]}" --config "init/$init.yaml" "${options[@]}" \
        --data.root "$data" --seed_everything "$seed" --trainer.default_root_dir "$folder" >"$folder/log.txt" 2>&1
    done
  done
done
