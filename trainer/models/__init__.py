"""The model families, one file each; `trainer.registry` finds them."""
