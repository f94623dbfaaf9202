# A Kubernetes workspace with AgentAPI and agentd in one container. For agentd in its own container, see
# ../../../kubernetes/native-sidecar.yaml.
terraform {
  required_providers {
    coder = {
      source  = "coder/coder"
      version = ">= 2.13"
    }
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = ">= 2.20"
    }
  }
}

variable "namespace" {
  description = "Namespace of the workspaces."
  type        = string
  default     = "coder-workspaces"
}

variable "image" {
  description = "Workspace image that contains agentapi and agentd."
  type        = string
  default     = "registry.example.com/workspace:1"
}

data "coder_workspace" "me" {}

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

resource "kubernetes_persistent_volume_claim_v1" "home" {
  metadata {
    name      = "coder-${data.coder_workspace.me.id}-home"
    namespace = var.namespace
  }
  wait_until_bound = false
  spec {
    access_modes = ["ReadWriteOnce"]
    resources {
      requests = { storage = "10Gi" }
    }
  }
}

resource "kubernetes_pod_v1" "workspace" {
  count = data.coder_workspace.me.start_count
  metadata {
    name      = "coder-${data.coder_workspace.me.id}"
    namespace = var.namespace
  }

  spec {
    # The time between SIGTERM and SIGKILL; the default is 30 s.
    termination_grace_period_seconds = module.agentd.grace_s

    security_context {
      run_as_user     = 1000
      run_as_non_root = true
      fs_group        = 1000
    }

    container {
      name    = "workspace"
      image   = var.image
      command = ["sh", "-c", coder_agent.main.init_script]

      env {
        name  = "CODER_AGENT_TOKEN"
        value = coder_agent.main.token
      }

      # agentd's state is below the home directory, so the next pod delivers what this one could not.
      volume_mount {
        name       = "home"
        mount_path = "/home/coder"
      }
    }

    volume {
      name = "home"
      persistent_volume_claim {
        claim_name = kubernetes_persistent_volume_claim_v1.home.metadata[0].name
      }
    }
  }

  # Longer than the grace period, otherwise Terraform reports a failure while agentd still delivers.
  timeouts {
    delete = "6m"
  }

  lifecycle {
    ignore_changes = [spec[0].container[0].env]
  }
}
