#!/bin/bash
# Smoke test of a run config on CPU, of a model of yours for instance: its rows are prepared, it learns, two ranks come to
# what one process comes to, and a run that was cut goes on to the same end. Takes a minute or two; needs shardrec.
#   smoke.sh CONFIG [--set KEY=VALUE]...
# STEPS (40) are trained. Where the task has a normalised entropy, that of the test split must be below NE (1, which is
# what the base rate has).
set -euo pipefail
config=$1
settings=("${@:2}")
steps=${STEPS:-40} ne=${NE:-1}
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

said() { printf '\n=== %s\n' "$*"; }
trained() {
  local out=$1
  shift
  shardrec train "$config" "${settings[@]}" --data "$work/data" --out "$work/$out" \
    --set "train.max_steps=$steps" --set "train.checkpoint_every_steps=$((steps / 2))" "$@"
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
for name in sorted(set.intersection(*map(set, runs))):
    one, two, cut = (metrics[name] for metrics in runs)
    print(name, *(f"{value:.5f}" for value in (one, two, cut)), sep="\t")
    if not (math.isclose(one, two, rel_tol=0.01, abs_tol=0.002) and math.isclose(one, cut, rel_tol=1e-4, abs_tol=1e-5)):
        wrong.append(f"{name} differs")
if not runs[0].get("ne", 0) < limit:
    wrong.append(f"ne is not below {limit}: the model has not learnt")
sys.exit("\n".join(wrong) or None)
PYTHON
echo "smoke test passed"
