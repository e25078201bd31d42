"""Where in a matrix training acted: consensus of runs, rates by row and column, stripes beyond chance."""
