#!/usr/bin/env bash
# The second test of the predictor (plan.md), on a machine with an H200, in this order:
#
#   measure.sh alone    new models alone, and predictions from these runs                   about 2 minutes
#   measure.sh probe    one pair of each under MPS, and predictions from these pairs        about 1 minute
#   measure.sh stress   exploratory: pairs with stressors, and predictions from them        about 3 minutes
#   measure.sh host     exploratory: known models alone on this host, and predictions       about 2 minutes
#   measure.sh pairs    the pairs that were predicted, and how far off predictions were     about 6 minutes
#
# Records, predictions and hashes go to OUT (default: second-test). DRY=1 shows what would run. NEW="MODEL ..." names
# fewer new models, where one does not run. PYTHON is the Python that has mtexp.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../../.." && pwd)
python=${PYTHON:-python3}
mkdir -p "${OUT:-second-test}"
out=$(cd "${OUT:-second-test}" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

read -ra new <<<"${NEW:-clip_vit_b_32 dac_44khz bart_base smollm2_360m convnext_tiny mobilebert qwen3_moe_6_layers}"
six=("${new[@]:0:6}")
partners=(distilgpt2 deberta_v3_base mistral_7b vit_base qwen3_0_6b llama_3_2_1b)
eager_partners=(bert_base distilgpt2 deberta_v3_base llama_3_2_1b mistral_7b)
sixteen=(bert_base bert_large deberta_v3_base deberta_v3_large distilgpt2 gemma_3_1b llama_3_2_1b llama_3_2_3b
  minilm_l6 mistral_7b modernbert_base qwen3_0_6b t5_base vit_base wav2vec2_base yolos_small)
graphs=(--mode "time slicing, cuda_graph" --mode "MPS, cuda_graph")
under_mps=(--mode "MPS, cuda_graph")
eager=(--mode "time slicing" --mode MPS)

# --- mixes ---

graph_pairs() {
  for i in "${!new[@]}"; do
    for j in 0 2 4; do echo "${partners[(i + j) % 6]}+${new[i]}"; done
    echo "${new[i]}+${new[(i + 1) % ${#new[@]}]}"
  done
}
eager_pairs() {
  for i in "${!six[@]}"; do
    for j in 0 2 3; do echo "${eager_partners[(i + j) % 5]}+${six[i]}"; done
    echo "${six[i]}+${six[(i + 1) % ${#six[@]}]}"
  done
}
one_pair_each() { printf 'bert_base+%s\n' "${new[@]}"; }
stressed() {
  for model in "${six[@]}" bert_base distilgpt2 llama_3_2_1b; do
    for size in 1024 2048 4096; do echo "$model+stress_sm_$size"; done
  done
}
commas() { paste -sd, -; }

# --- measuring ---

# measure SWEEP KEY=VALUE...: its records are in OUT/SWEEP
measure() {
  local sweep=$1
  shift
  mkdir -p "$out/$sweep"
  (cd "$out/$sweep" && "$python" "$root/run.py" -m --config-dir "$here" tracking=none measure.iterations=20 \
    sweep="$sweep" "$@" ${DRY:+dry_run=true})
}
alone() { measure "$1" measure.design=sustained baseline=skip "${@:2}"; }
in_turns() { measure "$1" measure.design=crossover side_by_side=mixes "${@:2}"; }

# --- predicting ---

# predict NAME MIXES OPTION...: writes OUT/predictions/NAME.json before the mixes are measured
predict() {
  [ -z "${DRY:-}" ] || return 0
  if [ -d "$out/graphs" ]; then
    echo "$out/graphs: the pairs are there already; predictions come before them. Name another folder: OUT=..." >&2
    exit 1
  fi
  mkdir -p "$out/predictions"
  # shellcheck disable=SC2046  # one word a mix
  (cd "$root" && "$python" -m analysis.predict $($2) "${@:3}" --write "$out/predictions/$1.json" | tail -n 1)
  (cd "$out/predictions" && date -u +%FT%TZ && sha256sum "$1.json") | tee -a "$out/predictions/sha256.txt"
}
# learn NAME SWEEP...: OUT/learn-NAME has the committed pairs that were there before the test, and the runs of the sweeps
learn() {
  [ -z "${DRY:-}" ] || return 0
  local to=$out/learn-$1 part
  rm -rf "$to"
  for part in archive/h200-causal-masks results/pairs/six-more results/pairs/alone; do
    mkdir -p "$to/${part##*/}" && cp "$root/docs/$part/records"/* "$to/${part##*/}"
  done
  for part in "${@:2}"; do
    (cd "$root" && "$python" -m analysis.export --records "$out/$part" "$to/$part-new")
  done
}

case "${1:-}" in
  alone)
    alone lone execution=cuda_graph,eager mix="$(IFS=,; echo "${new[*]}")"
    predict graphs-alone graph_pairs "${graphs[@]}" --predictor "$here/graphs.json" --records "$out/lone"
    predict eager-alone eager_pairs "${eager[@]}" --predictor "$here/eager.json" --records "$out/lone"
    ;;
  probe)
    in_turns probe execution=cuda_graph mps_settings=default measure.max_time_s=1.5 mix="$(one_pair_each | commas)"
    learn one-pair lone probe
    predict graphs-one-pair graph_pairs "${under_mps[@]}" --records "$out/learn-one-pair"
    ;;
  stress)
    in_turns stress execution=cuda_graph mps_settings=default measure.max_time_s=1.5 mix="$(stressed | commas)"
    learn stress lone stress
    predict graphs-stress graph_pairs "${under_mps[@]}" --records "$out/learn-stress"
    ;;
  host)
    alone host execution=eager mix="$(IFS=,; echo "${sixteen[*]}")"
    learn host lone host
    rm -rf "${out:?}/learn-host/alone"  # of another host
    predict graphs-host graph_pairs "${under_mps[@]}" --records "$out/learn-host"
    ;;
  pairs)
    both=(mps_settings=disabled,default)
    in_turns graphs execution=cuda_graph "${both[@]}" measure.max_time_s=1.5 mix="$(graph_pairs | commas)"
    in_turns eager execution=eager "${both[@]}" measure.max_time_s=2 mix="$(eager_pairs | commas)"
    [ -n "${DRY:-}" ] || for file in "$out"/predictions/*.json; do
      case "$file" in */eager*) of=eager ;; *) of=graphs ;; esac
      echo "$file"
      (cd "$root" && "$python" -m analysis.predict --check "$file" --records "$out/$of")
    done
    ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
