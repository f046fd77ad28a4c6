#!/usr/bin/env bash
# Gets everything a chain needs: the Python environment (unless the active one will do), its optional parts, and the data
# that the config names. What is there already is kept.
#   bash test_tipc/prepare.sh <config.txt> <mode>
# The data are rendered scenes, which need no network. Only whole_train_whole_infer takes the real mini_supervisely (people
# and background), where it can be downloaded.
set -euo pipefail
source test_tipc/common_func.sh
[ $# -ge 2 ] || die "usage: bash test_tipc/prepare.sh <config.txt> <mode>"
load_config "$1" 3
MODE=$2

URL=https://paddleseg.bj.bcebos.com/humanseg/data/mini_supervisely.zip
ROOT=test_tipc/data

# install_extra: the optional part of setup.py, but only into the environment that these scripts made.
install_extra() {
    local module
    module=$(missing_module) || return 0
    if [ "$("$PYTHON" -c 'import sys; print(sys.prefix)')" != "$(realpath -m "${VENV:-.venv}")" ]; then
        echo "The active environment lacks $module, and is left as it is; the chain will be skipped."
    else
        echo "Installing the extra \"$(extra)\""
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -e ".[$(extra)]" ||
            echo "The extra \"$(extra)\" could not be installed (see above); the chain will be skipped."
    fi
}

# get_data NAME: test_tipc/data/NAME; .source in it tells where it comes from.
get_data() {
    local data="$ROOT/$1" wanted=rendered
    [ "$1 $MODE" != 'mini_supervisely whole_train_whole_infer' ] || wanted=downloaded
    [ "$(cat "$data/.source" 2>/dev/null)" != $wanted ] || return 0
    rm -rf "$data"
    mkdir -p "$ROOT"
    if [ $wanted = downloaded ] && ! download "$data"; then
        wanted=rendered
        echo "mini_supervisely could not be downloaded; $data gets a STAND-IN."
    fi
    [ $wanted = downloaded ] || render "$1" "$data"
    echo $wanted > "$data/.source"
    echo "Data: $data ($wanted)"
}

download() {
    local part="$1.zip" code=0
    echo "Downloading $URL"
    fetch "$URL" "$part" && "$PYTHON" -m zipfile -e "$part" "$ROOT" && [ -f "$1/val.txt" ] || code=1
    rm -f "$part"
    return $code
}

fetch() {
    if command -v curl > /dev/null; then
        curl --fail --silent --location --connect-timeout 10 --speed-limit 20000 --speed-time 20 --output "$2" "$1"
    else
        wget --quiet --tries=1 --timeout=10 --output-document="$2" "$1"
    fi
}

# render NAME DATA: the demo scenes; for mini_supervisely, every shape counts as a person.
render() {
    local scenes=("$PYTHON" tools/make_demo_data.py --save_dir "$2" --num_train 40 --num_val 8)
    [ "$1" = mini_supervisely ] || { "${scenes[@]}"; return; }
    "${scenes[@]}" --size 192 192
    "$PYTHON" - "$2/labels" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

for path in Path(sys.argv[1]).glob('*.png'):
    mask = Image.open(path)
    two_class = Image.fromarray((np.array(mask) > 0).astype('uint8'), 'P')
    two_class.putpalette(mask.getpalette())
    two_class.save(path)
PYTHON
}

if ! PYTHON=$(find_interpreter); then
    unset PYTHON
    source tools/environment.sh
    use_environment
fi
install_extra
for name in $(grep -oh 'test_tipc/data/[a-z_]*' "$1" | sort -u | xargs -n 1 basename); do
    get_data "$name"
done
if [[ $MODE = whole_infer ]]; then
    for weights in $(choices 37); do
        [ -f "$weights" ] || echo "$weights is not there yet: train it with the mode lite_train_lite_infer first."
    done
fi
