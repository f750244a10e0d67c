#!/usr/bin/env bash
# Write plan.md: what the FineTuneJobs that differ between two commits would change.
#
#   plan.sh BASE [OPTION...]
#
# BASE is the branch or commit that the merge request changes; the options are those of ftj plan. The
# plan compares with the manifests of BASE, and PLAN_STATE can name a file with the settings,
# profiles and budgets of the cluster, which can be missing. With PLAN_CLUSTER=1, it compares with
# the cluster of the kubeconfig. Exit code: 0 if the jobs can be merged, otherwise that of ftj plan.
set -euo pipefail

base=$(git merge-base "$1" HEAD)
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

changed() { git diff --name-only --no-renames -z --diff-filter="$1" "$base" HEAD -- '*.yaml' '*.yml'; }
# Also objects in lists, which are indented, and in JSON; not targets of patches, without apiVersion.
has() {
  local text key="^([^#]*[-{,[:space:]])?[\"']?"
  text=$(cat)
  grep -qE "${key}apiVersion[\"']?: *[\"']?finetune\\.dev/" <<<"$text" &&
    grep -qE "${key}kind[\"']?: *[\"']?FineTune($1)\\b" <<<"$text"
}
append() { { echo ---; cat -- "$1"; } >>"$2"; }

# The manifests of the branch, and the former ones, also of files that it has moved.
files=() former=() profiles=
while IFS= read -r -d '' file; do
  if has 'Job|Profile' <"$file"; then files+=(-f "$file"); fi
  if has Profile <"$file"; then profiles=yes; fi
done < <(changed AM)
while IFS= read -r -d '' file; do
  git show "$base:$file" >"$work/one"
  if has 'Job|Profile' <"$work/one"; then
    append "$work/one" "$work/former.yaml"
    former=(--former "$work/former.yaml")
    if has Profile <"$work/one"; then profiles=yes; fi
  fi
done < <(changed MD)

if [ ${#files[@]} -eq 0 ] && [ ${#former[@]} -eq 0 ]; then
  printf '<!-- ftj plan -->\n%s\n' 'No FineTuneJob changes.' >plan.md
  exit 0
fi
if [ -z "${PLAN_CLUSTER:-}" ]; then
  if [ ${#former[@]} -gt 0 ]; then cp "$work/former.yaml" "$work/base.yaml"; fi
  if [ -n "$profiles" ]; then
    # A profile affects jobs whose manifests do not change. Templates cannot be read.
    while IFS= read -r -d '' file; do
      git show "$base:$file" >"$work/one"
      if has Job <"$work/one" && ! grep -q '{{' "$work/one"; then
        append "$work/one" "$work/base.yaml"
      fi
    done < <(git ls-tree -r --name-only -z "$base" | grep -zE '\.ya?ml$')
  fi
  if [ -f "${PLAN_STATE:-}" ]; then
    append "$PLAN_STATE" "$work/base.yaml"
  elif [ -n "${PLAN_STATE:-}" ]; then
    echo "plan.sh: there is no file $PLAN_STATE, so limits and budgets are unknown" >&2
  fi
  touch "$work/base.yaml"
  set -- --state "$work/base.yaml" "$@"
fi

code=0
ftj plan "${files[@]}" "${former[@]}" "$@" -o markdown >plan.md || code=$?
case $code in
  0 | 3) exit 0 ;; # 3: a job is trained, which the reviewers see in plan.md
  *) exit "$code" ;;
esac
