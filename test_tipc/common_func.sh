# Sourced by the TIPC scripts: reads a line-addressed config and records what ran. Run from the repository root.

die() {
    echo "$1" >&2
    exit 2
}

# load_config FILE: CONFIG_LINES[n] becomes line n of the file.
load_config() {
    [ -f "$1" ] || die "$1: no such config. Give test_tipc/configs/<model>/train_infer_python.txt."
    mapfile -t CONFIG_LINES < <(tr -d '\r' < "$1")
    CONFIG_LINES=("$1" "${CONFIG_LINES[@]}")
    local n
    for n in "${!CONFIG_LINES[@]}"; do
        [ -n "${CONFIG_LINES[n]// /}" ] || die "$1:$n: blank line; lines are found by their number, fill the gap with ##."
    done
    [ "${#CONFIG_LINES[@]}" -gt 52 ] || die "$1: $((${#CONFIG_LINES[@]} - 1)) lines; the first 52 have fixed meanings."
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
        if "$candidate" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("paddleseg"))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
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
