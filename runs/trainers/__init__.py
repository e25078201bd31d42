"""What TRL's trainers and torch's optimizers lack. Importing these imports TRL or torch."""
