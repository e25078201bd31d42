"""Tables that several families share."""
