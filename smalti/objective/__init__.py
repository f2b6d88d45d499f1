"""The objective of training: the corruption of token grids, and the loss on them."""
