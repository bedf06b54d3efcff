"""Whether the score falls in a long second stage, docs/fall.md."""
