#!/usr/bin/env bash
# Write plan.md: what the FineTuneJobs that differ between two commits would change.
#
#   plan.sh BASE [OPTION...]
#
# BASE is the branch or commit that the merge request changes; the options are those of ftj plan. The
# plan compares with the manifests of BASE, and PLAN_STATE can name a file with the settings,
# profiles and budgets of the cluster, which can be missing. With PLAN_CLUSTER=1, it compares with the cluster of the
# kubeconfig. Exit code: 0 if the jobs can be merged, otherwise that of ftj plan.
set -euo pipefail

base=$(git merge-base "$1" HEAD)
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

changed() { git diff --name-only --no-renames -z --diff-filter="$1" "$base" HEAD -- '*.yaml' '*.yml'; }
has_jobs() { grep -qE '^kind: *"?FineTune(Job|Profile)'; }

# The manifests of the branch, and the former ones, also of files that it has moved.
files=()
while IFS= read -r -d '' file; do
  if has_jobs <"$file"; then files+=(-f "$file"); fi
done < <(changed AM)
while IFS= read -r -d '' file; do
  git show "$base:$file" >"$work/former"
  if has_jobs <"$work/former"; then { echo ---; cat "$work/former"; } >>"$work/base.yaml"; fi
done < <(changed MD)

if [ ${#files[@]} -eq 0 ]; then
  printf '<!-- ftj plan -->\nNo FineTuneJob changes.\n' >plan.md
  exit 0
fi
if [ -z "${PLAN_CLUSTER:-}" ]; then
  if [ -f "${PLAN_STATE:-}" ]; then
    { echo ---; cat -- "$PLAN_STATE"; } >>"$work/base.yaml"
  elif [ -n "${PLAN_STATE:-}" ]; then
    echo "plan.sh: there is no file $PLAN_STATE, so limits and budgets are unknown" >&2
  fi
  touch "$work/base.yaml"
  set -- --state "$work/base.yaml" "$@"
fi

code=0
ftj plan "${files[@]}" "$@" -o markdown >plan.md || code=$?
case $code in
  0 | 3) exit 0 ;; # 3: a job is trained, which the reviewers see in plan.md
  *) exit "$code" ;;
esac
