#!/usr/bin/env bash
# Measure the bundled models by every suite that runs here, and print the tables of docs/results.md.
#
#   experiments/report.sh [--list] [MODEL …]      default: every bundled model
#
# Results go to $OUT (default: runs/report), a folder a model and a file a suite; what is there is not measured again.
# The tables are in $OUT/tables.md, with the paper's values beside, marked as such. PYTHON is a Python with Smalti in it,
# DEVICE the models' device, SCALE a factor of all numbers of images (default: 1), ARCHIVE an archive of sprites.
#
# Published benchmarks need what they cannot ship, so each runs where its variables say what to use:
#   GENEVAL_PROMPTS and DETECTOR and CLIP       geneval, by the HF detector
#   DPG_QUESTIONS and VQA                       dpg
#   HPSV3_PROMPTS and HPSV3 and HPSV3_BASE      hpsv3
#   HPSV2_PROMPTS and HPSV2                     hpsv2
#   PROMPTS with PICKSCORE, IMAGEREWARD, CLIP   pickscore, imagereward, clip-score
#   MJHQ and INCEPTION                          fid
# SUBSET takes that many prompts of each. SCORER_DEVICE is the device of their networks.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/report}
PYTHON=${PYTHON:-.venv/bin/python}
DEVICE=${DEVICE:-cpu}
SCORER_DEVICE=${SCORER_DEVICE:-cpu}
SCALE=${SCALE:-1}

# Own suites of each kind of model, with the number of images and the minutes on two CPU cores. The objects' minutes are
# estimates.
OWN_scenes="scenes:1608:11 contrast:96:2 distance:500:3 edits:200:7 tokenizer:256:1"
OWN_objects="objects:1608:25 tokenizer:256:2"

models() {
    local folder
    for folder in smalti/models/*/; do
        [[ -f $folder/config.json ]] && basename "$folder"
    done
}

# Print the own suites of a model: those of things for a model whose name says so.
own() {
    if [[ $1 == *objects* ]]; then echo "$OWN_objects"; else echo "$OWN_scenes"; fi
}

# Print the suites of published benchmarks that the variables allow.
published() {
    local names=()
    [[ -n ${GENEVAL_PROMPTS:-} && -n ${DETECTOR:-} && -n ${CLIP:-} ]] && names+=(geneval)
    [[ -n ${DPG_QUESTIONS:-} && -n ${VQA:-} ]] && names+=(dpg)
    [[ -n ${HPSV3_PROMPTS:-} && -n ${HPSV3:-} && -n ${HPSV3_BASE:-} ]] && names+=(hpsv3)
    [[ -n ${HPSV2_PROMPTS:-} && -n ${HPSV2:-} ]] && names+=(hpsv2)
    [[ -n ${PROMPTS:-} && -n ${PICKSCORE:-} ]] && names+=(pickscore)
    [[ -n ${PROMPTS:-} && -n ${IMAGEREWARD:-} ]] && names+=(imagereward)
    [[ -n ${PROMPTS:-} && -n ${CLIP:-} ]] && names+=(clip-score)
    [[ -n ${MJHQ:-} && -n ${INCEPTION:-} ]] && names+=(fid)
    echo "${names[@]:-}"
}

options() {
    case $1 in
        geneval) echo "--prompts $GENEVAL_PROMPTS --set detector=$DETECTOR --set clip=$CLIP" ;;
        dpg) echo "--set questions=$DPG_QUESTIONS --set vqa=$VQA --set partial=true" ;;
        hpsv3) echo "--prompts $HPSV3_PROMPTS --set weights=$HPSV3 --set base=$HPSV3_BASE" ;;
        hpsv2) echo "--prompts $HPSV2_PROMPTS --set clip=$HPSV2" ;;
        pickscore) echo "--prompts $PROMPTS --set clip=$PICKSCORE" ;;
        imagereward) echo "--prompts $PROMPTS --set weights=$IMAGEREWARD" ;;
        clip-score) echo "--prompts $PROMPTS --set clip=$CLIP" ;;
        fid) echo "--set reference=$MJHQ --set weights=$INCEPTION" ;;
    esac
}

# Measure a model by one of its own suites.
measure() {
    local model=$1 suite=$2 images more=()
    images=$("$PYTHON" -c "print(max(24, round($3 * $SCALE)))")
    case $suite in
        scenes | objects) images=$((images / 4 * 4)) && more=(-n 4 --preset quality) ;;
        distance) more=(--set "scenes=$((images * 2))") ;;
        edits) more=(--seed 1) ;; # seed 0 is what the defaults of editing were chosen on
        tokenizer) [[ $model == *objects* ]] && more=(--set world=objects --set "archive=${ARCHIVE:-objects}") ;;
    esac
    "$PYTHON" -m smalti evaluate "$suite" --model "$model" --device "$DEVICE" --images "$images" \
        "${more[@]}" --report "$OUT/$model/$suite.json" >/dev/null
}

if [[ ${1:-} == --list ]]; then
    for model in $(models); do
        for entry in $(own "$model"); do
            IFS=: read -r suite images minutes <<<"$entry"
            printf '%-10s %-12s %5d images %4d min\n' "$model" "$suite" "$images" "$minutes"
        done
    done
    printf 'published: %s\n' "$(published)"
    exit
fi
[[ $# -gt 0 ]] || mapfile -t chosen < <(models)
[[ $# -eq 0 ]] || chosen=("$@")
for model in "${chosen[@]}"; do
    mkdir -p "$OUT/$model"
    for entry in $(own "$model"); do
        IFS=: read -r suite images minutes <<<"$entry"
        [[ -f $OUT/$model/$suite.json ]] && continue
        echo "== $model: $suite" >&2
        measure "$model" "$suite" "$images" || echo "== $model: $suite does not run here" >&2
    done
    for suite in $(published); do
        [[ -f $OUT/$model/$suite.json ]] && continue
        echo "== $model: $suite" >&2
        # shellcheck disable=SC2046
        "$PYTHON" -m smalti evaluate "$suite" --model "$model" --device "$DEVICE" --save "$OUT/$model/$suite-images" \
            --set "device=$SCORER_DEVICE" $(options "$suite") ${SUBSET:+--prompts "$SUBSET"} \
            --report "$OUT/$model/$suite.json" >/dev/null || echo "== $model: $suite does not run here" >&2
    done
done
"$PYTHON" experiments/report.py "$OUT" | tee "$OUT/tables.md"
