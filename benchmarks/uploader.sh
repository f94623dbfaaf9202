#!/usr/bin/env bash
# A stop script without agentd: fetch the history, keep the last ten messages, drop the oldest until they fit,
# post them once. For the comparison in uploader.py; needs curl and jq.
#
#     AGENTAPI_URL=… CODER_URL=… TOKEN=… TASK_ID=… benchmarks/uploader.sh
set -u
limit=65536
keep_chars=57344
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT

curl --silent --fail --max-time 10 --output "$folder/history" "$AGENTAPI_URL/messages" || {
  echo "cannot read the messages" >&2
  exit 1
}
jq '{messages: (.messages | .[-10:])}' "$folder/history" >"$folder/payload" || exit 1
count=$(jq '.messages | length' "$folder/payload")
if [ "$count" -eq 0 ]; then
  echo "no messages" >&2
  exit 0
fi
while [ "$(wc -c <"$folder/payload")" -gt "$limit" ] && [ "$count" -gt 1 ]; do
  jq '.messages |= .[1:]' "$folder/payload" >"$folder/next" && mv "$folder/next" "$folder/payload"
  count=$((count - 1))
done
if [ "$(wc -c <"$folder/payload")" -gt "$limit" ]; then
  jq --argjson keep "$keep_chars" '.messages[0].content |= "[cut]\n" + .[-$keep:]' "$folder/payload" >"$folder/next" &&
    mv "$folder/next" "$folder/payload"
fi
if [ "$(wc -c <"$folder/payload")" -gt "$limit" ]; then
  echo "still too large, giving up" >&2
  exit 1
fi
status=$(curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' \
  --header "Coder-Session-Token: $TOKEN" --header 'Content-Type: application/json' --data-binary "@$folder/payload" \
  "$CODER_URL/api/v2/workspaceagents/me/tasks/$TASK_ID/log-snapshot?format=agentapi")
[ "$status" = 204 ] || {
  echo "coderd answered $status" >&2
  exit 1
}
