# A Docker workspace with AgentAPI and agentd. The image contains Coder's requirements, agentapi and agentd.
terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.13"
    }
    docker = {
      source  = "kreuzwerker/docker"
      version = ">= 3.0"
    }
  }
}

variable "image" {
  description = "Workspace image that contains agentapi and agentd."
  type        = string
  default     = "registry.example.com/workspace:1"
}

data "coder_workspace" "me" {}
data "coder_workspace_owner" "me" {}

resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"

  metadata {
    key          = "agentd"
    display_name = "agentd"
    script       = "agentd status --oneline"
    interval     = 10
    timeout      = 2
  }
}

module "agentd" {
  source   = "../.."
  agent_id = coder_agent.main.id
  grace_s  = 300
}

resource "docker_volume" "home" {
  name = "coder-${data.coder_workspace.me.id}-home"
  lifecycle {
    ignore_changes = all
  }
}

resource "docker_container" "workspace" {
  count      = data.coder_workspace.me.start_count
  image      = var.image
  name       = "coder-${data.coder_workspace_owner.me.name}-${lower(data.coder_workspace.me.name)}"
  hostname   = data.coder_workspace.me.name
  entrypoint = ["sh", "-c", coder_agent.main.init_script]
  env        = ["CODER_AGENT_TOKEN=${coder_agent.main.token}"]

  # The Coder agent runs the stop scripts on SIGINT. Docker's default of 10 s is too short for them.
  stop_signal           = "SIGINT"
  stop_timeout          = module.agentd.grace_s
  destroy_grace_seconds = module.agentd.grace_s

  # agentd's state is below the home directory, so the next container delivers what this one could not.
  volumes {
    container_path = "/home/coder"
    volume_name    = docker_volume.home.name
  }

  # The container's environment contains the agent's token, and a claim must not replace the container.
  lifecycle {
    ignore_changes = [env, name, hostname]
  }
}
