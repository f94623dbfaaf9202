variable "agent_id" {
  description = "Id of the coder_agent that agentd runs beside."
  type        = string
}

variable "agentd" {
  description = "The program: a name on the PATH or an absolute path."
  type        = string
  default     = "agentd"
}

variable "agentapi_url" {
  description = "Where AgentAPI listens inside the workspace."
  type        = string
  default     = "http://localhost:3284"
}

variable "hooks_dir" {
  description = "Folder whose on-claim.d/ holds the scripts to run when a prebuilt workspace is claimed."
  type        = string
  default     = "/etc/agentd/hooks"
}

variable "grace_s" {
  description = <<-EOT
    Seconds between the signal and the end, as the template grants them to the container or machine: use the output of
    the same name there. Docker's default is 10, Kubernetes' 30; Coder recommends five minutes for tasks.
  EOT
  type        = number
  default     = 300

  validation {
    condition     = var.grace_s >= 10
    error_message = "Below 10 s no conversation can be delivered reliably."
  }
}

variable "shutdown_budget_s" {
  description = "The most a stop may spend on delivering the last messages. Less is taken where grace_s leaves less."
  type        = number
  default     = 30
}

variable "settings" {
  description = "Further settings by environment name, such as { AGENTD_LOG_LEVEL = \"debug\" }; see docs/configuration.md."
  type        = map(string)
  default     = {}
}
