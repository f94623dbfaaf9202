# Body of the run_on_stop script: waits until the last messages are delivered or in the spool. The lines
# before it export the settings. The Coder agent does not forward signals to processes that a script has
# started, so without this script agentd would get SIGKILL and never SIGTERM. If no daemon runs, `agentd stop`
# itself delivers.
set -u
code=0
"$AGENTD" stop || code=$?
case "$code" in
  75) echo "agentd: the conversation is not delivered everywhere; it stays in the spool, and the next start tries again" ;;
  69) echo "agentd: nothing to deliver: the agent does not answer and the spool is empty" ;;
  *) exit "$code" ;;
esac
