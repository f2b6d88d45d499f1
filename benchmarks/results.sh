#!/usr/bin/env bash
# The measurements of a model, in stages that can be run one at a time.
#
#   benchmarks/results.sh [--list] [STAGE …]      default: all but sweep and gce, which train
#
# Results go to $OUT (default: runs/results), a file a stage, with the minutes that it took. How long it will take is
# said first. --list says what the stages are and how long they took on two CPU cores. MODEL is a model folder (default:
# the bundled model), DTYPE that of the denoiser (default: bfloat16, which is faster), PYTHON a Python with Smalti in it.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/results}
PYTHON=${PYTHON:-.venv/bin/python}
MODEL=${MODEL:-}
DTYPE=${DTYPE:-bfloat16}

STAGES=(ceiling contrast scores again editing steps tokenizer distance edits edit_time tables sweep gce)
declare -A WHAT=(
    [ceiling]="right drawings, and those after the image tokenizer: what a score can be at most"
    [contrast]="whether prompts are told apart"
    [scores]="scenes scores: 402 prompts, 4 pictures each, of every preset"
    [again]="the score of quality with other prompts and seeds"
    [editing]="with token editing and without, at 4, 8 and 16 steps, three seeds"
    [steps]="quality against steps, every rule"
    [tokenizer]="the image tokenizer, there and back"
    [distance]="Fréchet distance from unseen scenes"
    [edits]="200 edits with known truth"
    [edit_time]="seconds of an edit against a drawing"
    [tables]="the tables of docs/results.md"
    [sweep]="what each part of the training brings: 24 short trainings"
    [gce]="grouped cross-entropy against cross-entropy: ten trainings"
)

# Minutes on two cores of a CPU on which the yardstick takes so many seconds. Those of sweep and gce are reckoned from
# shorter runs, the others were measured.
YARDSTICK_SECONDS=8
declare -A MINUTES=(
    [ceiling]=2 [contrast]=2 [scores]=24 [again]=13 [editing]=14 [steps]=14 [tokenizer]=1 [distance]=3 [edits]=7 [edit_time]=1 [tables]=1
    [sweep]=142 [gce]=140
)

# Seconds that a few pictures take here: the measure of this machine.
yardstick() {
    smalti evaluate scenes --images 24 --steps 8 --json | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["seconds"])'
}

smalti() {
    "$PYTHON" -m smalti "$@" ${MODEL:+--model "$MODEL"}
}

ceiling() {
    smalti evaluate scenes --ground-truth --tokenized --lattice 8 --images 420 --json >"$OUT/score-tokenized.json"
    "$PYTHON" -m smalti evaluate scenes --ground-truth --images 420 --json >"$OUT/score-truth.json"
    "$PYTHON" -m smalti evaluate scenes --shuffled --images 420 --json >"$OUT/score-shuffled.json"
}

contrast() {
    smalti evaluate contrast --json >"$OUT/contrast.json"
}

scores() {
    local preset
    for preset in fast balanced quality; do
        smalti evaluate scenes --preset "$preset" --images 1608 -n 4 --dtype "$DTYPE" --json >"$OUT/score-$preset.json"
    done
}

again() {
    smalti evaluate scenes --preset quality --images 1608 -n 4 --seed 1 --dtype "$DTYPE" --json >"$OUT/score-again.json"
}

editing() {
    "$PYTHON" benchmarks/steps.py ${MODEL:+--model "$MODEL"} --dtype "$DTYPE" --output "$OUT/editing" --steps 4 8 16 \
        --rules none threshold --pictures 240
}

steps() {
    "$PYTHON" benchmarks/steps.py ${MODEL:+--model "$MODEL"} --dtype "$DTYPE" --output "$OUT/steps" --pictures 60 \
        --seeds 0
}

tokenizer() {
    smalti evaluate tokenizer --json >"$OUT/tokenizer.json"
}

distance() {
    smalti evaluate distance --images 500 --scenes 1000 --dtype "$DTYPE" --json >"$OUT/distance.json"
}

edits() {
    # Seed 0 is what the defaults of editing were chosen on.
    smalti evaluate edits --edits 200 --seed 1 --dtype "$DTYPE" --json >"$OUT/edits.json"
}

edit_time() {
    "$PYTHON" benchmarks/editing.py ${MODEL:+--model "$MODEL"} --json >"$OUT/editing-time.json"
}

tables() {
    "$PYTHON" benchmarks/results.py "$OUT" >"$OUT/tables.md"
}

sweep() {
    "$PYTHON" benchmarks/sweep.py --tokenizer "${MODEL:-smalti/models/scenes}" --start-from "${MODEL:-smalti/models/scenes}" \
        --cache cache/scenes --output "$OUT/sweep" --set optimizer.learning_rate=3e-4
}

gce() {
    local tokenizer=runs/tokenizer-8192
    "$PYTHON" -m smalti train-tokenizer configs/scenes-tokenizer.yaml output=$tokenizer model.codebook_size=8192 \
        loop.steps=2400
    "$PYTHON" benchmarks/sweep.py --tokenizer $tokenizer/model --steps 800 --groups 512 2048 --cache cache/gce \
        --variants "as configured" "512 groups × 0.2" "512 groups × 1" "2048 groups × 0.2" "2048 groups × 1" \
        --output "$OUT/gce" --set cache.samples=32768
}

list() {
    local stage
    for stage in "${STAGES[@]}"; do
        printf '%-10s %4d min  %s\n' "$stage" "${MINUTES[$stage]}" "${WHAT[$stage]}"
    done
}

if [[ ${1:-} == --list ]]; then
    list
    exit
fi
[[ $# -gt 0 ]] || set -- "${STAGES[@]:0:11}"
total=0
for stage in "$@"; do
    [[ -n ${WHAT[$stage]:-} ]] || { echo "no stage $stage; there are: ${STAGES[*]}" >&2; exit 1; }
    total=$((total + MINUTES[$stage]))
done
mkdir -p "$OUT"
seconds=$(yardstick)
"$PYTHON" -c "print(f'$# stages: about {$total * $seconds / $YARDSTICK_SECONDS:.0f} minutes here')"
for stage in "$@"; do
    started=$SECONDS
    echo "== $stage: ${WHAT[$stage]}"
    "$stage"
    echo "== $stage took $(((SECONDS - started + 59) / 60)) min" | tee "$OUT/$stage.took"
done
