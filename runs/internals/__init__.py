"""What libraries of training do not promise to keep, one module a library: nothing else reaches into them."""
