#!/bin/sh
# What a GPU should do in ten minutes: train the starter, then measure the speeds that no CPU can tell.
#
#   sh benchmarks/gpu.sh pack DATA FILE [MIB]     prepared data, as many training tokens as fit, into one file
#   sh benchmarks/gpu.sh run FILE OUT [MINUTES]   unpack, pre-train for so many minutes, measure for two more
#
# `run` needs torch, numpy, safetensors, tokenizers, rich and filelock, and the source of this checkout. It leaves small
# files only in OUT: the model in bfloat16 in pieces of at most 15 MiB (cat model.* > model.tar.gz), the curves, the logs.
# DEVICE, PRESET, BATCH and OPTIONS change what is trained: DEVICE=cpu PRESET=tiny BATCH=4 tries the script itself.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/../src:$here" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

pack() {
    "$python" - "$1" "$2" "${3:-30}" <<'PY'
import json, lzma, sys, tarfile, io
from pathlib import Path

data, out, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) * 2**20
manifest = json.loads((data / "manifest.json").read_text())
shards = [data / one["file"] for one in manifest["train"]["shards"]]
tokens = b"".join(path.read_bytes() for path in shards)
smaller = len(lzma.compress(tokens[: 2**23], preset=6)) / min(len(tokens), 2**23)
kept = tokens[: min(len(tokens), int(size / smaller)) // 2 * 2]
with tarfile.open(out, "w:xz", preset=6) as tar:
    for name in ("manifest.json", "tokenizer.json", "tokenizer_config.json", manifest["val"]["shards"][0]["file"]):
        tar.add(data / name, name)
    entry = tarfile.TarInfo("train.bin")
    entry.size = len(kept)
    tar.addfile(entry, io.BytesIO(kept))
print(f"{out}: {len(kept) // 2:,} of {len(tokens) // 2:,} training tokens, {out.stat().st_size / 2**20:.1f} MiB")
PY
}

unpack() {
    mkdir -p "$2"
    "$python" - "$1" "$2" <<'PY'
import hashlib, json, sys, tarfile
from pathlib import Path

out = Path(sys.argv[2])
with tarfile.open(sys.argv[1]) as tar:
    tar.extractall(out, filter="data")
manifest, train = json.loads((out / "manifest.json").read_text()), out / "train.bin"
whole, tokens = manifest["train"], train.stat().st_size // 2
train.rename(out / whole["shards"][0]["file"])
# The manifest must describe the part that is here; bits per byte of the validation text stay what they are.
part = {name: round(whole[name] * tokens / whole["tokens"]) for name in ("documents", "bytes")} | {"tokens": tokens}
digest = hashlib.sha256((out / whole["shards"][0]["file"]).read_bytes()).hexdigest()
manifest["train"] = part | {"shards": [part | {"file": whole["shards"][0]["file"], "sha256": digest}]}
(out / "manifest.json").write_text(json.dumps(manifest))
PY
}

run() {
    out=$2 minutes=${3:-6} device=${DEVICE:-cuda} work=$(mktemp -d)
    mkdir -p "$out"
    unpack "$1" "$work/data"
    # OPTIONS may hold several words.
    # shellcheck disable=SC2086
    "$python" -m gpt1 pretrain "$work/data" --out "$work/run" --preset "${PRESET:-small}" --minutes "$minutes" \
        --device "$device" --batch "${BATCH:-64}" --optim.weight-decay 0.1 --optim.cooldown 0.3 ${OPTIONS:-} \
        > "$out/pretrain.log" 2>&1 &
    training=$!
    while kill -0 $training 2> /dev/null; do
        seconds=0
        while [ $seconds -lt "${KEEP_SECONDS:-60}" ] && kill -0 $training 2> /dev/null; do
            sleep 2
            seconds=$((seconds + 2))
        done
        keep "$work/run" "$out" || true
    done
    wait $training || { echo "pretrain failed; see $out/pretrain.log"; return 1; }
    keep "$work/run" "$out"
    [ "$device" = cuda ] || return 0
    measure training.py --preset gpt1 --batch 64 --updates 3 --repeats 1 --attention-dropout 0.1 --only gpt1 transformers
    measure decode.py --only "gpt1 bf16"
}

measure() {
    name=$1
    shift
    timeout 60 "$python" "$here/$name" "$@" --device "$device" > "$out/$name.log" 2>&1 || echo "$name: see $out/$name.log"
}

# Leave the newest model and its curves in OUT.
keep() {
    [ -e "$1/model.safetensors" ] || return 0
    "$python" "$here/../starter/build.py" "$1" --out "$1.bf16"
    cp "$1/metrics.jsonl" "$1.bf16"
    rm -f "$2"/model.*
    tar -C "$1.bf16" -czf - . | split -b 15m - "$2/model."
}

command=$1
shift
"$command" "$@"
