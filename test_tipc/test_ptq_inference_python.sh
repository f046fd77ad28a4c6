#!/usr/bin/env bash
# Exports a trained model in a format that can be quantized (.pdmodel or ONNX), makes it int8 with ranges measured on photos,
# and runs it:
#   bash test_tipc/test_ptq_inference_python.sh <config.txt> whole_infer
# Exit codes as test_train_inference_python.sh; 77 when what ONNX needs is not installed.
set -uo pipefail
source test_tipc/common_func.sh
start_chain 17 results_ptq.log "$@"
EXPORTED="$OUTPUT/exported_model"
QUANTIZED="$OUTPUT/quant_model"
rm -rf "$EXPORTED" "$QUANTIZED"

run_step "$OUTPUT/export.log" "$PYTHON $(value 4)$(option "$(key 5)" "$(value 5)")$(option "$(key 6)" "$EXPORTED")" ||
    end_chain
run_step "$OUTPUT/ptq.log" "$PYTHON $(value 8)$(option "$(key 9)" "$EXPORTED/deploy.yaml")$(
    )$(option "$(key 10)" "$(value 10)")$(option "$(key 7)" "$QUANTIZED")" || end_chain
infer_converted 12 "$QUANTIZED/deploy.yaml" cpu_precision_int8
end_chain
