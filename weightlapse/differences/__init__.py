"""What differs between two networks, tensor by tensor, in words."""
