"""Maps in the world frame."""
