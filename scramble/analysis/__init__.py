"""The measures as functions: a checkpoint pair or several in, a data frame out."""
