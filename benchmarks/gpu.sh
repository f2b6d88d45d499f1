#!/usr/bin/env bash
# Run everything that needs a GPU, stage by stage. A stage that was stopped continues when it is called again.
#
#   benchmarks/gpu.sh [objects] [check] [time] [speed] [probe] [sweep] [train] [pack]      default: check
#
# objects the long training of the objects model, and its model, packed. ARCHIVE is the folder of the sprites and
#         TOKENIZER that of the image tokenizer; CARRIED holds either as parts of a tar, *.tar.*. SAMPLES scenes are
#         tokenized by CORES processes, then STEPS steps of BATCH images follow, for TRAINING seconds at most
# check   the tests that depend on a GPU, and the recorded outputs of the reference implementation
# time    gce, release, sample and decode: the operators, a model of the reference shape, the decoder
# speed   shape, small, attention, modes, rivals and maps: commands of less than two minutes, each with a result of its
#         own in $OUT/*.json. One that has a result is not run again
# shape   the release's shape in 8, 16, 32 and 64 steps: plain, CUDA graphs alone, compiled, fp8, fp8 compiled. REUSE
#         names rules of reuse across steps that are measured as well, such as cells
# small   256×256 pixels in 8 steps; attention: kernels, and guidance in two passes; modes: loading modes within 8, 12,
#         16 and 24 GB; maps: pixels from whole maps, channels last, in bfloat16, compiled
# rivals  grouped cross-entropy against Liger Kernel and Cut Cross-Entropy, whose wheels are in WHEELS (default: wheels)
# probe   training speed in images a second, with compiled layers and without
# sweep   what each part of the training brings, AT_ONCE (8) trainings at a time; VARIANTS names some, with | between
# train   continue the bundled model with STEPS steps of BATCH images; OVERRIDES holds key=value words;
#         START names another model to continue from, or, empty, none
# pack    the trained model and its log, cut into files of 15 MB
#
# Results are written to $OUT (default: runs/gpu-results). PYTHON is a Python with a CUDA build of PyTorch and the
# packages of pyproject.toml. LIMIT bounds each command of a stage in seconds (default 240); a training that reaches
# it leaves a checkpoint and continues when it is called again.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu-results}
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-240}
DEVICE=${DEVICE:-cuda}
BATCH=${BATCH:-256}
STEPS=${STEPS:-2350}
START=${START-smalti/models/scenes}
mkdir -p "$OUT"
export PYTHON DEVICE PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

# Scenes and cache are the configuration's.
FROM=(tokenizer=smalti/models/scenes)
[[ -n $START ]] && FROM+=("start_from=$START")
ONE=("loop.device=$DEVICE" loop.accumulate=1 loop.processes=1 loop.preview_every=1000000)

run() { # name, command…: the output goes to the terminal and to a log
    local name=$1 started=$SECONDS
    shift
    echo "== $name: $*"
    timeout --signal=INT --kill-after=20 "$LIMIT" "$@" 2>&1 | tee "$OUT/$name.log" | tail -n 40
    echo "== $name took $((SECONDS - started)) s"
}

once() { # name, command…: a JSON object into $OUT/name.json, unless it is there
    local name=$1 started=$SECONDS
    shift
    [[ -s $OUT/$name.json ]] && return
    if timeout --signal=INT --kill-after=20 "${STAGE_LIMIT:-120}" "$@" --json >"$OUT/$name.part" 2>"$OUT/$name.err"; then
        mv "$OUT/$name.part" "$OUT/$name.json"
        echo "== $name, $((SECONDS - started)) s: $(tail -n 1 "$OUT/$name.json" | cut -c 1-600)"
    else
        echo "== $name failed after $((SECONDS - started)) s: $(tail -n 1 "$OUT/$name.err")"
    fi
}

FULL=("$PYTHON" benchmarks/release.py --layers 34 --hidden 4096 --device "$DEVICE")

shape() {
    local steps rule
    for steps in 8 64 16 32; do
        once "shape-plain-$steps" "${FULL[@]}" --steps "$steps"
        once "shape-graphs-$steps" "${FULL[@]}" --steps "$steps" --graphs
        once "shape-compiled-$steps" "${FULL[@]}" --steps "$steps" --compile
        once "shape-fp8-$steps" "${FULL[@]}" --steps "$steps" --quantize fp8 --graphs
        once "shape-fp8-compiled-$steps" "${FULL[@]}" --steps "$steps" --quantize fp8 --compile --image-dtype bf16
        for rule in ${REUSE:-}; do
            once "shape-${rule//[:=,]/-}-$steps" "${FULL[@]}" --steps "$steps" --reuse "$rule"
        done
    done
}

small() {
    once small-plain "${FULL[@]}" --size 256 --steps 8 --repeats 5
    once small-graphs "${FULL[@]}" --size 256 --steps 8 --repeats 5 --graphs
    once small-compiled "${FULL[@]}" --size 256 --steps 8 --repeats 5 --compile
    once small-fp8 "${FULL[@]}" --size 256 --steps 8 --repeats 5 --quantize fp8 --compile --image-dtype bf16
}

attention() {
    local name
    for name in flash cudnn efficient; do
        once "attention-$name" "${FULL[@]}" --steps 8 --attention "$name"
    done
    once passes-2 "${FULL[@]}" --steps 8 --passes 2
}

modes() {
    local size
    for size in 24 16 12 8; do
        once "modes-$size" "$PYTHON" benchmarks/modes.py --memory "${size}GB" --device "$DEVICE"
    done
}

maps() {
    local name
    for name in plain_float32 last_float32 plain_bf16 last_bf16 bands_float32 bands_bf16 compiled_float32 compiled_bf16; do
        once "maps-$name" "$PYTHON" benchmarks/decode.py --device "$DEVICE" --only "$name"
    done
    once maps-differences "$PYTHON" benchmarks/decode.py --device "$DEVICE" --only plain_float32 plain_bf16 last_bf16
}

rivals() {
    local name wheels=(${WHEELS:-wheels}/*.whl)
    [[ -d runs/rivals ]] || "$PYTHON" -m pip install --quiet --no-deps --no-index --target runs/rivals "${wheels[@]}"
    for name in naive smalti smalti_grouped smalti_float32 liger cce; do
        PYTHONPATH=$PYTHONPATH:$PWD/runs/rivals once "rivals-$name" "$PYTHON" benchmarks/gce.py --device "$DEVICE" \
            --dtype bf16 --rows 8192 --dim 4096 --only "$name"
    done
}

check() {
    run device nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
    # Kernels round differently, so the share of equal tokens is printed.
    run golden "$PYTHON" tools/check_golden.py --device cuda
    # The operators' kernels, compiled instead of interpreted, and every other test that runs on a GPU.
    run tests "$PYTHON" -m pytest -q ${WORKERS:+-n "$WORKERS"} tests/ops tests/runtime tests/vq tests/training
}

gce() {
    run gce "$PYTHON" benchmarks/gce.py --device cuda --dtype bf16 --rows 8192 --dim 4096 \
        --only naive smalti smalti_grouped smalti_float32
}

release() {
    run release "$PYTHON" benchmarks/release.py --layers 34 --hidden 4096 --steps 8 16 32 64 --device cuda
}

sample() {
    run sample "$PYTHON" benchmarks/sample.py --device cuda --dtype bf16 --dim 4096
}

decode() {
    run decode "$PYTHON" benchmarks/decode.py --device cuda
}

probe() {
    local kind
    for kind in ${COMPILE:-false true}; do
        run "probe-compile-$kind" "$PYTHON" -m smalti train configs/scenes.yaml "${FROM[@]}" "${ONE[@]}" \
            output="runs/probe-$kind" compile=$kind loop.batch_size="$BATCH" loop.steps="${PROBE_STEPS:-300}" \
            loop.log_every=50
        tail -n 3 "runs/probe-$kind/log.jsonl"
    done
}

one_of_the_sweep() { # name, seed
    "$PYTHON" experiments/sweep.py --tokenizer smalti/models/scenes --start-from smalti/models/scenes --cache cache/scenes \
        --output runs/sweep --device "$DEVICE" --variants "$1" --seeds "$2" --steps "${SWEEP_STEPS:-400}" \
        --images "${SWEEP_IMAGES:-480}" --scenes 256 --set "${FROM[@]}" "${ONE[@]}" loop.batch_size=128 \
        loop.checkpoint_every=1000000 optimizer.learning_rate=5e-4 2>&1 | tail -n 3
}

sweep() {
    export -f one_of_the_sweep
    local seed variants
    if [[ -n ${VARIANTS:-} ]]; then
        IFS='|' read -ra variants <<<"$VARIANTS"
    else
        mapfile -t variants < <("$PYTHON" experiments/sweep.py --list-variants --tokenizer x | cut -d: -f1)
    fi
    for seed in ${SEEDS:-0}; do
        printf '%s\0' "${variants[@]}" | timeout "$LIMIT" xargs -0 -P "${AT_ONCE:-8}" -I{} bash -c "$(declare -p FROM ONE); one_of_the_sweep '{}' $seed"
    done
    mkdir -p "$OUT/sweep"
    for folder in runs/sweep/*/; do
        [[ -f $folder/measured.json ]] && cp "$folder/measured.json" "$OUT/sweep/$(basename "$folder").json"
    done
}

train() {
    run train "$PYTHON" -m smalti train configs/scenes.yaml "${FROM[@]}" "${ONE[@]}" output=runs/on \
        loop.batch_size="$BATCH" loop.steps="$STEPS" loop.log_every=50 loop.checkpoint_every=2000 ${OVERRIDES:-}
}

objects() {
    local archive=${ARCHIVE:-objects} tokenizer=${TOKENIZER:-runs/objects-tokenizer/model} tokens=runs/objects-tokens
    [[ -n ${CARRIED:-} ]] && cat "$CARRIED"/*.tar.* | tar x
    local settings # of the configuration's data
    mapfile -t settings < <("$PYTHON" -c '
import json, yaml
data = yaml.safe_load(open("configs/objects.yaml"))["data"]
print("\n".join(f"{key}={json.dumps(value)}" for key, value in data.items() if key not in ("kind", "archive")))')
    OMP_NUM_THREADS=1 run objects-tokens "$PYTHON" -m smalti tokenize objects "archive=$archive" "${settings[@]}" \
        -o "$tokens" --tokenizer "$tokenizer" --samples "${SAMPLES:-262144}" --processes "${CORES:-$(nproc)}"
    LIMIT=${TRAINING:-300} \
        run objects "$PYTHON" -m smalti train configs/objects.yaml "tokenizer=$tokenizer" \
        "data={kind: tokens, path: $tokens}" cache=null "loop.device=$DEVICE" loop.preview_every=1000000 \
        output=runs/objects loop.batch_size="$BATCH" loop.steps="$STEPS" loop.log_every=50 \
        loop.checkpoint_every=500 "compile=${COMPILE:-true}" ${OVERRIDES:-}
    pack objects
}

pack() { # the newest model, cut into files of at most 15 MB: cat model.tar.* | tar x
    local run=runs/${1:-on} model
    for model in "$run/model" "$run"/checkpoint-*; do # the model, or what a stopped training left
        [[ -d $model ]] && break
    done
    # The image tokenizer is at hand already.
    tar cf - --exclude="$model/vq" "$model" "$run/log.jsonl" | split -b 15M - "$OUT/${1:-model}.tar."
}

for stage in "${@:-check}"; do
    case $stage in
        shape | small | attention | modes | maps | rivals) "$stage" ;;
        speed) shape; small; attention; modes; maps; rivals ;;
        objects | check | gce | release | sample | decode | probe | sweep | train | pack) "$stage" ;;
        time) gce; release; sample; decode ;;
        *) echo "unknown stage $stage: objects, check, time, speed, probe, sweep, train, pack" >&2; exit 2 ;;
    esac
done
