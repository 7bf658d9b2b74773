"""Training: objectives, schedules, the loop, evaluation, and runs in a folder."""
