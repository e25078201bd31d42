"""Training, evaluation, and what is written meanwhile."""
