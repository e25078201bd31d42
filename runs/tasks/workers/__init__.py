"""Child processes that check answers and make prompts."""
