#!/usr/bin/env bash
# Serves an exported model, sends photos to it, and ends it:
#   bash test_tipc/test_serving_infer_python.sh <config.txt> serving_infer
# Exit codes as test_train_inference_python.sh; 77 when the server library is not installed.
set -uo pipefail
source test_tipc/common_func.sh
start_chain 8 results_serving.log "$@"
PATIENCE=120    # seconds until the server has to listen
trap '[ -z "${server:-}" ] || kill "$server" 2>/dev/null' EXIT

# serve DEVICE: one server, one client.
serve() {
    local log="$OUTPUT/python_server_$1.log" client="$OUTPUT/python_client_$1" command url='' code
    command="$PYTHON $(value 4)$(option "$(key 5)" "$(value 5)")$(option "$(key 6)" "$1")"
    eval "exec $command" > "$log" 2>&1 &
    server=$!
    for ((i = 0; i < PATIENCE * 2; i++)); do
        url=$(grep -o -m 1 'http://[^ /]*' "$log") && break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.5
    done
    [ -z "$url" ] || run_step "$client.log" \
        "$PYTHON $(value 7) --url=$url$(option "$(key 8)" "$(value 8)") --save_dir=${client}_results"
    kill "$server" 2>/dev/null
    wait "$server"
    code=$?
    unset server
    cat "$log"
    record "$code" "$command" "$log"
}

for device in $(choices 6); do
    serve "$device"
done
end_chain
