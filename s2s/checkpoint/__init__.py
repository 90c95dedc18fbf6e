"""Reading checkpoints: finding and verifying them, and loading their models. Training writes them."""
