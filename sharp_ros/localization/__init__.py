"""Where the camera is, and metric scale."""
