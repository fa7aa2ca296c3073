"""The decoder: its layers, its kernels, its loss and its initial weights."""
