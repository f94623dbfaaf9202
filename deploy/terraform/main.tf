terraform {
  required_version = ">= 1.3"
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.13"
    }
  }
}

data "coder_task" "me" {}

locals {
  # Outside a task the provider makes up a random id; coderd would answer every snapshot with 404.
  task_id = data.coder_task.me.enabled ? data.coder_task.me.id : ""

  # Stopping is not ours alone: before the stop scripts the Coder agent gives SSH sessions up to 5 s, and after them it
  # needs a moment for its own goodbye. Docker's default of 10 s leaves us 4.
  budget_s = max(2, min(var.shutdown_budget_s, var.grace_s - 6))

  settings = merge(
    {
      AGENTD_AGENTAPI_URL      = var.agentapi_url
      AGENTD_CLAIMS_HOOKS_DIR  = var.hooks_dir
      AGENTD_SHUTDOWN_BUDGET_S = tostring(local.budget_s)
      AGENTD_SNAPSHOTS_TASK_ID = local.task_id
    },
    var.settings,
  )

  # The token and the URL are in every script's environment already. Quoted for sh; an empty value counts as unset.
  exports = [
    for name, value in local.settings : "export ${name}='${replace(value, "'", "'\\''")}'" if value != ""
  ]
}

resource "coder_script" "start" {
  agent_id           = var.agent_id
  display_name       = "agentd"
  icon               = "/icon/coder.svg"
  run_on_start       = true
  start_blocks_login = false
  script = join("\n", concat(["#!/bin/sh"], local.exports, [
    "AGENTD='${replace(var.agentd, "'", "'\\''")}'",
    file("${path.module}/start.sh"),
  ]))
}

# Stop scripts of a workspace run at the same time as this one, AgentAPI's own among them: what counts is in agentd's
# memory and on its disk by then.
resource "coder_script" "stop" {
  agent_id     = var.agent_id
  display_name = "agentd stop"
  icon         = "/icon/coder.svg"
  run_on_stop  = true
  # A script without a limit may hold the stop up for ever; agentd ends within its budget by itself.
  timeout = local.budget_s + 5
  script = join("\n", concat(["#!/bin/sh"], local.exports, [
    "AGENTD='${replace(var.agentd, "'", "'\\''")}'",
    file("${path.module}/stop.sh"),
  ]))
}
