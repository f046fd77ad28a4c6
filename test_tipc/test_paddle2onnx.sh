#!/usr/bin/env bash
# Converts an exported model to ONNX and runs it with ONNX Runtime:
#   bash test_tipc/test_paddle2onnx.sh <config.txt> paddle2onnx_infer
# Exit codes as test_train_inference_python.sh; 77 when the converter or ONNX Runtime is not installed.
set -uo pipefail
source test_tipc/common_func.sh
start_chain 13 results_paddle2onnx.log "$@"
need_extra onnx
ONNX="$OUTPUT/onnx_model"
rm -rf "$ONNX" "$OUTPUT"/python_infer_*_results

run_step "$OUTPUT/paddle2onnx.log" "$PYTHON $(value 4)$(option "$(key 5)" "$(value 5)")$(option "$(key 6)" "$ONNX")$(
    )$(option "$(key 7)" "$(value 7)")" || end_chain
for threads in $(choices 10); do
    for batch in $(choices 11); do
        stem="$OUTPUT/python_infer_onnx_threads_${threads}_precision_fp32_batchsize_$batch"
        run_step "$stem.log" "$PYTHON $(value 8)$(option "$(key 9)" "$ONNX/deploy.yaml")$(option "$(key 10)" "$threads")$(
            )$(option "$(key 11)" "$batch")$(option "$(key 12)" "$(value 12)")$(option "$(key 13)" "${stem}_results")"
    done
done
compare_with_stored "$(value 12)"
end_chain
