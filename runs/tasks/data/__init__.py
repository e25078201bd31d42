"""What a task asks and how answers are read: examples, rows, cells."""
