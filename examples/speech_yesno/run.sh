#!/usr/bin/env bash
# Speech to text on yesno, from recordings to word error rate on Kaldi's test part.
# Usage: run.sh DATA_FOLDER OUTPUT_FOLDER [KEY=VALUE ...]
#   DATA_FOLDER    holds the 60 recordings, .flac or .wav, whose names are what is said
#   OUTPUT_FOLDER  gets manifests, store, run, hypotheses and scores; a repeated command continues where it stopped
#   KEY=VALUE      more options of s2s-train, such as seed=2
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then sed -n '2,6s/^# //p' "$0" >&2; exit 2; fi
data=$1 out=$2
shift 2

if [ ! -f "$out/store/manifest.json" ]; then
    python3 "$here/prepare.py" "$data" "$out"
    s2s-preprocess task=speech_to_text train="$out/train.tsv" valid="$out/valid.tsv" test="$out/test.tsv" \
        tokenizer=words features.sample_rate=8000 features.bins=40 features.keep=waveform store="$out/store"
fi

s2s-train --config "$here/config.yaml" store="$out/store" run="$out/run" "$@"

s2s-generate checkpoint="$out/run" store="$out/store" split=test decode.beam_size=1 output="$out/test.hyp"

s2s-score hypothesis="$out/test.hyp" store="$out/store" metrics='[wer]' | tee "$out/scores.txt"
