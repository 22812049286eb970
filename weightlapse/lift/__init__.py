"""Networks that write the weights of networks."""
