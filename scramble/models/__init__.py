"""Running a checkpoint's transformers model, one decoder layer at a time."""
