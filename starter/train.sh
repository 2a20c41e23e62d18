#!/bin/sh
# The starter's recipe: sh starter/train.sh OUT BOOKS...
# BOOKS are folders of plain-text books; the six below validate where they are found. Stopped, it continues when repeated.
set -eu
[ $# -ge 2 ] || { echo "usage: sh $0 OUT BOOKS..." >&2; exit 2; }
out=$1; shift
val=$(find "$@" -name west-rebecca_the-return-of-the-soldier.txt -o -name harraden-beatrice_ships-that-pass-in-the-night.txt \
    -o -name white-william-hale_mark-rutherford-s-deliverance.txt -o -name stanley-g-weinbaum_short-fiction.txt \
    -o -name frederick-douglass_narrative-of-the-life-of-frederick-douglass.txt \
    -o -name bertrand-russell_the-problems-of-philosophy.txt)
[ -n "$val" ] || { echo "none of the books that validate is in $*" >&2; exit 2; }
gpt1 prepare $(find "$@" -name "*.txt" | sort) --val $val --vocabulary 10240 --out "$out/data"
gpt1 pretrain "$out/data" --out "$out/run" --preset small --steps "${STEPS:-48000}" --optim.lr 0.005 --optim.matrix-lr 0.005 \
    --optim.weight-decay 0.1 --optim.cooldown 0.25 --save-every 400
python "$(dirname "$0")/build.py" "$out/run" "$out/data"
