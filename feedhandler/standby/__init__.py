"""The second daemon on a host: it follows the active one's output, and takes over where that ends."""
