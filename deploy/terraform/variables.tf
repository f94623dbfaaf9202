variable "agent_id" {
  description = "Id of the coder_agent that agentd runs beside."
  type        = string
}

variable "agentd" {
  description = "The agentd program: a name on the PATH or an absolute path."
  type        = string
  default     = "agentd"
}

variable "agentapi_url" {
  description = "URL of AgentAPI inside the workspace."
  type        = string
  default     = "http://localhost:3284"
}

variable "hooks_dir" {
  description = "Hooks directory. Executables in its on-claim.d/ run when a prebuilt workspace is claimed."
  type        = string
  default     = "/etc/agentd/hooks"
}

variable "grace_s" {
  description = <<-EOT
    Seconds between SIGTERM and SIGKILL. Use the output of the same name as the stop timeout of the container or
    machine. The default of Docker is 10, that of Kubernetes 30; Coder recommends five minutes for tasks.
  EOT
  type        = number
  default     = 300

  validation {
    condition     = var.grace_s >= 10
    error_message = "grace_s must be at least 10: a shorter stop cannot deliver a conversation reliably."
  }
}

variable "shutdown_budget_s" {
  description = "Maximum seconds for the delivery of the last messages. It is reduced if grace_s is too short."
  type        = number
  default     = 30
}

variable "settings" {
  description = "More settings by environment variable, such as { AGENTD_LOG_LEVEL = \"debug\" }; see docs/configuration.md."
  type        = map(string)
  default     = {}
}
