# Sourced by the other scripts: makes the Python environment once and reuses it while its requirements stay the same.
#   VENV    folder of the environment (default .venv); an environment you made yourself will do
#   PYTHON  interpreter to make it with (default: the first of python3.11, 3.12, 3.10 and python3 that fits)

# use_environment [ARGUMENT...]: installs requirements.txt, or beside a paddlepaddle-gpu requirements-gpu.txt, and what the
# arguments tell pip; leaves the interpreter in PYTHON.
use_environment() {
    local venv=${VENV:-.venv} list=requirements.txt log stamp wanted
    stamp="$venv/.requirements.sha256"
    if [ ! -x "$venv/bin/python" ]; then
        find_python || return 2
        echo "Making the environment $venv with $("$PYTHON" --version)"
        "$PYTHON" -m venv "$venv" || { echo 'python -m venv failed; Debian and Ubuntu need the python3-venv package.' >&2; return 2; }
    fi
    PYTHON="$venv/bin/python"
    [ "$(build_of_paddle)" = gpu ] && list=requirements-gpu.txt  # the CPU build would be put over it
    wanted=$({ cat requirements.txt requirements-gpu.txt setup.py 2>/dev/null; echo "$list" "$@"; } | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing the requirements into $venv (about 1 GB, some minutes)"
        log=$("$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$list" "$@" 2>&1) ||
            { echo "$log" >&2; echo 'pip could not install the requirements (see above).' >&2; return 1; }
        echo "$wanted" > "$stamp"
    fi
    "$PYTHON" -c 'import zlib, paddle, cv2' 2>/dev/null || {
        echo 'Paddle or OpenCV cannot be loaded. System libraries are probably missing:' >&2
        echo '    apt-get install -y libgomp1 libgl1 libglib2.0-0' >&2
        "$PYTHON" -c 'import zlib, paddle, cv2' 2>&1 | tail -n 1 >&2
        return 2
    }
}

build_of_paddle() {
    "$PYTHON" -c 'from importlib.metadata import packages_distributions as p; print("gpu" if "paddlepaddle-gpu" in p().get("paddle", ()) else "cpu")' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            PYTHON=$candidate
            return
        fi
    done
    echo "No Python 3.10, 3.11 or 3.12 found${PYTHON:+ (PYTHON=$PYTHON)}. Install one, or name it: PYTHON=/path/to/python bash ..." >&2
    return 1
}
