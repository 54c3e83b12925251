"""What operators see: notes become metrics and log lines here, and nowhere else."""
