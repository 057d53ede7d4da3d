#!/usr/bin/env bash
# What to run on a GPU that is there for minutes: 8 at most, unattended, what matters most first.
#
#   OUT=folder [PYTHON=.venv/bin/python] [DLRM=clone of facebookresearch/dlrm] bash benchmarks/gpu_first.sh
#
# From the project's root. Each step has a limit of its own, and the next one runs whatever becomes of it. A line a step goes
# to the terminal, all output to $OUT/<step>.log, and figures to $OUT/<step>/benchmark.json, of which those worth keeping
# belong into benchmarks/results/. DEVICE=cpu SECONDS_IN_ALL=900 tries the script itself, on small models.
set -u
OUT=${OUT:?say where the results go: OUT=folder bash benchmarks/gpu_first.sh}
PYTHON=${PYTHON:-.venv/bin/python} DEVICE=${DEVICE:-cuda} SECONDS_IN_ALL=${SECONDS_IN_ALL:-450}
mkdir -p "$OUT"
export PYTHONPATH=$PWD:${PYTHONPATH:-} PYTHONWARNINGS=ignore PYTHONUNBUFFERED=1
export PYTORCH_NVML_BASED_CUDA_CHECK=1  # else importing fbgemm-gpu starts CUDA in the tests' fork server, which spoils it
WORTH_A_LINE='samples/s|floor is|AUC|passed|failed|differ|equal|Everything|problem|times|Error|error:'

step() {  # NAME LIMIT_S COMMAND...
    local name=$1 limit_s=$2 began=$SECONDS
    shift 2
    if [ "$began" -gt "$SECONDS_IN_ALL" ]; then echo "-- $name: no time is left"; return; fi
    timeout -k 5 "$limit_s" "$@" >"$OUT/$name.log" 2>&1
    local code=$?
    echo "-- $name: exit code $code, $((SECONDS - began)) s"
    grep -aE "$WORTH_A_LINE" "$OUT/$name.log" | tail -n 4 | tr -s ' ' | cut -c1-200 | sed 's/^/     /'
}
benchmark() {  # NAME LIMIT_S OPTIONS...
    local name=$1 limit_s=$2
    shift 2
    step "$name" "$limit_s" "$PYTHON" dlrm_main.py benchmark "$@" --distributed.device "$DEVICE" --output "$OUT/$name"
}
train() {  # NAME LIMIT_S OPTIONS...
    local name=$1 limit_s=$2
    shift 2
    step "$name" "$limit_s" "$PYTHON" dlrm_main.py train --config configs/quickstart.yaml "$@" --run.dir "$OUT/runs" \
        --distributed.device "$DEVICE" --logging.progress false --logging.tensorboard false
}

DOT=(--config configs/mlperf_dlrm_dot.yaml)
DCN=(--config configs/mlperf_dlrm_dcnv2.yaml)
FULL=(--train.global_batch_size 65536)
ROWS=4000000,39060,17295,7424,20265,3,7122,1543,63,4000000,3067956,405282,10,2209,11938,155,4,976,14,4000000,4000000,4000000
TENTH=("${FULL[@]}" --data.rows "$ROWS,590152,12973,108,36")
if [ "$DEVICE" = cpu ]; then
    TINY=(--train.global_batch_size 64 --data.rows "$(printf '1000,%.0s' {1..25})1000")
    TINY+=(--steps 4 --warmup_steps 1 --profiled_steps 3)
    FULL=("${TINY[@]}") TENTH=("${TINY[@]}")
fi

nvidia-smi -L 2>/dev/null
step 01_doctor 60 "$PYTHON" dlrm_main.py doctor
train 02_quickstart 60 --run.name quickstart --train.max_steps 200  # on CPU: test AUC 0.8287, log loss 0.4157
step 03_tests 120 "$PYTHON" -m pytest -q -p no:cacheprovider tests/gpu -m cuda -k "that_on_cpu or adam or memory"
benchmark 04_dcnv2 100 "${DCN[@]}" "${FULL[@]}" --without data --profile
benchmark 05_one_hot 60 "${DOT[@]}" "${TENTH[@]}" --without data --profile
benchmark 06_dcnv2_tenth 45 "${DCN[@]}" "${TENTH[@]}" --without data
benchmark 07_dcnv2_tenth_tf32 45 "${DCN[@]}" "${TENTH[@]}" --without data --precision.tf32 true
benchmark 08_dcnv2_tenth_bf16 45 "${DCN[@]}" "${TENTH[@]}" --without data --precision.dense bf16
benchmark 09_one_hot_bf16 45 "${DOT[@]}" "${TENTH[@]}" --without data --precision.dense bf16
for part in lookups mlps interaction; do
    benchmark "10_dcnv2_tenth_without_$part" 40 "${DCN[@]}" "${TENTH[@]}" --without "data,$part"
done
[ -n "${DLRM:-}" ] && step 11_reference 90 "$PYTHON" -m benchmarks.against_reference "$DLRM" --device "$DEVICE" \
    --cases "criteo 1" --rounds 2 --steps 60
train 12_half 40 --run.name half --train.max_steps 100 --checkpoint.every_steps 50
train 13_resumed 40 --run.name half --train.max_steps 200 --resume auto
step 14_difference 30 "$PYTHON" dlrm_main.py checkpoint diff "$OUT/runs/quickstart/checkpoints/step_00000200" \
    "$OUT/runs/half/checkpoints/step_00000200"  # equal but for the order of atomic additions
train 15_cached 50 --run.name cached --train.max_steps 120 --sharding.kernels fused_uvm_caching
step 16_unit_tests 60 "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda tests/unit
rm -rf "$OUT"/runs/*/checkpoints
echo "in all $SECONDS s"
