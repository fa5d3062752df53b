"""Published weights and the networks exported from them."""
