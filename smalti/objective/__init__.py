"""What training minimises: corruption of token grids, and the loss on them."""
