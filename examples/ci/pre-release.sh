#!/usr/bin/env bash
# Audits a model before it is released, and leaves evidence that can be signed:
#
#     pre-release.sh MODEL DATA CONTROLS OUT [more flags of memaudit scan]
#
# Exits as memaudit scan does: 0 passed, 1 a gate failed, 2 wrong input, 3 the run failed, 4 too
# little data to decide; 1 where the model or the data changed under the audit, and 4 where that
# could not be checked. MAX_EXACT is the share of samples that may be extracted, 0.01 where it is
# not set. With SIGNING_KEY, the manifest is signed by that key of gpg.
set -euo pipefail

if (($# < 4)); then
    echo "usage: pre-release.sh MODEL DATA CONTROLS OUT [flags]" >&2
    exit 2
fi
model=$1 data=$2 controls=$3 out=$4
shift 4

verdict=0
memaudit scan "$model" "$data" --controls "$controls" --out "$out" \
    --max-exact "${MAX_EXACT:-0.01}" "$@" || verdict=$?
case "$verdict" in
    0 | 1 | 4) ;;
    *) exit "$verdict" ;; # what lies in OUT, if anything, is not of this scan
esac

# Nothing may have changed under the audit: neither the model nor the data.
memaudit verify --strict "$out" --model "$model" --data "$data" --controls "$controls"
if [[ -n "${SIGNING_KEY:-}" ]]; then
    gpg --batch --local-user "$SIGNING_KEY" --armor --detach-sign "$out/manifest.json"
fi
exit "$verdict"
