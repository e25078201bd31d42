"""Group elements chosen, drawn, recorded and applied to stored tensors."""
