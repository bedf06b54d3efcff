"""The one reader of MMEngine configs."""
