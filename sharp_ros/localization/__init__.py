"""Where the camera is, and how long a metre is."""
