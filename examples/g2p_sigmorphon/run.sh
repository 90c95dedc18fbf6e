#!/usr/bin/env bash
# Grapheme-to-phoneme conversion of the SIGMORPHON 2021 shared task, five languages with the same settings.
# Usage: run.sh DATA_FOLDER OUTPUT_FOLDER [KEY=VALUE ...]
#   DATA_FOLDER    holds LANGUAGE_train.tsv LANGUAGE_dev.tsv LANGUAGE_test.tsv: word TAB phonemes
#   OUTPUT_FOLDER  gets a folder for each language; a repeated command continues where it stopped
#   KEY=VALUE      more options of s2s-train, such as train.max_updates=1000
# The variable LANGUAGES chooses some of them: LANGUAGES="dut hun" run.sh ...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then sed -n '2,7s/^# //p' "$0" >&2; exit 2; fi
data=$1 out=$2
shift 2
languages=${LANGUAGES:-arm_e dut fre hun jpn_hira}
for language in $languages; do
    [ -f "$data/${language}_train.tsv" ] || { echo "no language $language: no $data/${language}_train.tsv" >&2; exit 2; }
done

scores=()
for language in $languages; do
    folder=$out/$language
    mkdir -p "$folder"
    [ -f "$folder/store/manifest.json" ] ||
        s2s-preprocess source=graphemes target=phonemes train="$data/${language}_train.tsv" \
            valid="$data/${language}_dev.tsv" test="$data/${language}_test.tsv" \
            tokenizer=characters target_tokenizer=words store="$folder/store"
    s2s-train --config "$here/config.yaml" store="$folder/store" run="$folder/run" "$@"
    s2s-generate checkpoint="$folder/run" store="$folder/store" split=test output="$folder/test.hyp"
    cut -f 2 "$data/${language}_test.tsv" > "$folder/test.ref"
    s2s-score hypothesis="$folder/test.hyp" reference="$folder/test.ref" metrics='[ser,per]' \
        format=json output="$folder/scores.json"
    scores+=("$folder/scores.json")
done
python3 "$here/table.py" "${scores[@]}"
