"""The networks: image and intrinsics in, Gaussians out."""
