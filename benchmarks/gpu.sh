#!/usr/bin/env bash
# Everything that waits for a GPU, in stages that can be run one at a time and go on where they were stopped.
#
#   benchmarks/gpu.sh [check] [time] [tokenizer] [train] [pack]      default: check
#
# Results are written to $OUT (default: runs/gpu-results) as they come. PYTHON is a Python with a CUDA build of PyTorch
# and the packages of pyproject.toml. MINUTES bounds each training stage (default 8); call it again to go on.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu-results}
PYTHON=${PYTHON:-python3}
MINUTES=${MINUTES:-8}
mkdir -p "$OUT"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1

run() { # name, command…: the output goes to the terminal and to a log
    local name=$1
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$OUT/$name.log"
}

check() {
    run device nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
    # The recorded outputs of the release's code, on the GPU: token agreement is printed, since kernels round differently.
    run golden "$PYTHON" benchmarks/golden.py --device cuda
    # The operators' kernels, compiled instead of interpreted.
    run kernels "$PYTHON" -m pytest -q tests/test_backend.py tests/test_gce.py tests/test_gce_triton.py \
        tests/test_sample_op.py tests/test_sample_triton.py
    run streaming "$PYTHON" -m pytest -q tests/test_streaming.py tests/test_quantization.py tests/test_vq_banded.py
}

time_() {
    run gce "$PYTHON" benchmarks/gce.py --device cuda --dtype bf16 --rows 8192 --dim 4096 --repeats 3
    run tail "$PYTHON" benchmarks/tail.py --device cuda --dtype bf16 --dim 4096 --repeats 3
    run release "$PYTHON" benchmarks/release.py --layers 34 --hidden 4096 --steps 8 16 32 64 --device cuda
    run decode "$PYTHON" benchmarks/decode.py --device cuda
    run generate "$PYTHON" benchmarks/generate.py --device cuda
}

bounded() { # command…: stopped cleanly, with a checkpoint, when its minutes are over
    timeout --signal=INT "$((MINUTES * 60))" "$@"
}

tokenizer() {
    run tokenizer bounded "$PYTHON" -m smalti train-tokenizer configs/scenes-tokenizer.yaml loop.device=cuda "$@"
}

train() {
    run train bounded "$PYTHON" -m smalti train configs/scenes.yaml loop.device=cuda "$@"
}

pack() { # newest models and logs, cut into files of at most 15 MB: cat model.tar.* | tar x
    local model
    model=$(ls -d runs/scenes/model runs/scenes/checkpoint-*/model 2>/dev/null | head -n 1)
    tar cf - $model runs/scenes/log.jsonl runs/scenes-tokenizer/log.jsonl | split -b 15M - "$OUT/model.tar."
}

for stage in "${@:-check}"; do
    case $stage in
        check | tokenizer | train | pack) "$stage" ;;
        time) time_ ;;
        *) echo "unknown stage $stage: check, time, tokenizer, train, pack" >&2; exit 2 ;;
    esac
done
