"""Training: ALIKED's losses, image pairs with known correspondences, fine-tuning."""
