"""Tables, figures and pages, for terminals, files and browsers."""
