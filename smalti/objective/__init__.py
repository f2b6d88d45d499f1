"""What training minimises: the corruption of token grids, and the loss on them."""
