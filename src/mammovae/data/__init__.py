"""Raw files to a DATA folder: sources, index, reading, the breast, prepare, splits, tensors."""
