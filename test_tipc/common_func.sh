# Sourced by the TIPC scripts: reads a line-addressed config and records what ran. Run from the repository root.

die() {
    echo "$1" >&2
    exit 2
}

# start_chain LINES STATUS ARGUMENT...: what every chain begins with. The arguments are those of the script: the config, of
# at least so many lines, and the mode. Leaves MODE, MODEL_NAME, OUTPUT, PYTHON and STATUS, a fresh file of that name.
# Without the interpreter ends the script with 1; where that lacks an optional part, with 77.
start_chain() {
    local module
    [ $# -ge 4 ] || die "usage: bash $0 <config.txt> <mode>"
    load_config "$3" "$1"
    MODE=$4
    MODEL_NAME=$(value 2)
    OUTPUT="test_tipc/output/$MODEL_NAME/$MODE"
    STATUS="$OUTPUT/$2"
    mkdir -p "$OUTPUT"
    : > "$STATUS"
    PYTHON=$(find_interpreter) || {
        echo "$3:3: $(value 3) is missing or has no PaddleSeg. Activate the environment, or run test_tipc/prepare.sh first." >&2
        record 127 "$(value 3)" "$STATUS"
        exit 1
    }
    if module=$(missing_module); then
        echo "Run skipped - $MODEL_NAME - $module is not installed (pip install '.[$(extra)]')" | tee -a "$STATUS"
        exit 77
    fi
}

# end_chain: 0 when every command succeeded, 1 when one failed, 2 when there was none.
end_chain() {
    local failed
    [ -s "$STATUS" ] || die "${CONFIG_LINES[0]}: no command fits the mode $MODE; nothing was run."
    if failed=$(grep 'Run failed' "$STATUS"); then
        echo "$(wc -l <<< "$failed") of $(wc -l < "$STATUS") commands failed:" >&2
        echo "$failed" >&2
        exit 1
    fi
    echo "All $(wc -l < "$STATUS") commands ran; status lines in $STATUS"
}

# extra: the optional part of setup.py that the config's scripts need, or nothing.
extra() {
    grep -o -m 1 -e onnx -e serving "${CONFIG_LINES[0]}" | head -n 1
}

# missing_module: prints the first module of that part that the interpreter lacks; fails when it lacks none.
missing_module() {
    local -A modules=([onnx]='paddle2onnx onnxruntime ml_dtypes' [serving]='aiohttp prometheus_client')
    local module part
    part=$(extra) || return
    for module in ${modules[$part]}; do
        has_module "$module" || { echo "$module"; return; }
    done
    return 1
}

# has_module MODULE [PYTHON]
has_module() {
    "${2:-$PYTHON}" -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$1'))" 2>/dev/null
}

# load_config FILE LINES: CONFIG_LINES[n] becomes line n of the file, which has at least so many.
load_config() {
    [ -f "$1" ] || die "$1: no such config. Give a .txt of test_tipc/configs/<model>/."
    mapfile -t CONFIG_LINES < <(tr -d '\r' < "$1")
    CONFIG_LINES=("$1" "${CONFIG_LINES[@]}")
    local n
    for n in "${!CONFIG_LINES[@]}"; do
        [ -n "${CONFIG_LINES[n]// /}" ] || die "$1:$n: blank line; lines are found by their number, fill the gap with ##."
    done
    [ "${#CONFIG_LINES[@]}" -gt "$2" ] || die "$1: $((${#CONFIG_LINES[@]} - 1)) lines; the first $2 have fixed meanings."
}

# key N, value N: what stands before the first colon of line N, and between the first and the second; blank is null.
key() {
    or_null "${CONFIG_LINES[$1]%%:*}"
}
value() {
    local line=${CONFIG_LINES[$1]}
    [[ $line == *:* ]] || line=:
    line=${line#*:}
    or_null "${line%%:*}"
}
or_null() {
    local text
    read -r text <<< "$1"
    echo "${text:-null}"
}

# choices N: the alternatives of line N, one per line.
choices() {
    value "$1" | tr '|' '\n'
}

# of_mode N: the entry of the mode list in line N (mode=value|mode=value) that belongs to the mode, else null.
of_mode() {
    local entry
    for entry in $(choices "$1"); do
        [[ $entry != "$MODE="* ]] || { echo "${entry#*=}"; return; }
    done
    echo null
}

# option KEY VALUE: " KEY=VALUE", or nothing when either is null.
option() {
    [ "$1" = null ] || [ "$2" = null ] || echo -n " $1=$2"
}

# find_interpreter: the interpreter of line 3, or the one of the environment when line 3's does not have PaddleSeg.
find_interpreter() {
    local candidate
    for candidate in "$(value 3)" "${VENV:-.venv}/bin/python"; do
        ! has_module paddleseg "$candidate" || { echo "$candidate"; return; }
    done
    return 1
}

# record CODE COMMAND LOG: the status line of a command that ended with this code.
record() {
    local outcome='successfully'
    [ "$1" -eq 0 ] || outcome='failed'
    printf '\033[33m Run %s with command - %s - %s - %s  \033[0m\n' "$outcome" "$MODEL_NAME" "$2" "$3" | tee -a "$STATUS"
}

# run_step LOG COMMAND: runs, keeps the console in LOG, records, and returns the command's code.
run_step() {
    local code
    mkdir -p "$(dirname "$1")"
    eval "$2" 2>&1 | tee "$1"
    code=${PIPESTATUS[0]}
    record "$code" "$2" "$1"
    return "$code"
}

# infer_converted LINE MODEL NAME: runs a model with the script in LINE. The lines after it: the option for the model, the
# numbers of threads and the batch sizes to try, the images, the option for the results.
infer_converted() {
    local threads batch stem
    rm -rf "$OUTPUT"/python_infer_*_results
    for threads in $(choices $(($1 + 2))); do
        for batch in $(choices $(($1 + 3))); do
            stem="$OUTPUT/python_infer_$3_threads_${threads}_batchsize_$batch"
            run_step "$stem.log" "$PYTHON $(value "$1")$(option "$(key $(($1 + 1)))" "$2")$(
                )$(option "$(key $(($1 + 2)))" "$threads")$(option "$(key $(($1 + 3)))" "$batch")$(
                )$(option "$(key $(($1 + 4)))" "$(value $(($1 + 4)))")$(option "$(key $(($1 + 5)))" "${stem}_results")"
        done
    done
    compare_with_stored "$(value $(($1 + 4)))"
}

# compare_with_stored MASKS: the predictions with test_tipc/results/, where that has figures of this model.
compare_with_stored() {
    local stored="test_tipc/results/python_${MODEL_NAME}_results_*.txt"
    ! compgen -G "$stored" > /dev/null || run_step "$OUTPUT/compare_results.log" \
        "$PYTHON test_tipc/compare_results.py --metric_file='$stored' --predict_dir='$OUTPUT/python_infer_*_results' --gt_dir=$1"
}
