"""Run folders, and what they say."""
