"""What the commands do, as functions: apply, invert, fold, verify, compose."""
