#!/usr/bin/env bash
# Converts an exported model to ONNX and runs it with ONNX Runtime:
#   bash test_tipc/test_paddle2onnx.sh <config.txt> paddle2onnx_infer
# Exit codes as test_train_inference_python.sh; 77 when the converter or ONNX Runtime is not installed.
set -uo pipefail
source test_tipc/common_func.sh
start_chain 13 results_paddle2onnx.log "$@"
ONNX="$OUTPUT/onnx_model"
rm -rf "$ONNX"

run_step "$OUTPUT/paddle2onnx.log" "$PYTHON $(value 4)$(option "$(key 5)" "$(value 5)")$(option "$(key 6)" "$ONNX")$(
    )$(option "$(key 7)" "$(value 7)")" || end_chain
infer_converted 8 "$ONNX/deploy.yaml" onnx_precision_fp32
end_chain
