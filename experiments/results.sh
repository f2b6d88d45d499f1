#!/usr/bin/env bash
# Measure a model in stages. Each stage can run alone.
#
#   experiments/results.sh [--list] [STAGE …]      default: all but the last four, which train
#
# Results go to $OUT (default: runs/results), one file a stage, with the minutes that it took. The script first predicts
# its running time. --list prints the stages and their minutes on two CPU cores. MODEL is a model folder (default: the
# bundled model), DTYPE the denoiser's dtype (default: bfloat16, which is faster), PYTHON a Python with Smalti in it.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/results}
PYTHON=${PYTHON:-.venv/bin/python}
MODEL=${MODEL:-}
DTYPE=${DTYPE:-bfloat16}

STAGES=(ceiling contrast scores again editing steps tokenizer distance edits edit_time rules16 mistakes held_out tables sweep gce shape codebook)
declare -A WHAT=(
    [ceiling]="ground-truth renderings, and the same after the image tokenizer: the highest possible score"
    [contrast]="whether prompts are told apart"
    [scores]="scenes scores: 402 prompts, 4 images each, of every preset"
    [again]="the score of quality with other prompts and seeds, twice"
    [editing]="with token editing and without, at 4, 8 and 16 steps, three seeds"
    [steps]="quality against steps, every rule"
    [tokenizer]="the image tokenizer: round trip of unseen scenes"
    [distance]="Fréchet distance from unseen scenes"
    [edits]="200 edits with known truth"
    [edit_time]="seconds of an edit against a drawing"
    [tables]="the tables of docs/results.md"
    [rules16]="at 16 steps, three seeds: other rules, other thresholds, refinement"
    [mistakes]="how wrong images of 16 steps are wrong, and whether editing could repair them"
    [held_out]="shapes in colours that training never shows, pair by pair"
    [sweep]="what each part of the training brings: 26 short trainings, and half an hour for their token cache"
    [gce]="grouped cross-entropy against cross-entropy: ten trainings"
    [shape]="width against depth: three trainings, and half an hour for their token cache"
    [codebook]="the codebook's size: three image tokenizers and a denoiser for each"
)

# Minutes on two CPU cores on which the yardstick takes YARDSTICK_SECONDS. Those of rules16, mistakes, sweep, gce, shape
# and codebook are estimates from shorter runs or from one core; the others were measured. Sweep and shape share a token
# cache, which takes another half an hour if it does not exist yet.
YARDSTICK_SECONDS=8
declare -A MINUTES=(
    [ceiling]=2 [contrast]=2 [scores]=24 [again]=26 [editing]=14 [steps]=14 [tokenizer]=1 [distance]=3 [edits]=7 [edit_time]=1
    [rules16]=20 [mistakes]=7 [held_out]=1 [tables]=1
    [sweep]=154 [gce]=140 [shape]=18 [codebook]=45
)

# Print the seconds that a few images take on this machine.
yardstick() {
    smalti evaluate scenes --images 24 --steps 8 --json | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["seconds"])'
}

smalti() {
    "$PYTHON" -m smalti "$@" ${MODEL:+--model "$MODEL"}
}

ceiling() {
    smalti evaluate scenes --ground-truth --tokenized --set lattice=8 --images 420 --json >"$OUT/score-tokenized.json"
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
    local seed
    for seed in 1 2; do
        smalti evaluate scenes --preset quality --images 1608 -n 4 --seed $seed --dtype "$DTYPE" --json \
            >"$OUT/score-seed$seed.json"
    done
}

editing() {
    "$PYTHON" experiments/steps.py ${MODEL:+--model "$MODEL"} --dtype "$DTYPE" --output "$OUT/editing" --steps 4 8 16 \
        --rules none threshold --images 240
}

steps() {
    "$PYTHON" experiments/steps.py ${MODEL:+--model "$MODEL"} --dtype "$DTYPE" --output "$OUT/steps" --images 60 \
        --seeds 0
}

tokenizer() {
    smalti evaluate tokenizer --json >"$OUT/tokenizer.json"
}

distance() {
    smalti evaluate distance --images 500 --set scenes=1000 --dtype "$DTYPE" --json >"$OUT/distance.json"
}

edits() {
    # Seed 0 is what the defaults of editing were chosen on.
    smalti evaluate edits --images 200 --seed 1 --dtype "$DTYPE" --json >"$OUT/edits.json"
}

edit_time() {
    "$PYTHON" benchmarks/editing.py ${MODEL:+--model "$MODEL"} --json >"$OUT/editing-time.json"
}

tables() {
    "$PYTHON" experiments/results.py "$OUT" >"$OUT/tables.md"
}

rules16() {
    "$PYTHON" experiments/steps.py ${MODEL:+--model "$MODEL"} --dtype "$DTYPE" --output "$OUT/rules16" --steps 16 \
        --images 240 --rules threshold:0.15 token_to_mask token_to_mask:threshold=0.25 \
        "none refinement=rare:share=0.25" "threshold refinement=rare:share=0.25"
}

mistakes() {
    "$PYTHON" experiments/mistakes.py ${MODEL:+--model "$MODEL"} --dtype "$DTYPE" --json >"$OUT/mistakes.json"
}

held_out() {
    "$PYTHON" experiments/held_out.py ${MODEL:+--model "$MODEL"} --dtype "$DTYPE" >"$OUT/held-out.md"
}

sweep() {
    "$PYTHON" experiments/sweep.py --tokenizer "${MODEL:-smalti/models/scenes}" --start-from "${MODEL:-smalti/models/scenes}" \
        --cache cache/scenes --output "$OUT/sweep" --set optimizer.learning_rate=3e-4
}

gce() {
    local tokenizer=runs/tokenizer-8192
    "$PYTHON" -m smalti train-tokenizer configs/scenes-tokenizer.yaml output=$tokenizer model.codebook_size=8192 \
        loop.steps=2400
    "$PYTHON" experiments/sweep.py --tokenizer $tokenizer/model --steps 800 --groups 512 2048 --cache cache/gce \
        --variants "as configured" "512 groups × 0.2" "512 groups × 1" "2048 groups × 0.2" "2048 groups × 1" \
        --output "$OUT/gce" --set cache.samples=32768
}

# Settings of a denoiser of some width and depth; the configured one has 256 and 8.
of_shape() {
    echo "model.hidden_size=$1 model.num_hidden_layers=$2 model.num_attention_heads=$(($1 / 32))" \
        "model.num_key_value_heads=$(($1 / 32)) model.intermediate_size=$(($1 * 11 / 4))"
}

shape() {
    "$PYTHON" experiments/sweep.py --tokenizer "${MODEL:-smalti/models/scenes}" --cache cache/scenes --output "$OUT/shape" \
        --steps 400 --images 0 --seeds 0 --set loop.processes=1 --variants "as configured" \
        --own "352 wide 4 deep: $(of_shape 352 4)" "192 wide 14 deep: $(of_shape 192 14)"
}

codebook() {
    local size folder
    for size in 1024 4096 16384; do
        folder=runs/codebook-$size
        "$PYTHON" -m smalti train-tokenizer configs/scenes-tokenizer.yaml output=$folder model.codebook_size=$size \
            loop.steps=1500
        "$PYTHON" -m smalti evaluate tokenizer --model $folder/model --json >"$OUT/tokenizer-$size.json"
        "$PYTHON" experiments/sweep.py --tokenizer $folder/model --cache cache/codebook-$size --output "$OUT/codebook-$size" \
            --steps 250 --images 0 --seeds 0 --variants "as configured" --set cache.samples=8000 loop.processes=1
        "$PYTHON" -m smalti evaluate scenes --ground-truth --tokenized --set lattice=8 --images 420 \
            --model "$OUT/codebook-$size/as-configured-seed0/model" --json >"$OUT/score-tokenized-$size.json"
    done
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
[[ $# -gt 0 ]] || set -- "${STAGES[@]:0:${#STAGES[@]}-4}"
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
