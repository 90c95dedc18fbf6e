#!/usr/bin/env bash
# Back-translation on Multi30k, German to English: with few pairs and much English text, against the pairs alone.
# Usage: run.sh DATA_FOLDER OUTPUT_FOLDER [KEY=VALUE ...]
#   DATA_FOLDER    holds train.{de,en} val.{de,en} test_2016_flickr.{de,en}
#   OUTPUT_FOLDER  gets the stores, the runs and the scores; a repeated command continues where it stopped
#   KEY=VALUE      more options of s2s-train, such as train.max_updates=1000
# Environment:
#   PAIRS (5000)   pairs that are used
#   LINES (20000)  lines of English text, from further captions
#   DECODE         options by which the German text is written; by default it is sampled from the ten likeliest tokens
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then sed -n '2,10s/^# //p' "$0" >&2; exit 2; fi
data=$1 out=$2
shift 2
pairs=${PAIRS:-5000} lines=${LINES:-20000}
read -ra decode <<< "${DECODE:-decode.search=sample decode.top_k=10}"

mkdir -p "$out"
for side in de en; do head -n "$pairs" "$data/train.$side" > "$out/pairs.$side"; done
tail -n +$((pairs + 1)) "$data/train.en" | head -n "$lines" > "$out/written.en"

# Both sides share the vocabulary. <given> and <written> stand before a source: a tag says which of both it is.
[ -f "$out/store/manifest.json" ] ||
    s2s-preprocess source=de target=en train="$out/pairs" valid="$data/val" test="$data/test_2016_flickr" \
        tokenizer=sentencepiece tokenizer.vocab_size="${VOCABULARY:-4000}" tokenizer.reserved='[<given>,<written>]' \
        tags='[origin=given]' store="$out/store"
[ -f "$out/reversed/manifest.json" ] ||
    s2s-preprocess source=en target=de train="$out/pairs" valid="$data/val" tokenizer_from="$out/store" store="$out/reversed"

# A model of the other direction writes German for the English text.
s2s-train --config "$here/config.yaml" store="$out/reversed" run="$out/runs/reversed" "$@"
[ -f "$out/written.de" ] ||
    s2s-generate checkpoint="$out/runs/reversed" input="$out/written.en" output="$out/written.de" "${decode[@]}"
[ -f "$out/back/manifest.json" ] ||
    s2s-preprocess source=de target=en train="$out/written" tokenizer_from="$out/store" tags='[origin=written]' store="$out/back"

s2s-train --config "$here/config.yaml" store="$out/store" run="$out/runs/pairs" "$@"
s2s-train --config "$here/config.yaml" store="[$out/store,$out/back]" run="$out/runs/both" task.source_tags='[origin]' "$@"

for run in pairs both; do
    s2s-generate checkpoint="$out/runs/$run" store="$out/store" split=test output="$out/$run.en"
    echo "$run: $(s2s-score hypothesis="$out/$run.en" reference="$data/test_2016_flickr.en" metrics='[bleu,chrf]')"
done | tee "$out/scores.txt"
