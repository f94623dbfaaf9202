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
  # Outside a task the provider returns a random id, and coderd would answer every snapshot with 404.
  task_id = data.coder_task.me.enabled ? data.coder_task.me.id : ""

  # The Coder agent also needs time: before the stop scripts it waits up to 5 s for SSH sessions, and after
  # them about 1 s for its own exit. Docker's default of 10 s leaves 4 s.
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

  # Every script already has the token and the URL in its environment. Quoted for sh; an empty value counts as
  # unset.
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

# All stop scripts of a workspace run at the same time, also that of AgentAPI. If AgentAPI stops first, agentd
# delivers the messages that it has already read.
resource "coder_script" "stop" {
  agent_id     = var.agent_id
  display_name = "agentd stop"
  icon         = "/icon/coder.svg"
  run_on_stop  = true
  # A script without a timeout can block the stop without end. agentd itself ends within its budget.
  timeout = local.budget_s + 5
  script = join("\n", concat(["#!/bin/sh"], local.exports, [
    "AGENTD='${replace(var.agentd, "'", "'\\''")}'",
    file("${path.module}/stop.sh"),
  ]))
}
