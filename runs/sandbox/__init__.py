"""Programs that are not trusted, with tests: isolated and limited."""
