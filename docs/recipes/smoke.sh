#!/bin/bash
# Smoke test of a run config on CPU, of a model of yours for instance: its rows are prepared, it learns, two ranks come to
# what one process comes to, and a run that was cut goes on to the same end. Takes a minute or two; needs shardrec.
#   smoke.sh CONFIG [--set KEY=VALUE]...
# STEPS (40) are trained, of BATCH (256) rows each. Every normalised entropy of the test split must be below NE (1, which is
# what the base rate has).
set -euo pipefail
config=${1:?usage: smoke.sh CONFIG [--set KEY=VALUE]...}
settings=("${@:2}")
steps=${STEPS:-40} batch=${BATCH:-256} ne=${NE:-1}
half=$((steps / 2))
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

said() { printf '\n=== %s\n' "$*"; }
trained() {
  local out=$1
  shift
  # As many epochs as the steps need, and a checkpoint after half of them to go on from.
  shardrec train "$config" "${settings[@]}" --data "$work/data" --out "$work/$out" \
    --set "train.max_steps=$steps" --set "train.epochs=$steps" --set "train.global_batch_size=$batch" \
    --set "train.checkpoint_every_steps=$half" --set train.keep_checkpoints=100 --set train.early_stopping=null "$@"
  shardrec evaluate "$work/$out" --json | tail -n 1 > "$work/$out.json"
}

said "this machine and the config"
shardrec doctor --quick
shardrec config check "$config" "${settings[@]}"
said "rows"
shardrec prepare "$config" "${settings[@]}" --out "$work/data"
said "one process"
trained one
said "two ranks"
trained two --on local --ranks 2
said "one process, cut after half of the steps"
cp -r "$work/one" "$work/cut"
rm -r "$work/cut/checkpoints/step_$(printf '%08d' "$steps")"
trained cut --resume

said "compared"
python - "$ne" "$work"/{one,two,cut}.json <<'PYTHON'
import json, math, sys

limit, runs = float(sys.argv[1]), [json.load(open(path))["metrics"] for path in sys.argv[2:]]
print("", "one process", "two ranks", "cut", sep="\t")
wrong = []


def alike(one, other, rel, abs_):
    if one is None or other is None or math.isnan(one) or math.isnan(other):
        return str(one) == str(other)
    return math.isclose(one, other, rel_tol=rel, abs_tol=abs_)


for name in sorted(set.intersection(*map(set, runs))):
    one, two, cut = (metrics[name] for metrics in runs)
    print(name, *(value if value is None else f"{value:.5f}" for value in (one, two, cut)), sep="\t")
    if not (alike(one, two, 0.01, 0.002) and alike(one, cut, 1e-4, 1e-5)):
        wrong.append(f"{name} differs")
    if name.rpartition("/")[2] == "ne" and not (one is not None and one < limit):
        wrong.append(f"{name} is not below {limit}: the model has not learnt")
sys.exit("\n".join(wrong) or None)
PYTHON
echo "smoke test passed"
