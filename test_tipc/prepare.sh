#!/usr/bin/env bash
# Gets everything the chain needs: the Python environment (unless the active one will do) and the data.
#   bash test_tipc/prepare.sh <config.txt> <mode>
# The data is mini_supervisely (people and background) where there is a network, else a rendered stand-in.
set -euo pipefail
source test_tipc/common_func.sh
[ $# -ge 2 ] || die "usage: bash test_tipc/prepare.sh <config.txt> <mode>"
load_config "$1"
MODE=$2

URL=https://paddleseg.bj.bcebos.com/humanseg/data/mini_supervisely.zip
ROOT=test_tipc/data
DATA=$ROOT/mini_supervisely

fetch() {
    if command -v curl > /dev/null; then
        curl --fail --silent --location --connect-timeout 10 --speed-limit 20000 --speed-time 20 --output "$2" "$1"
    else
        wget --quiet --tries=1 --timeout=10 --output-document="$2" "$1"
    fi
}

download() {
    echo "Downloading $URL"
    fetch "$URL" "$ROOT/part.zip" && "$PYTHON" -m zipfile -e "$ROOT/part.zip" "$ROOT" && [ -f "$DATA/val.txt" ]
}

# The demo scenes in mini_supervisely's layout; every shape counts as a person.
make_stand_in() {
    rm -rf "$DATA"
    "$PYTHON" tools/make_demo_data.py --save_dir "$DATA" --num_train 40 --num_val 8 --size 192 192
    mv "$DATA/images" "$DATA/Images"
    mv "$DATA/labels" "$DATA/Annotations"
    sed -i 's#images/#Images/#; s#labels/#Annotations/#' "$DATA/train.txt" "$DATA/val.txt"
    "$PYTHON" - "$DATA/Annotations" <<'PYTHON'
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
    rm "$DATA/tags.txt" "$DATA/classes.txt"
}

if ! PYTHON=$(find_interpreter); then
    unset PYTHON
    source tools/environment.sh
    use_environment
fi
mkdir -p "$ROOT"
rm -rf "$DATA"
if download; then
    echo "Data: mini_supervisely in $DATA"
else
    make_stand_in
    echo "Data: mini_supervisely could not be downloaded; $DATA holds a STAND-IN of rendered two-class scenes"
fi
rm -f "$ROOT/part.zip"

if [[ $MODE = whole_infer ]]; then
    for weights in $(choices 37); do
        [ -f "$weights" ] || echo "$weights is not there yet: train it with the mode lite_train_lite_infer first."
    done
fi
