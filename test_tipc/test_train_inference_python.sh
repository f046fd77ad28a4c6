#!/usr/bin/env bash
# Runs the chain train -> eval -> export -> infer for every setting of a config and records each command:
#   bash test_tipc/test_train_inference_python.sh <config.txt> <mode> [gpu id, whole_infer only]
# Ends with 0 when every command succeeded, 1 when one failed, 2 when the config cannot be used.
set -uo pipefail
source test_tipc/common_func.sh
start_chain 52 results_python.log "$@"

# train_on GPUS DEVICE PRECISION TRAINER LINE: one training, whose script is in LINE, and all that follows it.
# GPUS is -1 (CPU), one id, ids for the launcher (0,1) or hosts and ids (ip1,ip2;0,1).
train_on() {
    local gpus=${1#*;} hosts='' device=$2 precision=$3 trainer=$4 script extra='' launcher='' quantized=False
    local run log weights command export_line=$(($5 + 14))
    script=$(value "$5")
    [[ $1 != *\;* ]] || hosts=${1%%;*}
    [ "$trainer" != pact_train ] || quantized=True
    [ "$trainer" != to_static_train ] || extra=" $(to_static_words)"
    run="$OUTPUT/${trainer}_gpus_${gpus}_autocast_${precision}"
    log="${run}_nodes_$(tr ',' '\n' <<< "$hosts" | wc -l)"
    [ -z "$hosts" ] || run=$log
    rm -rf "$run" "${log}_ranks"

    unset CUDA_VISIBLE_DEVICES
    if [ ${#gpus} -gt 2 ]; then
        launcher=" -m paddle.distributed.launch${hosts:+ --ips=$hosts} --log_dir=${log}_ranks $(processes "$device" "$gpus")"
    elif [ "$gpus" != -1 ]; then
        export CUDA_VISIBLE_DEVICES=$gpus
    fi
    command="$PYTHON$launcher $script$(option "$(key 5)" "$device")$(option "$(key 8)" "$run")"
    command+="$(option "$(key 7)" "$(of_mode 7)")$(option "$(key 10)" "$(value 10)")$(precision_words "$precision")"
    command+="$(option "$(key 9)" "$(of_mode 9)")$(option "$(key 13)" "$(value 13)")$extra$(benchmark_words)"
    run_step "$log.log" "$command" || return

    weights="$run/$(value 11)"
    [ -f "$weights" ] || weights="$run/iter_$(of_mode 7)/model.pdparams"    # trained without --do_eval
    [ "$gpus" = -1 ] || export CUDA_VISIBLE_DEVICES=${gpus%%,*}
    if [ "$(value 24)" != null ]; then
        run_step "${log}_eval.log" "$PYTHON $(value 24)$(option "$(key 10)" "$weights")$(
            )$(option "$(key 5)" "$device")$(option "$(key 25)" "$(value 25)")"
    fi
    [ "$(value $export_line)" != null ] || return
    run_step "${log}_export.log" "$PYTHON $(value $export_line)$(option "$(key 29)" "$weights")$(
        )$(option "$(key 28)" "$run")" || return
    infer "$run" "$(value 12)" "$gpus" "$quantized"
}

# processes DEVICE IDS: one per card; without cards, as many on the CPU.
processes() {
    if [ "$1" = cpu ]; then echo "--nproc_per_node=$(tr ',' '\n' <<< "$2" | wc -l)"; else echo "--devices=$2"; fi
}

precision_words() {
    if [ "$1" = amp ]; then echo -n " --precision=fp16 --amp_level=O1"; else option "$(key 6)" "$1"; fi
}

# The last line (log_iters:5;repeats:3;...) lengthens and quickens the log of a training benchmark.
benchmark_words() {
    local pair
    [ "$MODE" = benchmark_train ] || return
    for pair in $(tr ';' ' ' <<< "${CONFIG_LINES[-1]}"); do
        case ${pair%%:*} in log_iters | repeats) option "--${pair%%:*}" "${pair#*:}" ;; esac
    done
}

to_static_words() {
    grep -A 1 '^=*to_static_train_benchmark_params=*$' "${CONFIG_LINES[0]}" | sed -n 's/^to_static_train://p'
}

# infer MODEL_DIR IMAGES GPU QUANTIZED: the exported model over the matrix of lines 41 to 46.
infer() {
    local model=$1 images=$2 gpu=$3 quantized=$4 device mkldnn threads batch precision trt
    [ "$(value 40)" != null ] || return
    for device in $(choices 41); do
        for batch in $(choices 44); do
            for precision in $(choices 46); do
                case $device in
                    cpu | False)
                        for mkldnn in $(choices 42); do
                            for threads in $(choices 43); do
                                fits_cpu "$mkldnn" "$precision" "$quantized" || continue
                                infer_once "cpu_gpu_${gpu}_usemkldnn_${mkldnn}_threads_${threads}_precision_${precision}_batchsize_$batch" \
                                    "$(option "$(key 41)" "$device")$(option "$(key 42)" "$mkldnn")$(option "$(key 43)" "$threads")"
                            done
                        done
                        ;;
                    *)
                        for trt in $(choices 45); do
                            fits_gpu "$trt" "$precision" "$quantized" || continue
                            infer_once "gpu_gpu_${gpu}_usetrt_${trt}_precision_${precision}_batchsize_$batch" \
                                "$(option "$(key 41)" "$device")$(option "$(key 45)" "$trt")"
                        done
                        ;;
                esac
            done
        done
    done
}

# infer_once NAME DEVICE_OPTIONS: one command; the rest comes from infer's variables.
infer_once() {
    local stem="$OUTPUT/python_infer_$1"
    run_step "$stem.log" "$PYTHON $(value 40)$2$(option "$(key 47)" "$model/deploy.yaml")$(option "$(key 44)" "$batch")$(
        )$(option "$(key 48)" "$images")$(option "$(key 50)" "$(value 50)")$(option "$(key 46)" "$precision")$(
        )$(option "$(key 51)" "${stem}_results")$(option "$(key 52)" "$(value 52)")"
}

# A quantized model runs as int8 and needs oneDNN or TensorRT; one that is not has fp32 on a CPU, and no int8.
fits_cpu() {
    local mkldnn=$1 precision=$2 quantized=$3
    if [ "$quantized" = True ]; then [ "$mkldnn $precision" = 'True int8' ]; else [[ $precision =~ ^(fp32|null)$ ]]; fi
}
fits_gpu() {
    local trt=$1 precision=$2 quantized=$3
    if [ "$quantized" = True ]; then [[ $trt = True && $precision != int8 ]]
    else [[ $precision =~ ^(fp32|null)$ || $precision = fp16 && $trt = True ]]; fi
}

train_all() {
    local gpus devices device precision trainer line i
    mapfile -t gpus < <(choices 4)
    mapfile -t devices < <(choices 5)
    for i in "${!gpus[@]}"; do
        device=${devices[i]:-${devices[-1]}}
        for precision in $(choices 6); do
            for trainer in $(choices 15); do
                line=$(line_of_trainer "$trainer")
                [ -n "$line" ] || die "${CONFIG_LINES[0]}:15: trainer $trainer is the key of none of the lines 16 to 21."
                [ "$(value "$line")" = null ] || train_on "${gpus[i]}" "$device" "$precision" "$trainer" "$line"
            done
        done
    done
}

line_of_trainer() {
    local line
    [ "$1" != to_static_train ] || { echo 16; return; }
    for line in 16 17 18 19 20 21; do
        [ "$(key $line)" != "$1" ] || { echo $line; return; }
    done
}

# infer_stored GPU: exports (line 38) and runs the stored weights of line 37.
infer_stored() {
    local models exports quantized i folder
    mapfile -t models < <(choices 37)
    mapfile -t exports < <(choices 38)
    mapfile -t quantized < <(choices 39)
    [ "$1" = -1 ] || export CUDA_VISIBLE_DEVICES=$1
    rm -rf "$OUTPUT"/python_infer_*_results
    for i in "${!models[@]}"; do
        folder=$(dirname "${models[i]}")
        if [ "${exports[i]:-null}" != null ]; then
            run_step "$OUTPUT/whole_infer_${i}_export.log" \
                "$PYTHON ${exports[i]}$(option "$(key 29)" "${models[i]}")$(option "$(key 28)" "$folder")" || continue
        fi
        infer "$folder" "$(value 48)" "$1" "${quantized[i]:-False}"
    done
    compare_with_stored "$(value 48)"
}

case $MODE in
    whole_infer | klquant_whole_infer) infer_stored "${3:--1}" ;;
    *) train_all ;;
esac
end_chain
