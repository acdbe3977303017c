"""Training: one loop for the three phases; a phase says which tensors are trainable."""
