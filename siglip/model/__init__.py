"""The architecture: layers, the two towers, and the published sizes."""
