#!/usr/bin/env bash
# Measures the training of a config's train_benchmark_params:
#   bash test_tipc/benchmark_train.sh <config.txt> benchmark_train [dynamic_bs2_fp32_DP_N1C1]
# The third argument is one setting: kind (dynamic, dynamicTostatic), batch size, precision, DP, machines and devices.
# Without it every batch size and precision is measured on one device. Logs go to BENCHMARK_LOG_DIR (default: the folder
# of the config's output): train_log/, profiling_log/, and index/ with one line of JSON per setting.
set -uo pipefail
source test_tipc/common_func.sh
start_chain 52 results_benchmark.log "$@"
ROOT=${BENCHMARK_LOG_DIR:-$OUTPUT}
ANALYSIS=${BENCHMARK_ROOT:-test_tipc}/scripts/analysis.py
mkdir -p "$ROOT/train_log" "$ROOT/profiling_log" "$ROOT/index"
frame_version=$("$PYTHON" -c 'import zlib, paddle; print(paddle.__version__)' 2>/dev/null)
frame_commit=$("$PYTHON" -c 'import zlib, paddle; print(paddle.version.commit)' 2>/dev/null)
export frame_version frame_commit

# of_block KEY: what follows "KEY:" in the block train_benchmark_params.
of_block() {
    sed -n '/^=*train_benchmark_params=*$/,/^=*to_static/p' "${CONFIG_LINES[0]}" | sed -n "s/^$1://p"
}

# measure KIND BATCH PRECISION RUN_MODE DEVICES
measure() {
    local name="${MODEL_NAME}_bs$2_$3_$4_$5" profiler started
    profiler=$(or_null "$(of_block --profiler_options)")
    [ "$1" != dynamicTostatic ] || name+=_d2sT
    [[ $profiler = null || $5 != N1C1 ]] || train "$1" "$2" "$3" "$5" "$profiler" "$ROOT/profiling_log/${name}_profiling"
    started=$SECONDS
    train "$1" "$2" "$3" "$5" null "$ROOT/train_log/${name}_log" || return
    export model_run_time=$((SECONDS - started))
    run_step "$ROOT/index/${name}_analysis" "$PYTHON $ANALYSIS --filename $ROOT/train_log/${name}_log$(
        ) --speed_log_file $ROOT/index/${name}_speed --model_name ${MODEL_NAME}_bs$2_$3_$4 --base_batch_size $2$(
        ) --run_mode $4 --fp_item $3 --keyword ips: --convergence_key loss: --skip_steps 2 --device_num $5$(
        ) --speed_unit samples/s"
}

# train KIND BATCH PRECISION DEVICES PROFILER LOG: trains only, by the chain's own script on a changed copy of the config.
train() {
    local config="$OUTPUT/benchmark_train.txt" lines=("${CONFIG_LINES[@]}") devices
    devices=$(seq -s , 0 $((${4#*C} - 1)))
    [[ $4 != N1C1 || $(value 5) != cpu ]] || devices=-1
    lines[4]="gpu_list:$devices"
    lines[6]="--precision:$3"
    lines[7]="$(key 7):$MODE=$(of_block epoch)"
    lines[9]="$(key 9):$MODE=$2"
    lines[13]="--profiler_options:$5"
    lines[24]='eval:null'
    lines[30]='norm_export:null'
    [ "$1" != dynamicTostatic ] || lines[15]='trainer:to_static_train'
    printf '%s\n' "${lines[@]:1}" > "$config"
    run_step "$6" "bash test_tipc/test_train_inference_python.sh $config $MODE"
}

for flag in $(of_block flags | tr ';' ' '); do
    [ "$flag" = null ] || export "${flag?}"
done
if [ $# -ge 3 ]; then
    IFS=_ read -r kind batch precision run_mode devices <<< "$3"
    [[ $batch =~ ^bs[0-9]+$ && $devices =~ ^N[0-9]+C[0-9]+$ ]] || die "$3: give a setting like dynamic_bs2_fp32_DP_N1C1."
    measure "$kind" "${batch#bs}" "${precision/null/fp32}" "$run_mode" "$devices"
else
    for batch in $(of_block batch_size | tr '|' ' '); do
        for precision in $(of_block fp_items | tr '|' ' '); do
            measure dynamic "$batch" "$precision" DP N1C1
        done
    done
fi
end_chain
