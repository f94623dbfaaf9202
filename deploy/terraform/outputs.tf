output "grace_s" {
  description = "For stop_timeout and destroy_grace_seconds (Docker) or termination_grace_period_seconds (Kubernetes)."
  value       = var.grace_s
}

output "task_id" {
  description = "Id of the Coder task, empty outside a task."
  value       = local.task_id
}
