# The body of the run_on_stop script: waits until the last messages are delivered or kept. Settings are exported above.
# The Coder agent signals no process that a script has started, and in a container everything dies with it: without this
# the daemon would never hear of the end. When no daemon runs, `stop` delivers by itself.
set -u
code=0
"$AGENTD" stop || code=$?
case "$code" in
  75) echo "agentd: coderd did not take the conversation; it is kept and goes out at the next start" ;;
  69) echo "agentd: there was nothing to deliver" ;;
  *) exit "$code" ;;
esac
