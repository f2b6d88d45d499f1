"""Model folders: headers, mapped tensors, weights, reading, writing, the hub, inspection, averaging."""
